"""The dataflow in two halves, with the training between them sent as bytes: the run that a plain one is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import seqtune
from seqtune.cluster.steps import Halves
from seqtune.data import readers
from seqtune.engine.checkpoint import Checkpoints
from seqtune.engine.job import Job
from seqtune.errors import RunError
from seqtune.run import Run


@pytest.fixture(scope="module")
def inputs(rows_file: Path, tiny_t5: Path) -> dict[str, Any]:
    return {
        "data_path": str(rows_file),
        "model_id": str(tiny_t5),
        "max_steps": 4,
        "max_new_tokens": 4,
        "bootstrap_samples": 100,
        "device_type": "cpu",
    }


def test_in_halves_is_the_plain_run(inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = seqtune.finetune(**inputs, out=tmp_path / "plain")
    reads: list[Any] = []
    read = readers.read
    monkeypatch.setattr(readers, "read", lambda *a: reads.append(a) or read(*a))
    halves = Halves({**inputs, "out": str(tmp_path / "halves"), "work_dir": str(tmp_path / "work")})
    job = Job.of_bytes(halves.job().as_bytes())
    assert job == halves.job()
    model, state = job.train(checkpoints=Checkpoints())  # reads the base model itself, as a worker does
    run = Run(halves.deliver(halves.keep(model, state)))
    assert len(reads) == 1
    assert run.manifest["adapter"]["sha256"] == plain.manifest["adapter"]["sha256"]
    assert run.metrics == plain.metrics
    assert run.manifest.keys() == plain.manifest.keys()
    assert run.predictions == plain.predictions
    assert sorted(path.name for path in run.path.iterdir()) == sorted(path.name for path in plain.path.iterdir())


def test_another_base_model_on_another_machine(inputs: dict[str, Any], tmp_path: Path):
    job = Halves({**inputs, "work_dir": str(tmp_path)}).job()
    content = job.as_bytes().replace(job.base.sha256.encode(), b"0" * 64)
    with pytest.raises(RunError, match="not the base model of the first process"):
        Job.of_bytes(content).train()
