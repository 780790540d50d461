"""``--track``: every tracker for real, on this machine, as far as its package is there."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
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


@pytest.fixture
def mlflow_client(tmp_path, monkeypatch) -> Iterator[Any]:
    """A client of a store of this test's own."""
    mlflow = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store)
    yield mlflow.client.MlflowClient(store)
    mlflow.set_tracking_uri(before)


def test_mlflow(settings, tmp_path, mlflow_client):
    run = seqtune.finetune(**settings, out=tmp_path / "run", track="mlflow")
    (found,) = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("seqtune").experiment_id])
    history = mlflow_client.get_metric_history(found.info.run_id, "training/loss")
    artifacts = {each.path for each in mlflow_client.list_artifacts(found.info.run_id)}
    scores = mlflow_client.download_artifacts(found.info.run_id, "scores.json")
    table = json.loads(Path(scores).read_text(encoding="utf-8"))
    report = Path(mlflow_client.download_artifacts(found.info.run_id, "report.html")).read_bytes()
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


def tracked(settings: dict[str, Any], out: Path, track: str, **environment: str) -> seqtune.Run:
    """The command line, as these two read their settings when they are imported; what it prints is its own alone."""
    knobs = {name: value for name, value in settings.items() if name != "data_path"}
    options = [text for name, value in knobs.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "seqtune", "finetune", str(settings["data_path"]), *options, "--json"]
    done = subprocess.run(
        [*command, "--out", str(out), "--track", track],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{track} failed" not in done.stderr
    json.loads(done.stdout)
    return seqtune.Run(out)


def wandb_records(folder: Path) -> Iterator[Any]:
    """What Weights & Biases has kept for its server: records in blocks of 32 KiB, as LevelDB's log has them."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        if 32768 - at % 32768 < 7 or kind == 0:
            at += 32768 - at % 32768
            continue
        record = content[at + 7 : at + 7 + size] if kind in (1, 2) else record + content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(record)


def test_wandb(settings, tmp_path):
    pytest.importorskip("wandb")
    places = {f"WANDB_{name}DIR": str(tmp_path / "kept") for name in ("", "DATA_", "CACHE_", "CONFIG_")}
    run = tracked(settings, tmp_path / "run", "wandb", WANDB_MODE="offline", **places)
    records = list(wandb_records(tmp_path / "kept"))
    curve: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            values = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
            }
            for name, value in values.items():
                curve.setdefault(name, []).append((values["_step"], value))
    assert run.log is not None
    for name in ("loss", "validation_loss", "learning_rate"):
        assert curve[f"training/{name}"] == [
            (row["step"], pytest.approx(row[name], rel=1e-6)) for row in run.log if name in row
        ]
    assert curve["hold_out/tuned/rougeL"] == [(5, pytest.approx(run.metrics["hold_out"]["tuned"]["rougeL"]))]
    artifacts = {r.artifact.name: r.artifact for r in records if r.WhichOneof("record_type") == "artifact"}
    for kind, name in (("report", "report.html"), ("manifest", "run.json")):
        assert artifacts[f"run-{kind}"].type == kind
        assert [entry.path for entry in artifacts[f"run-{kind}"].manifest.contents] == [name]
    (table,) = (tmp_path / "kept").rglob("scores*.table.json")
    assert json.loads(table.read_text())["columns"][1:3] == ["base", "tuned"]
    kept = b"".join(record.SerializeToString() for record in records).replace(str(tmp_path / "kept").encode(), b"")
    for private in (str(tmp_path), str(settings["data_path"]), sys.executable, f'host: "{platform.node()}"'):
        assert private.encode() not in kept
    assert not list((tmp_path / "kept").rglob("output.log")), "what the terminal shows stays here"


def test_trackio(settings, tmp_path):
    pytest.importorskip("trackio")
    run = tracked(settings, tmp_path / "run", "trackio", TRACKIO_DIR=str(tmp_path / "kept"), HF_HUB_OFFLINE="1")
    with sqlite3.connect(tmp_path / "kept" / "seqtune.db") as store:
        rows = [
            (step, json.loads(values))
            for step, values in store.execute("select step, metrics from metrics order by id")
        ]
        artifacts = dict(store.execute("select name, type from artifacts"))
        (config,) = (json.loads(found) for (found,) in store.execute("select config from configs"))
    assert run.log is not None
    for name in ("loss", "validation_loss", "learning_rate"):
        assert [(step, values[f"training/{name}"]) for step, values in rows if f"training/{name}" in values] == [
            (row["step"], pytest.approx(row[name])) for row in run.log if name in row
        ]
    tuned = [values["hold_out/tuned/rougeL"] for _, values in rows if "hold_out/tuned/rougeL" in values]
    assert tuned == [pytest.approx(run.metrics["hold_out"]["tuned"]["rougeL"])]
    (last,) = [values for _, values in rows if "scores" in values]
    assert last["verdict"] == run.manifest["verdict"]["sentence"]
    assert "ROUGE-L" in json.dumps(last["scores"])
    assert artifacts == {"run-report": "report", "run-manifest": "manifest"}
    kept = [path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert (run.path / "report.html").read_bytes() in kept
    assert config["learning_rate"] == 0.001
    assert "data_path" not in config


def test_a_run_that_breaks_off_is_shown_as_one(settings, tmp_path, mlflow_client):
    with pytest.raises(ZeroDivisionError), tracking.tracked("mlflow", tmp_path / "run", settings):
        raise ZeroDivisionError
    (found,) = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("seqtune").experiment_id])
    assert found.info.status == "FAILED"


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
