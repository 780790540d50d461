"""Several processes train what one trains: the same losses and adapter, whoever shares the rows."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_process import trained
from safetensors.torch import load_file
from test_loop import Setup, weights_of

from seqtune.engine import batching
from seqtune.engine.ranks import ALONE

STEPS = 8


def launch(size: int, model: Path, cases: list[dict[str, Any]], out: Path) -> None:
    """Run the cases in so many processes, one thread each.

    They now and then wait for each other for ever when they first meet (seen twice of some ten times on a busy machine;
    why is open): then they are started once more, at another port.
    """
    (out / "cases.json").write_text(json.dumps(cases))
    assert any(ended(size, model, out) for _ in range(3)), "three times the processes waited for each other"


def ended(size: int, model: Path, out: Path, patience: float = 150) -> bool:
    """Whether all came to their end; the words of one that failed are the failure of the test."""
    command = [sys.executable, str(Path(__file__).with_name("rank_process.py")), model, out / "cases.json", out]
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    shared = {
        **os.environ,
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)},
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(places),
    }
    errors = [out / f"errors{rank}.txt" for rank in range(size)]
    processes = []
    for rank, file in enumerate(errors):
        with file.open("w") as heard:
            process = subprocess.Popen([*map(str, command)], env={**shared, "RANK": str(rank)}, stderr=heard)
        processes.append(process)
    until = time.monotonic() + patience
    while any(p.poll() is None for p in processes) and not any(p.returncode for p in processes):
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    found = [process.poll() for process in processes]
    for process in processes:  # where one fails the others wait for it
        process.kill()
        process.wait()
    for status, file in zip(found, errors, strict=True):
        assert not status, file.read_text()
    return None not in found


def free_port() -> int:
    """A port that nobody listens at, below those that the system gives to whoever connects."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)):
                return port


def result(out: Path, name: str) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    return json.loads((out / f"{name}.json").read_text())["log"], load_file(out / f"{name}.safetensors")


def assert_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    """Losses to 1e-5, adapters to 1e-4 (in fp32, over so few steps)."""
    for a, b in zip(one[0], other[0], strict=True):
        for name in {"loss", "validation_loss"} & a.keys():
            assert b[name] == pytest.approx(a[name], abs=1e-5), a["step"]
        assert a.get("tokens") == b.get("tokens")
    for name, weight in one[1].items():
        torch.testing.assert_close(other[1][name], weight, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup("flan-t5", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of all the cases."""
    out = tmp_path_factory.mktemp("two")
    plain = {"max_steps": STEPS, "gradient_accumulation_steps": 1}
    dropped = {**plain, "dropout": True}
    cases = [
        {**plain, "name": "fast", "folder": str(out / "fast")},
        {**plain, "name": "reference", "engine": "reference"},
        {**dropped, "name": "whole"},
        {**dropped, "name": "whole-reference", "engine": "reference"},
        {**dropped, "name": "stopped", "folder": str(out / "stopped"), "signal_at": 4},
        {**dropped, "name": "gone-on", "folder": str(out / "stopped")},
        {**dropped, "name": "stopped-2", "folder": str(out / "r"), "signal_at": 4, "engine": "reference"},
        {**dropped, "name": "gone-on-reference", "folder": str(out / "r"), "engine": "reference"},
    ]
    launch(2, out / "model", cases, out)
    return out


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_two_are_one(two: Path, setup: Setup, engine: str):
    state, model = trained(setup, {"max_steps": STEPS, "engine": engine})
    assert len(state.log) == STEPS + 1
    assert_same((state.log, weights_of(model)), result(two, engine))


def test_four_are_one(setup: Setup, tmp_path: Path):
    """And where the last step of an epoch, of three rows, leaves one without any."""
    case = {"max_steps": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 5, "name": "four"}
    launch(4, tmp_path / "model", [case], tmp_path)
    state, model = trained(setup, {name: value for name, value in case.items() if name != "name"})
    assert_same((state.log, weights_of(model)), result(tmp_path, "four"))


def test_a_signal_to_one_stops_all(two: Path):
    assert json.loads((two / "stopped.json").read_text())["signals"] == 30.0  # SIGTERM, in both


@pytest.mark.parametrize(("whole", "gone_on"), [("whole", "gone-on"), ("whole-reference", "gone-on-reference")])
def test_stopped_and_gone_on_bit_for_bit(two: Path, whole: str, gone_on: str):
    """With as many processes as before, dropout included: nothing that a rank has is missing in the checkpoint."""
    (log, adapter), (log_2, adapter_2) = result(two, whole), result(two, gone_on)
    assert [line.get("loss") for line in log] == [line.get("loss") for line in log_2]
    assert [line.get("validation_loss") for line in log] == [line.get("validation_loss") for line in log_2]
    assert all(torch.equal(weight, adapter_2[name]) for name, weight in adapter.items())


def test_dropout_differs_between_ranks(two: Path):
    """With the same numbers in both, two would not be a larger batch but the same half twice."""
    log, _ = result(two, "whole")
    assert [line.get("loss") for line in log] != [line.get("loss") for line in result(two, "fast")[0]]
    from seqtune.engine.ranks import Ranks

    assert len({Ranks(rank, 4).seed(42) for rank in range(4)}) == 4
    assert Ranks(0, 4).seed(42) == ALONE.seed(42) == 42


def test_two_stopped_and_one_goes_on(two: Path, setup: Setup, tmp_path: Path):
    """The data come in the same order, so that it is the same run, to rounding; and the run says what has changed."""
    newest, before = sorted((two / "fast").glob("step-*"), reverse=True)
    shutil.copytree(before, tmp_path / before.name)
    assert newest.name == f"step-{STEPS:08}"
    assert int(before.name.removeprefix("step-")) == 6
    state, model = trained(setup, {"max_steps": STEPS, "folder": str(tmp_path)})
    assert state.resumed_at == [6]
    assert state.changes == ["ranks: was 2, is 1"]
    assert_same(result(two, "fast"), (state.log, weights_of(model)))


def test_shares_hold_as_many_tokens():
    lengths = [(1 + 7 * i % 61, 1 + 11 * i % 97) for i in range(64)]
    rows = list(range(0, 64, 2))
    for ranks in (2, 3, 8):
        dealt = batching.shares(rows, lengths, ranks)
        assert sorted(row for share in dealt for row in share) == rows
        held = [sum(sum(lengths[row]) for row in share) for share in dealt]
        assert max(held) <= sum(held) / ranks + max(sum(each) for each in lengths) / 3
    assert batching.shares([5, 3, 4], lengths, 1) == [[5, 3, 4]]
    assert sorted(map(len, batching.shares([5, 3], lengths, 4))) == [0, 0, 1, 1]
