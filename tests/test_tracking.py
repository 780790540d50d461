"""``--track``: TensorBoard and MLflow for real, on this machine; the others as far as their packages are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import seqtune
from seqtune import tracking
from seqtune.errors import InputError


@pytest.fixture
def settings(tiny_t5: Path, rows_file: Path) -> dict[str, Any]:
    return {"data_path": rows_file, "model_id": str(tiny_t5), "max_steps": 5, "max_new_tokens": 4, "eval_steps": 2}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw: the scalars of all event files in a folder."""
    from tensorboardX.proto import event_pb2

    found: dict[str, list[tuple[int, float]]] = {}
    for path in folder.rglob("events.out.tfevents.*"):
        data, at = path.read_bytes(), 0
        while at < len(data):  # a record: length, its check, the event, its check
            size = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
                else:
                    found.setdefault(value.tag, [])
    return found


def test_tensorboard(settings, tmp_path):
    pytest.importorskip("tensorboardX")
    run = seqtune.finetune(**settings, out=tmp_path / "run", track="tensorboard")
    assert run.log is not None
    found = scalars(tmp_path / "tensorboard" / "run")
    losses = [(row["step"], pytest.approx(row["loss"], rel=1e-5)) for row in run.log if "loss" in row]
    assert found["training/loss"] == losses
    measured = [
        (row["step"], pytest.approx(row["validation_loss"], rel=1e-5)) for row in run.log if "validation_loss" in row
    ]
    assert found["training/validation_loss"] == measured
    assert found["hold_out/tuned/rougeL"] == [(5, pytest.approx(run.metrics["hold_out"]["tuned"]["rougeL"], rel=1e-5))]
    assert "scores/text_summary" in found, "the table"
    for file in (tmp_path / "tensorboard").rglob("*"):
        if file.is_file():
            assert str(tmp_path).encode() not in file.read_bytes(), "no path of this machine"


def test_mlflow(settings, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store)
    try:
        run = seqtune.finetune(**settings, out=tmp_path / "run", track="mlflow")
        client = mlflow.client.MlflowClient(store)
        (found,) = client.search_runs([client.get_experiment_by_name("seqtune").experiment_id])
        history = client.get_metric_history(found.info.run_id, "training/loss")
        artifacts = {each.path for each in client.list_artifacts(found.info.run_id)}
        table = json.loads(
            Path(client.download_artifacts(found.info.run_id, "scores.json")).read_text(encoding="utf-8")
        )
        report = Path(client.download_artifacts(found.info.run_id, "report.html")).read_bytes()
    finally:
        mlflow.set_tracking_uri(before)
    assert run.log is not None
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert [(each.step, each.value) for each in history] == [
        (row["step"], pytest.approx(row["loss"])) for row in run.log if "loss" in row
    ]
    assert found.data.metrics["hold_out/tuned/rougeL"] == pytest.approx(run.metrics["hold_out"]["tuned"]["rougeL"])
    assert found.data.params["learning_rate"] == "0.001"
    assert "data_path" not in found.data.params
    assert found.data.tags["verdict"] == run.manifest["verdict"]["sentence"]
    assert artifacts == {"report.html", "run.json", "scores.json"}
    assert table["columns"][1:3] == ["base", "tuned"]
    assert report == (run.path / "report.html").read_bytes()


def test_what_comes_out_is_the_same(settings, tmp_path):
    pytest.importorskip("tensorboardX")
    alone = seqtune.finetune(**settings, out=tmp_path / "alone", seeds=2)
    run = seqtune.finetune(**settings, out=tmp_path / "run", seeds=2, track="tensorboard")
    for name in ("adapter", "metrics", "verdict", "seeds"):
        assert run.manifest[name] == alone.manifest[name]
    steps = [step for step, _ in scalars(tmp_path / "tensorboard" / "run")["training/loss"]]
    assert steps == [1, 2, 3, 4, 5], "the training of the second seed is not drawn over the first"


def test_a_tracker_that_fails_is_let_go(settings, tmp_path, monkeypatch, caplog):
    accelerate = pytest.importorskip("accelerate.tracking")
    pytest.importorskip("tensorboardX")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(accelerate.TensorBoardTracker, "log", full)
    with caplog.at_level("WARNING", logger="seqtune"):
        run = seqtune.finetune(**settings, out=tmp_path / "run", track="tensorboard")
    assert (run.path / "run.json").is_file()
    said = [record.getMessage() for record in caplog.records if "tensorboard failed" in record.getMessage()]
    assert len(said) == 1
    assert "No space left" in said[0]


def test_trackers_that_are_not_there_are_refused_before_anything_is_done(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(tracking.PACKAGES, "wandb", ("no_such_package",))
    with pytest.raises(InputError, match="wandb is not installed"):
        seqtune.finetune(**settings, out=tmp_path / "run", track="wandb")
    with pytest.raises(InputError, match="expected tensorboard, mlflow, wandb, trackio"):
        seqtune.finetune(**settings, out=tmp_path / "run", track="comet")
    assert not (tmp_path / "run").exists()
