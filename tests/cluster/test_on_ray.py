"""Training on a Ray that is started here: the run that a plain one is; a worker killed; the cluster gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import seqtune
from seqtune.cluster import on_ray
from seqtune.cluster.storage import Storage, with_endpoint
from seqtune.errors import InputError, RunError
from seqtune.run import Run, is_unfinished

pytest.importorskip("ray", reason="Ray is not installed")


def test_a_failure_of_one_is_told_before_the_others_have_noticed(monkeypatch: pytest.MonkeyPatch):
    """They would wait for it for half an hour."""
    from ray.util.queue import Empty

    from seqtune.cluster import ray_driver

    told: list[dict[str, Any]] = []
    monkeypatch.setattr(ray_driver, "tell", lambda what, **more: told.append({"what": what, **more}))
    said = [{"what": "say", "text": "a"}, {"what": "failed", "headline": "no memory", "details": ["b"], "mend": "c"}]

    class Said:
        def get(self, timeout: float) -> dict[str, Any]:
            if not said:
                raise Empty
            return said.pop(0)

    block = ray_driver.hearing(Said())  # pyright: ignore[reportArgumentType]
    block.__enter__()
    until = time.monotonic() + 20
    while len(told) < 2 and time.monotonic() < until:  # the block goes on: nobody has ended it
        time.sleep(0.01)
    assert [line["what"] for line in told] == ["say", "failed"]
    with pytest.raises(RunError, match="no memory"):
        block.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("nodes", "asked", "found"),
    [
        ([{"CPU": 4.0}], {}, (1, 4)),
        ([{"CPU": 4.0}, {"CPU": 8.0}], {}, (2, 4)),
        ([{}, {"CPU": 4.0}], {}, (1, 4)),  # a head that gives none
        ([{"CPU": 2.0}], {"workers": 2}, (2, 1)),
        ([{"CPU": 2.0}], {"workers": 4}, "room for 2, by its CPUs"),
        ([{"CPU": 16.0, "GPU": 2.0}], {"gpu": True}, (2, 8)),
        ([{"CPU": 16.0, "GPU": 2.0}], {"gpu": True, "workers": 3}, "room for 2, by its GPUs"),
        ([{}], {}, "no machine with a CPU"),
    ],
)
def test_workers_and_their_threads(
    nodes: list[dict[str, float]], asked: dict[str, Any], found: Any, monkeypatch: pytest.MonkeyPatch
):
    from seqtune.cluster import ray_driver

    there = [{"Alive": True, "Resources": each} for each in nodes]
    monkeypatch.setattr(ray_driver.ray, "nodes", lambda: [*there, {"Alive": False, "Resources": {"CPU": 99.0}}])
    if isinstance(found, str):
        with pytest.raises(InputError, match=found):
            ray_driver._workers({"workers": None, **asked})
    else:
        assert ray_driver._workers({"workers": None, **asked}) == found


QUICK = {
    "max_steps": 60,
    "per_device_train_batch_size": 4,
    "eval_steps": 20,
    "max_new_tokens": 4,
    "bootstrap_samples": 100,
    "device_type": "cpu",
    "precision": "fp32",
    "lora_dropout": 0.0,
    "early_stopping_patience": 0,
    "save_steps": 4,
    "learning_rate": 1e-4,
}


@pytest.fixture(scope="module")
def still_t5(tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without dropout: then the number of workers does not matter."""
    folder = tmp_path_factory.mktemp("still")
    for path in tiny_t5.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.0}))
    return folder


@pytest.fixture(scope="module")
def plain(rows_file: Path, still_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return seqtune.finetune(rows_file, model_id=str(still_t5), out=tmp_path_factory.mktemp("plain") / "run", **QUICK)


@pytest.fixture
def started(request: pytest.FixtureRequest, rows_file: Path, still_t5: Path, tmp_path: Path) -> Iterator[Any]:
    """`seqtune finetune … --on ray --workers 2`, at work on `tmp_path/run`; its parameter: with an S3 server."""
    storage = ["--storage", request.getfixturevalue("bucket")] if getattr(request, "param", "") == "s3" else []
    options = [part for name, value in QUICK.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "seqtune", "finetune", str(rows_file), "--model-id", str(still_t5), *options]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "run"), "--on", "ray", "--workers", "2", *storage],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    yield process
    if process.poll() is None:
        process.terminate()
        process.communicate(timeout=300)


