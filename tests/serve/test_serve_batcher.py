"""Requests that wait, are answered together, are given up, fail, and outlive a shutdown."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from seqtune.generation import Answerer, Session
from seqtune.serve import running
from seqtune.serve.app import create_app
from serving_help import Served, chat, raw, serving, until

QUESTIONS = [f"How do I reset my password, {number} times?" for number in range(12)]


class Held:
    """Holds every step until it is let go; ``sizes`` are the numbers of answers of the steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.go, self.sizes = threading.Event(), []
        original = Session.step

        def step(session: Session) -> Any:
            self.sizes.append(len(session.answers))
            assert self.go.wait(30)
            return original(session)

        monkeypatch.setattr(Session, "step", step)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Held]:
    return lambda: Held(monkeypatch)


def asked(question: str, **fields: Any) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": question}], **fields)


def gone(served: Served) -> float:
    return served.app.watch.registry.get_sample_value("seqtune_clients_left_total") or 0


def test_answers_do_not_depend_on_their_company(shelf: Any, held: Callable[[], Held]):
    with serving(shelf, max_batch_size=2) as served, ThreadPoolExecutor(16) as pool:
        alone = [served.ask("/v1/chat/completions", asked(question))[2]["choices"] for question in QUESTIONS]
        steps = held()
        first = pool.submit(served.chat)
        until(lambda: steps.sizes == [1])
        others = [pool.submit(served.ask, "/v1/chat/completions", asked(question)) for question in QUESTIONS]
        until(lambda: len(served.batcher.waiting) == len(QUESTIONS))
        steps.go.set()
        assert first.result()[0] == 200
        assert [each.result()[2]["choices"] for each in others] == alone
        assert max(steps.sizes) == 8, "two long ones, or eight short ones"


def test_those_who_ask_otherwise_are_answered_beside_each_other(shelf: Any, held: Callable[[], Held]):
    kinds: list[dict[str, Any]] = [{}, {"max_tokens": 3}, {"stop": "x"}, {"model": "other"}, {"num_beams": 2}]
    kinds += [
        {"temperature": 1, "seed": 4},
        {"seed": 4},
        {"repetition_penalty": 1.2},
        {"temperature": 1, "num_beams": 2},
    ]
    with serving(shelf) as served, ThreadPoolExecutor(16) as pool:
        alone = [served.chat(**kind)[2]["choices"] for kind in kinds[:-1]]
        steps = held()
        pool.submit(served.chat)
        until(lambda: steps.sizes == [1])
        others = [pool.submit(served.chat, **kind) for kind in kinds]
        until(lambda: len(served.batcher.waiting) == len(kinds))
        steps.go.set()
        assert [each.result()[0] for each in others] == [200] * len(kinds)
        assert [each.result()[2]["choices"] for each in others[:-1]] == alone
        assert max(steps.sizes) >= 7


def test_a_long_answer_holds_nobody_up(shelf: Any):
    with serving(shelf) as served, ThreadPoolExecutor(4) as pool:
        long = pool.submit(served.chat, max_tokens=512)
        until(lambda: served.batcher.at_work() == 1)
        assert served.chat(max_tokens=2)[0] == 200
        assert not long.done()
        assert long.result()[2]["usage"]["completion_tokens"] == 512


