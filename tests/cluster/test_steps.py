"""The dataflow in two halves, with the training between them sent as bytes: the run that a plain one is."""

from __future__ import annotations

import gc
import importlib.util
import weakref
from pathlib import Path
from typing import Any

import pytest

import seqtune
from seqtune import planning
from seqtune.cluster.steps import Halves
from seqtune.data import readers
from seqtune.engine.checkpoint import Checkpoints
from seqtune.engine.job import Job
from seqtune.errors import InputError, RunError
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


def test_sharded_the_base_is_let_go_for_the_training(inputs: dict[str, Any], tmp_path: Path):
    """And is there again for the answers: in the machine's memory, as no device need hold it."""
    given = {**inputs, "work_dir": str(tmp_path), "shard_base": True}
    halves = Halves({**given, "shard_base": "yes"})
    assert halves.found["training_settings"]["engine"] == "reference"
    held = weakref.ref(halves.found["base_model"])
    job, known = halves.job(), dict(halves.found)
    assert halves.base_model() is None
    for name in known.keys() - halves.found.keys():
        del known[name]
    gc.collect()
    assert held() is None
    again = halves.driver.execute(["base_model"], inputs=halves.inputs, overrides=known)["base_model"]
    assert next(again.parameters()).device.type == "cpu"
    assert Halves({**inputs, "work_dir": str(tmp_path)}).base_model() is not None
    with pytest.raises(InputError, match="shard_base = yes") as caught:
        job.train()
    assert caught.value.details == ["one process alone   it takes several that share the weights"]


def test_sharded_by_one_process_is_refused_at_once(inputs: dict[str, Any], tmp_path: Path):
    for given in ({}, {"on": "ray", "workers": 1}):
        if given and importlib.util.find_spec("ray") is None:
            continue
        with pytest.raises(InputError, match="shard_base = yes"):
            seqtune.finetune(**inputs, **given, shard_base=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="shard_base = yes"):
        planning.plan(inputs["data_path"], shard_base=True)


def test_another_base_model_on_another_machine(inputs: dict[str, Any], tmp_path: Path):
    job = Halves({**inputs, "work_dir": str(tmp_path)}).job()
    content = job.as_bytes().replace(job.base.sha256.encode(), b"0" * 64)
    with pytest.raises(RunError, match="not the base model of the first process"):
        Job.of_bytes(content).train()
