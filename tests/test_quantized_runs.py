"""Whole runs over a base in 4 bits, on the CPU; skipped where bitsandbytes is not installed."""

from __future__ import annotations

import importlib.util
import json
import signal
from pathlib import Path
from typing import Any

import pytest

import seqtune
from seqtune import export, preflight
from seqtune.cluster.steps import Halves
from seqtune.errors import InputError
from seqtune.models import quantized
from seqtune.publishing import public_manifest
from seqtune.serve.shelf import Shelf
from seqtune.streaming import pieces
from test_resuming import QUICK, finish, outcome, saved, start
from tiny_models import tiny

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)

KNOBS: dict[str, Any] = {
    "max_steps": 6, "per_device_train_batch_size": 4, "eval_steps": 2, "max_new_tokens": 4, "bootstrap_samples": 100,
    "device_type": "cpu", "load_in_4bit": True, "learning_rate": 1e-2,
}  # fmt: skip


@pytest.fixture(scope="module")
def wide_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("flan-t5", tmp_path_factory.mktemp("models") / "wide-t5", width=128)


@pytest.fixture(scope="module")
def run(rows_file: Path, wide_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> seqtune.Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    return seqtune.finetune(rows_file, out=str(out), model_id=str(wide_t5), **KNOBS)


@needs_bitsandbytes
def test_the_manifest_says_which_base_it_was(run: seqtune.Run):
    manifest = run.manifest
    assert manifest["base_model"]["load_in_4bit"] is True
    assert manifest["settings"]["load_in_4bit"] is True
    assert manifest["settings"]["engine"] == "reference"
    assert manifest["derived"]["engine"] == {"value": "reference", "reason": quantized.REASON}
    assert public_manifest(manifest)["base_model"]["load_in_4bit"] is True
    assert "BitsAndBytesConfig(load_in_4bit=True" in (run.path / "adapter" / "README.md").read_text()


@needs_bitsandbytes
def test_the_plain_engine_trains_and_rehearses_it_and_says_so(rows_file: Path, wide_t5: Path, caplog):
    caplog.set_level("INFO", logger="seqtune")
    inputs = {"data_path": str(rows_file), "model_id": str(wide_t5), **KNOBS}
    found = seqtune.build_driver({"start": "base"}).execute(["training_knobs", "training_settings"], inputs=inputs)
    assert {found[name]["engine"] for name in found} == {"reference"}
    assert caplog.text.count(f"engine: reference ({quantized.REASON})") == 1


@needs_bitsandbytes
def test_made_again_it_is_the_same(run: seqtune.Run):
    found = seqtune.rerun(run.path)
    assert found["same"], found


@needs_bitsandbytes
def test_scored_and_asked_later_it_answers_as_it_did(run: seqtune.Run):
    assert seqtune.evaluate(run.path)["metrics"] == run.metrics
    rows = run.predictions["hold_out"]
    model = seqtune.load(run.path)
    assert quantized.is_quantized(model.model)
    assert model.generate([row["input"] for row in rows]) == [row["tuned"] for row in rows]


@needs_bitsandbytes
def test_it_is_served_and_streamed(run: seqtune.Run):
    rows = run.predictions["hold_out"][:2]
    shelf = Shelf.filled([str(run.path)], "cpu")
    tuned, base = shelf.entries["run"], shelf.entries["wide-t5"]
    for entry, name in ((tuned, "tuned"), (base, "base")):
        assert quantized.is_quantized(entry.model.model)
        assert entry.model.generate([row["input"] for row in rows]) == [row[name] for row in rows]
    source = tuned.encode(rows[0]["input"])
    streamed = pieces(tuned.model.answerer, source, random_state=0, max_new_tokens=4)
    assert "".join(streamed) == rows[0]["tuned"]


@needs_bitsandbytes
def test_the_adapter_can_be_scored_over_the_base_in_full(run: seqtune.Run):
    full = seqtune.evaluate(run.path, load_in_4bit=False)["metrics"]["hold_out"]
    for name in ("base", "tuned"):
        assert full[name]["loss"] != run.metrics["hold_out"][name]["loss"]
        assert full[name]["loss"] == pytest.approx(run.metrics["hold_out"][name]["loss"], rel=0.25)


@needs_bitsandbytes
def test_exported_it_answers_the_same_and_needs_no_bitsandbytes(run: seqtune.Run, tmp_path: Path):
    found = export.write(run.path, "merged", tmp_path / "merged")
    assert found["check"]["same"] == found["check"]["rows"]
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    with pytest.raises(InputError, match="trained over a base in 4 bits"):
        export.write(run.path, "adapter", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@needs_bitsandbytes
def test_killed_and_gone_on_with_it_ends_as_if_it_had_not_been(rows_file: Path, wide_t5: Path, tmp_path: Path):
    arguments = ("finetune", str(rows_file), "--model-id", str(wide_t5), *QUICK, "--load-in-4bit")
    status, errors = finish(*arguments, "--out", tmp_path / "whole")
    assert status == 0, errors
    out = tmp_path / "killed"
    with start(*arguments, "--out", out) as process:
        saved(out, 7, process)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=120)
    status, errors = finish("resume", out)
    assert status == 0, errors
    assert json.loads((out / "run.json").read_text())["training"]["resumed_at"]
    assert outcome(out) == outcome(tmp_path / "whole")


@needs_bitsandbytes
def test_a_run_does_not_go_on_over_the_other_base(rows_file: Path, wide_t5: Path, tmp_path: Path):
    knobs = {**KNOBS, "checkpoints_path": str(tmp_path / "checkpoints")}
    driver = seqtune.build_driver({"start": "base"})
    inputs = {"data_path": str(rows_file), "model_id": str(wide_t5), **knobs}
    driver.execute(["trained_adapter"], inputs=inputs)
    with pytest.raises(InputError, match="in 4 bits"):
        driver.execute(["trained_adapter"], inputs={**inputs, "load_in_4bit": False, "engine": "reference"})


@needs_bitsandbytes
def test_several_processes_are_refused(rows_file: Path, wide_t5: Path):
    halves = Halves({"data_path": str(rows_file), "model_id": str(wide_t5), **KNOBS})
    with pytest.raises(InputError, match="one process alone"):
        halves.job()


def test_without_bitsandbytes_it_is_said_how_to_get_it(rows_file: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    given = {"data_path": str(rows_file), "out": str(tmp_path / "run"), "model_id": "seqtune-mini"}
    preflight.check(given)
    with pytest.raises(InputError, match="needs bitsandbytes") as refused:
        preflight.check({**given, "load_in_4bit": True})
    assert "seqtune[qlora]" in refused.value.mend
    with pytest.raises(InputError, match="engine = fast"):
        preflight.check({**given, "load_in_4bit": True, "engine": "fast"})