def ours(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    """Processes below this one whose command line has that in it."""
    found = []
    for each in psutil.Process(process.pid).children(recursive=True):
        try:
            if name in " ".join(each.cmdline()):
                found.append(each)
        except psutil.Error:  # it has just ended
            continue
    return found


def at_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until that step, or a later one, is saved."""
    until = time.monotonic() + 1800  # a loaded machine of two cores takes minutes to start a Ray
    while not any(int(path.name[5:]) >= step for path in out.glob("checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_worker_killed_and_the_run_is_the_plain_one(started: subprocess.Popen[str], plain: Run, tmp_path: Path):
    out = tmp_path / "run"
    at_step(out, 12, started)
    worker = next(each for each in ours(started, "ray::") if "TrainWorker" in " ".join(each.cmdline()))
    os.kill(worker.pid, signal.SIGKILL)
    said = started.communicate(timeout=1800)[0]
    assert started.returncode == 0, said
    run = Run(out)
    assert run.manifest["training"]["resumed_at"]
    assert run.manifest["training"]["best_validation_loss"] == pytest.approx(
        plain.manifest["training"]["best_validation_loss"], abs=1e-3
    )
    for name, value in plain.metrics["hold_out"]["tuned"].items():
        assert run.metrics["hold_out"]["tuned"][name] == pytest.approx(value, abs=0.01), name
    assert run.manifest["data"] == plain.manifest["data"]
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in plain.path.iterdir())
    assert len(run.log or []) == len(plain.log or [])


@pytest.mark.parametrize("started", ["s3"], indirect=True)
def test_checkpoints_on_s3(started: subprocess.Popen[str], plain: Run, bucket: str, tmp_path: Path):
    storage = Storage(with_endpoint(bucket))
    until = time.monotonic() + 1800
    while max(storage.names(), default="") < "step-00000012":
        assert started.poll() is None, started.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.1)
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))
    worker = next(each for each in ours(started, "ray::") if "TrainWorker" in " ".join(each.cmdline()))
    os.kill(worker.pid, signal.SIGKILL)
    said = started.communicate(timeout=1800)[0]
    assert started.returncode == 0, said
    run = Run(tmp_path / "run")
    assert run.manifest["training"]["resumed_at"]
    assert run.manifest["training"]["best_validation_loss"] == pytest.approx(
        plain.manifest["training"]["best_validation_loss"], abs=1e-3
    )
    assert storage.names() == []


def test_the_cluster_gone(started: subprocess.Popen[str], plain: Run, tmp_path: Path):
    out = tmp_path / "run"
    at_step(out, 12, started)
    for each in [*ours(started, "gcs_server"), *ours(started, "raylet/raylet")]:
        each.kill()
    said = started.communicate(timeout=1800)[0]
    assert started.returncode == 1, said
    assert "cluster is gone" in said or "training on Ray failed" in said
    assert "the same command goes on, with --on ray or without it" in said
    assert "Traceback" not in said
    assert is_unfinished(out)
    run = seqtune.resume(out)
    assert run.manifest["training"]["best_validation_loss"] == pytest.approx(
        plain.manifest["training"]["best_validation_loss"], abs=1e-3
    )


def test_no_cluster_at_that_address(rows_file: Path, still_t5: Path, tmp_path: Path):
    with pytest.raises(InputError, match="expected ray"):
        seqtune.finetune(rows_file, on="spark", out=tmp_path / "run")
    with pytest.raises(InputError, match="no use without --on"):
        seqtune.finetune(rows_file, workers=2, out=tmp_path / "run")
    said: dict[str, Any] = {"job": "x", "gpu": False}
    from seqtune.errors import RunError

    with pytest.raises(RunError, match="no Ray cluster can be reached"):
        list(on_ray.lines_of("seqtune.cluster.ray_driver", "ray://127.0.0.1:1", 1, said, tmp_path / "log"))


@pytest.mark.parametrize(
    ("on", "said"), [("ray", "Ray did not start on this machine"), ("10.0.0.9:1", "no Ray cluster")]
)
def test_a_ray_that_does_not_start(monkeypatch: pytest.MonkeyPatch, on: str, said: str):
    """Ray raises the plain exception then; no cluster was there to be gone."""
    from seqtune.cluster import ray_driver

    def init(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray_driver.ray, "init", init)
    with pytest.raises(RunError, match=said) as raised:
        ray_driver._connect(on)
    assert raised.value.details == ["The current node timed out during startup."]
