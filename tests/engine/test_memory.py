"""Memory that runs out: what is said, and what `auto_batch` does about it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from seqtune.engine import batching, loop, loss, memory, speed
from seqtune.errors import RunError
from small_training import Setup, weights_of, without_dropout


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup("t5", tmp_path_factory.mktemp("model"))


def room_for(rows: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every forward pass over more rows than that fail as PyTorch's does; the rows of the others are noted."""
    plain, seen = loss.forward, []

    def forward(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if torch.is_grad_enabled():
            if len(batch["labels"]) > rows:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
            seen.append(len(batch["labels"]))
        return plain(model, batch)

    monkeypatch.setattr(loss, "forward", forward)
    return seen


def test_the_passes_are_halved_and_the_losses_stay(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = {"max_steps": 4, "per_device_train_batch_size": 8, "auto_batch": True}
    expected = setup.train(without_dropout(setup.adapted()), **knobs)
    seen = room_for(2, monkeypatch)
    model = without_dropout(setup.adapted())
    state = setup.train(model, **knobs)
    assert seen[:4] == [2, 2, 2, 2]
    assert max(seen) == 2
    assert state.rows_per_pass == 2
    for before, after in zip(expected.log[1:], state.log[1:], strict=True):
        assert before["loss"] == pytest.approx(after["loss"], rel=1e-5)
    assert all(torch.isfinite(weight).all() for weight in weights_of(model).values())


def test_memory_kept_for_speed_goes_before_anything_else(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """As recorded passes on a GPU are: the same rows again without them, and the losses stay."""
    knobs = {"max_steps": 3, "per_device_train_batch_size": 8, "auto_batch": True, "engine": "reference"}
    expected = setup.train(without_dropout(setup.adapted()), **knobs)
    kept = [True]

    def forward(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if torch.is_grad_enabled() and kept and len(batch["labels"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return loss.forward(model, batch)

    paths = speed.FastPaths(forward, speed.Dice(0), lambda: bool(kept) and kept.pop())
    monkeypatch.setattr(loop, "_paths", lambda *_: paths)
    state = setup.train(without_dropout(setup.adapted()), **knobs)
    assert not kept
    assert state.rows_per_pass == 0
    assert [line.get("loss") for line in state.log] == [line.get("loss") for line in expected.log]


@pytest.mark.parametrize(("auto_batch", "rows"), [(False, 8), (True, 1)])
def test_the_error_says_what_was_done_and_what_helps(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, auto_batch: bool, rows: int
) -> None:
    room_for(0, monkeypatch)
    with pytest.raises(RunError) as caught:
        setup.train(setup.adapted(), max_steps=2, per_device_train_batch_size=8, auto_batch=auto_batch)
    text = str(caught.value)
    assert text.startswith("out of memory in step 1 of training\n")
    assert re.search(rf"the pass: {rows} rows?, the longest with \d+ source and \d+ target tokens", text)
    assert "GiB free now" in text
    assert ("--per-device-train-batch-size (now 8;" in text) == (rows > 1)
    assert "--max-source-length" in text


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_estimate_is_what_a_pass_keeps(family: str, tmp_path: Path) -> None:
    setup = Setup(family, tmp_path)
    model = setup.adapted().train()
    rows = [max(setup.rows, key=lambda row: len(row["input_ids"]))] * 6
    kept = memory.saved_bytes(model, batching.collate(rows, 0), loss.forward)
    estimate = memory.needed_by(model, rows, setup.rows, 0, loss.forward)
    assert estimate is not None
    assert 0.6 * kept < estimate < 1.3 * kept
    tiny_batch = batching.collate(rows[:1], 0)
    assert memory.saved_bytes(model, tiny_batch, loss.forward) < kept / 4


SCRIPT = """
import resource, sys
from pathlib import Path
import psutil, torch
from seqtune.errors import RunError
from small_training import Setup
torch.set_num_threads(1)
setup = Setup("t5", Path(sys.argv[1]))
setup.train(setup.adapted(), max_steps=1)  # whatever is loaded on the way is there now
long = {"input_ids": setup.rows[0]["input_ids"] * 100, "labels": setup.rows[0]["labels"] * 40}
setup.rows[:11] = [long] * 11  # 1.9 GiB
limit = psutil.Process().memory_info().vms + 300 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    setup.train(setup.adapted(), max_steps=1, per_device_train_batch_size=12)
except RunError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits a process's memory so")
def test_memory_that_really_runs_out(tmp_path: Path) -> None:
    places = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": places},
    )
    assert done.stdout.startswith("out of memory in step 1 of training"), done.stdout + done.stderr[-2000:]
    assert "it keeps about" in done.stdout
