"""What comes back of a training elsewhere, with a training in this process in the place of Ray's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest

import seqtune
from seqtune import progress
from seqtune.api import report
from seqtune.cluster import on_ray
from seqtune.engine.checkpoint import Checkpoints
from seqtune.engine.job import Job
from seqtune.errors import RunError
from seqtune.run import Run

SETTINGS: dict[str, Any] = {
    "max_steps": 6, "eval_steps": 2, "save_steps": 2, "max_new_tokens": 4, "bootstrap_samples": 100,
    "device_type": "cpu", "per_device_train_batch_size": 4, "early_stopping_patience": 0,
}  # fmt: skip


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What "Ray" says behind its training, which the test may change; it trains here."""
    more: list[dict[str, Any]] = []

    def heard(module: str, on: str, workers: int | None, told: dict[str, Any], log: Path) -> Iterator[dict[str, Any]]:
        log.touch()
        job = Job.of_bytes(Path(told["job"]).read_bytes())
        kept = Checkpoints(Path(told["checkpoints"]), told["save_steps"])
        _, state = Context().run(job.train, checkpoints=kept)  # out of sight of whoever looks on here
        yield {"what": "progress", "stage": "training", "done": 3, "total": 6, "unit": "steps", "figures": {}}
        yield {"what": "log", "lines": state.log[:4]}
        yield {"what": "log", "lines": state.log[2:]}  # one was lost at step 3, and step 2 was saved
        yield from more
        yield {"what": "trained", "step": state.step}

    monkeypatch.setattr(on_ray, "lines_of", heard)
    monkeypatch.setattr(on_ray, "check", lambda *_: None)
    return more


def test_the_log_comes_back_whole(lines: list[Any], rows_file: Path, tiny_t5: Path, tmp_path: Path):
    """To whoever looks on, `--live` and `--track` among them."""
    seen: list[list[dict[str, Any]]] = []

    def look(log: Sequence[dict[str, Any]], model: Any) -> None:
        assert model is None
        seen.append(list(log))

    out = tmp_path / "run"
    with progress.watching(look):
        run = seqtune.finetune(
            rows_file, model_id=str(tiny_t5), out=out, on="ray", live=True, track="tensorboard", **SETTINGS
        )
    assert len(list((tmp_path / "tensorboard" / "run").glob("*tfevents*"))) == 1
    assert [[line["step"] for line in log] for log in seen] == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6]]
    assert seen[-1] == run.log
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_that_stops_there_leaves_a_page_of_its_data(
    lines: list[Any], rows_file: Path, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(on_ray.Halves, "keep", lambda *_: (_ for _ in ()).throw(RunError("the disk is full")))
    out = tmp_path / "run"
    with pytest.raises(RunError, match="the disk is full"):
        seqtune.finetune(rows_file, model_id=str(tiny_t5), out=out, on="ray", **SETTINGS)
    known = json.loads((out / "checkpoints" / "facts.json").read_text())
    monkeypatch.undo()
    plain = Run(seqtune.resume(out).path)
    assert known["data"]["splits"] == plain.manifest["data"]["splits"]
    assert known["settings"]["max_steps"] == 6
    assert report(out).is_file()
