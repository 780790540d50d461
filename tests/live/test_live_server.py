"""The page of a run at work: who may see it, what it says, and that text stays text there too."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seqtune.live.server import Server
from seqtune.live.state import State
from seqtune.progress import Progress

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from report_payloads import PAYLOADS


def sample(step: int, text: str = "text") -> dict[str, Any]:
    answer = {"input": text, "reference": text, "answer": f"{text} {step}"}
    return {"step": step, "validation_loss": 3.0 - step / 100, "answers": [answer] * 2}


def step(number: int) -> dict[str, Any]:
    return {"step": number, "loss": 3.0 - number / 100, "learning_rate": 1e-3, "tokens": 10, "seconds": 0.1}


@pytest.fixture
def state() -> State:
    found = State("a run")
    found.log = [{"step": 0, "validation_loss": 3.0}, *(step(number) for number in range(1, 11))]
    found.samples = [sample(0), sample(10)]
    found.advance(Progress("training", 10, 40, "steps", {"loss": 2.9}))
    return found


@pytest.fixture
def server(state: State) -> Iterator[Server]:
    with Server(state).running() as running:
        yield running


def get(server: Server, path: str, host: str | None = None, method: str = "GET") -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


def test_the_page_and_its_state(server: Server):
    status, headers, html = get(server, f"/{server.secret}/")
    assert status == 200
    assert "This run is at work" in html
    assert "connect-src &#39;self&#39;" in html
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    status, _, told = get(server, f"/{server.secret}/state?steps=3")
    found = json.loads(told)
    assert (found["stage"], found["done"], found["total"]) == ("training", 10, 40)
    assert found["curves"]["steps"] == list(range(1, 11))
    assert [each["step"] for each in found["samples"]] == [0, 10]


@pytest.mark.parametrize("path", ["/", "/state", "/x/", "/x/state", "//", "/%2e%2e/", "/%c3%a9/"])
def test_without_the_secret_there_is_nothing(server: Server, path: str):
    assert get(server, path)[0] == 404
    assert get(server, f"/{server.secret}/other")[0] == 404
    assert get(server, f"/{server.secret}")[0] == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", ""]
)
def test_another_host_is_refused(server: Server, host: str):
    assert get(server, f"/{server.secret}/", host=host.format(port=server.port) or "x")[0] == 403
    assert get(server, f"/{server.secret}/", host=f"localhost:{server.port}")[0] == 200


def test_it_listens_on_loopback_alone_and_only_shows(server: Server):
    assert server._http.server_address[0] == "127.0.0.1"
    assert get(server, f"/{server.secret}/", method="POST")[0] == 501


def test_the_page_moves(server: Server, state: State, opened: Callable[..., Any]):
    view = opened(server.address)
    view.until("document.querySelector('#stage').textContent === 'training: 10 of 40 steps'")
    assert view.page.is_visible("figure[data-chart=loss] .js-line")
    view.until("document.querySelector('#when-step').textContent.startsWith('step 10')")
    state.log = [*state.log, *(step(number) for number in range(11, 21))]
    state.samples = [*state.samples, sample(20)]
    state.advance(Progress("training", 20, 40, "steps", {"loss": 2.8}))
    view.until("data.curves.steps.length === 20")
    view.until("document.querySelector('#when-step').textContent.startsWith('step 20, validation loss 2.8')")
    view.page.fill("#when", "0")
    assert view.page.text_content("#when-step").startswith("step 0")
    state.finish("<!doctype html><html data-ready=yes><title>the report</title>")
    view.until("document.title === 'the report'")
    assert view.faults == []
    assert all(url.startswith(server.address) for url in view.requests)


def test_a_run_that_ended_is_said_to_have_ended(
    state: State, opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    with Server(state).running() as server:
        view = opened(server.address)
        view.until("document.querySelector('#stage').textContent.startsWith('training')")
    view.until("document.querySelector('#stage').textContent.startsWith('The run does not answer any more')")


def test_hostile_samples_are_text(server: Server, state: State, opened: Callable[..., Any]):
    state.name = PAYLOADS[0]
    state.samples = [
        {"step": 0, "validation_loss": 1.0, "answers": [{"input": p, "reference": p, "answer": p} for p in PAYLOADS]}
    ]
    view = opened(server.address)
    view.until(f"document.querySelectorAll('#sample-cards dl').length === {len(PAYLOADS)}")
    kinds = view.page.evaluate(
        "[...new Set([...document.querySelectorAll('#sample-cards *')].map((e) => e.tagName))].sort()"
    )
    assert set(kinds) <= {"DL", "DT", "DD", "INS", "DEL", "SPAN"}
    assert view.page.evaluate("window.ran") is None
    assert view.faults == []


def test_the_server_stays_until_an_open_page_has_the_report(server: Server, state: State):
    started = time.monotonic()
    server.part(5)
    assert time.monotonic() - started < 1  # nobody looks
    get(server, f"/{server.secret}/state")
    state.finish("<!doctype html>")
    threading.Timer(0.3, get, (server, f"/{server.secret}/")).start()
    server.part(5)
    assert 0.2 < time.monotonic() - started < 4


def test_a_long_log_is_not_drawn_at_every_question(state: State, monkeypatch: pytest.MonkeyPatch):
    clock = iter([100.0, 100.0, 101.0, 101.0, 101.5, 200.0, 200.0, 200.1, 200.1])  # a drawing of one second
    monkeypatch.setattr("seqtune.live.state.time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert len(json.loads(state.json())["curves"]["steps"]) == 10
    state.log = [*state.log, step(11)]
    assert len(json.loads(state.json())["curves"]["steps"]) == 10
    assert len(json.loads(state.json())["curves"]["steps"]) == 11