def test_a_full_queue(shelf: Any, held: Callable[[], Held]):
    with serving(shelf, max_waiting=3) as served, ThreadPoolExecutor(8) as pool:
        steps = held()
        first = pool.submit(served.chat)
        until(lambda: steps.sizes == [1])
        waiting = [pool.submit(served.chat) for _ in range(3)]
        until(lambda: len(served.batcher.waiting) == 3)
        status, head, found = served.chat()
        assert (status, found["error"]["code"]) == (503, "queue_full")
        assert "3 of 3 places are taken" in found["error"]["message"]
        assert 1 <= int(head["retry-after"]) <= 10
        assert served.ask("/health")[0] == 200
        steps.go.set()
        assert [each.result()[0] for each in [first, *waiting]] == [200] * 4
        assert served.chat()[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_the_deadline(shelf: Any, held: Callable[[], Held], stream: bool):
    with serving(shelf, deadline=0.3) as served:
        steps = held()
        status, head, found = served.chat(stream=stream)
        if stream:
            assert status == 200
            *_, last = [event for event in found.split(b"\n\n") if event]
            error = json.loads(last.removeprefix(b"data: "))["error"]
        else:
            assert (status, "retry-after" in head) == (503, True)
            error = found["error"]
        assert error["message"] == "not answered within 0.3 seconds"
        assert error["code"] == "deadline_exceeded"
        steps.go.set()
        until(lambda: served.batcher.at_work() == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(shelf: Any, held: Callable[[], Held], stream: bool):
    with serving(shelf, max_waiting=1) as served, ThreadPoolExecutor(4) as pool:
        steps = held()
        first = pool.submit(served.chat)
        until(lambda: steps.sizes == [1])
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(raw(stream=stream))
            until(lambda: len(served.batcher.waiting) == 1)
        until(lambda: gone(served) == 1)
        second = pool.submit(served.chat)  # has the place
        until(lambda: len(served.batcher.waiting) == 1 and not served.batcher.waiting[0].gone)
        steps.go.set()
        assert [first.result()[0], second.result()[0]] == [200, 200]
        assert max(steps.sizes) == 2  # the one that left was never begun


def test_a_client_that_leaves_while_it_is_answered(shelf: Any, monkeypatch: pytest.MonkeyPatch):
    original = Session.step
    monkeypatch.setattr(Session, "step", lambda session: (time.sleep(0.005), original(session))[1])
    with serving(shelf) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(raw(stream=True, max_tokens=512))
            while b"data: " not in connection.recv(1000):
                pass
        until(lambda: gone(served) == 1)
        assert served.chat()[0] == 200
        until(lambda: served.batcher.at_work() == 0)
        tokens = served.app.watch.registry.get_sample_value("seqtune_tokens_total", {"model": "run", "side": "answer"})
        assert tokens < 512


def test_those_that_are_answered_alone_take_turns_with_the_others(shelf: Any):
    """Sampled beams are transformers' work: one such request, then a token for each of the others."""
    with serving(shelf) as served, ThreadPoolExecutor(4) as pool:
        long = pool.submit(served.chat, max_tokens=512)
        until(lambda: served.batcher.at_work() == 1)
        alone = [pool.submit(served.chat, temperature=1.0, num_beams=2, seed=number) for number in range(2)]
        assert [each.result()[0] for each in alone] == [200, 200]
        assert long.result()[2]["usage"]["completion_tokens"] == 512


def test_those_that_share_do_not_wait_for_the_end_of_one_that_is_answered_alone(shelf: Any):
    with serving(shelf) as served, ThreadPoolExecutor(2) as pool:
        expected = served.chat(max_tokens=8)[2]["choices"]
        alone = pool.submit(served.chat, temperature=1.0, num_beams=4, seed=1, max_tokens=512)
        until(lambda: served.batcher.at_work() == 1)
        assert served.chat(max_tokens=8)[2]["choices"] == expected
        assert not alone.done()
        assert served.app.watch.registry.get_sample_value("seqtune_waiting_requests") == 0
        status, _, answer = alone.result()
        assert status == 200
    with serving(shelf) as quiet:  # drawn the same, whoever was answered in between
        assert quiet.chat(temperature=1.0, num_beams=4, seed=1, max_tokens=512)[2]["choices"] == answer["choices"]


def test_many_that_are_answered_alone_take_nobodys_place(shelf: Any):
    with serving(shelf, max_batch_size=1) as served, ThreadPoolExecutor(2) as pool:
        expected = served.chat(max_tokens=8)[2]["choices"]
        alone = pool.submit(served.chat, temperature=1.0, num_beams=4, n=4, seed=1, max_tokens=300)
        until(lambda: served.batcher.apart is not None)
        assert served.chat(max_tokens=8)[2]["choices"] == expected
        assert len(served.batcher.waiting) == 3
        status, _, answer = alone.result()
        assert (status, len(answer["choices"])) == (200, 4)


def test_one_that_is_answered_alone_ends_when_its_client_leaves(shelf: Any):
    with serving(shelf) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(raw(temperature=1.0, num_beams=4, max_tokens=512))
            until(lambda: served.app.watch.registry.get_sample_value("seqtune_wait_seconds_count") == 1)
        until(lambda: gone(served) == 1)
        assert served.chat()[0] == 200
        tokens = served.app.watch.registry.get_sample_value("seqtune_tokens_total", {"model": "run", "side": "answer"})
        assert tokens < 512


def test_more_choices_than_may_ever_wait(shelf: Any):
    with serving(shelf, max_waiting=2) as served:
        status, _, found = served.chat(n=3)
        assert (status, found["error"]["param"]) == (422, "n")
        assert "3 choices: this server lets 2 wait" in found["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_batch_that_fails_fails_alone(shelf: Any, monkeypatch: pytest.MonkeyPatch, stream: bool):
    with serving(shelf) as served:
        with monkeypatch.context() as broken:
            broken.setattr(Session, "step", lambda _: 1 / 0)
            status, _, found = served.chat(stream=stream)
        assert status == (200 if stream else 500)
        assert b"ZeroDivisionError" in (found if stream else json.dumps(found).encode())
        assert served.chat()[0] == 200
        assert served.app.watch.registry.get_sample_value("seqtune_failures_total") == 1


def test_not_well_until_it_is_warm(shelf: Any, monkeypatch: pytest.MonkeyPatch):
    go = threading.Event()
    monkeypatch.setattr(Answerer, "answer", lambda *_, **__: go.wait(30))
    app = create_app(shelf, running.checked({}))
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/health").status_code == 503
        found = client.post("/v1/chat/completions", json=chat())
        assert (found.status_code, found.json()["error"]["code"]) == (503, "not_ready")
        go.set()
        until(lambda: client.get("/health").status_code == 200)


def test_a_model_that_can_not_answer_is_not_well(shelf: Any, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as broken:
        broken.setattr(Answerer, "answer", lambda *_, **__: 1 / 0)
        with serving(shelf) as served:
            assert served.ask("/health")[0] == 503
            status, _, found = served.chat()
    assert status == 503
    assert "could not answer when it was tried" in found["error"]["message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_shutdown_finishes_what_runs(runs: list[str], number: int, tmp_path: Path):
    arguments = [sys.executable, "-m", "seqtune", "serve", *runs, "--port", "0", "--device-type", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log, subprocess.Popen(arguments, stderr=log, env=environment) as process:
        try:
            until(lambda: "listening on" in (tmp_path / "log").read_text(), 60)
            address = (tmp_path / "log").read_text().partition("listening on ")[2].split()[0]
            served = Served(int(address.rsplit(":", 1)[1]), None)
            until(lambda: _is_well(served))
            with ThreadPoolExecutor(4) as pool:
                asked = [pool.submit(served.chat, max_tokens=512) for _ in range(3)]
                until(lambda: b"seqtune_running_requests 3.0" in served.ask("/metrics")[2])
                process.send_signal(number)
                assert [each.result()[0] for each in asked] == [200] * 3
            assert process.wait(30) == 128 + number
        finally:
            process.kill()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[-1] == "stopped"
    assert "Traceback" not in "".join(lines)


def _is_well(served: Served) -> bool:
    try:
        return served.ask("/health")[0] == 200
    except OSError:
        return False
