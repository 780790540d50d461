"""Sweeps on a tiny model: killed and gone on, pruned, the best one finished and nobody else scored on hold-out rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="Optuna is not installed")

from seqtune.errors import InputError
from seqtune.run import Run, is_finished, is_unfinished
from seqtune.sweep import study
from seqtune.sweep.space import parsed

QUICK = {
    "max_steps": 20,
    "per_device_train_batch_size": 4,
    "eval_steps": 2,
    "max_new_tokens": 4,
    "bootstrap_samples": 100,
    "device_type": "cpu",
    "early_stopping_patience": 0,
}
TRIES = ("learning_rate=1e-6..1e-2:log", "lora_r=2,4,16")


@pytest.fixture(scope="module")
def swept(rows_file: Path, tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("sweeps") / "six"
    return out, study.sweep(rows_file, parsed(TRIES), out=out, trials=6, model_id=str(tiny_t5), **QUICK)


def test_the_best_is_finished_and_the_others_are_not(swept: tuple[Path, dict[str, Any]]):
    out, result = swept
    assert len(result["trials"]) == 6
    whole = [each for each in result["trials"] if each["state"] == "complete"]
    best = min(whole, key=lambda each: each["loss"])
    assert result["best"] == best["number"]
    run = Run(result["run"])
    assert run.path == out / "trials" / best["directory"]
    assert run.manifest["training"]["best_validation_loss"] == best["loss"]
    assert run.manifest["verdict"]["unseen"]
    for name, value in best["settings"].items():
        assert run.manifest["settings"][name] == value
    for each in result["trials"]:
        place = out / "trials" / each["directory"]
        assert is_finished(place) == (place == run.path)
        assert is_unfinished(place) != (place == run.path)
        assert not (place / "predictions").exists() or place == run.path


def test_the_first_trial_is_the_run_without_a_sweep(swept: tuple[Path, dict[str, Any]]):
    assert swept[1]["trials"][0]["settings"] == {"learning_rate": 1e-3, "lora_r": 16}


def test_runs_that_fall_behind_are_stopped(swept: tuple[Path, dict[str, Any]]):
    pruned = [each for each in swept[1]["trials"] if each["state"] == "pruned"]
    assert pruned
    assert all(0 < each["steps"] < each["of"] == 20 for each in pruned)


def test_the_study_is_lines_of_json_and_the_page_needs_nothing(swept: tuple[Path, dict[str, Any]]):
    out, result = swept
    assert all(json.loads(line) for line in (out / "study.jsonl").read_text().splitlines())
    page = (out / "report.html").read_text()
    assert page.count("<polyline") == 6
    assert Run(result["run"]).manifest["verdict"]["sentence"][:20] in page
    assert "://" not in page
    assert "<script" not in page


def test_again_changes_nothing_and_more_trials_go_on(
    swept: tuple[Path, dict[str, Any]], rows_file: Path, tiny_t5: Path
):
    out, result = swept
    again = study.sweep(rows_file, parsed(TRIES), out=out, trials=6, model_id=str(tiny_t5), **QUICK)
    assert again == result
    with pytest.raises(InputError, match="a sweep of something else"):
        study.sweep(rows_file, parsed(TRIES[:1]), out=out, trials=6, model_id=str(tiny_t5), **QUICK)


def test_killed_twice(rows_file: Path, tiny_t5: Path, tmp_path: Path):
    out = tmp_path / "sweep"
    settings = {**QUICK, "max_steps": 60, "save_steps": 1, "model_id": str(tiny_t5)}
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    tried = [part for text in TRIES for part in ("--try", text)]
    command = [sys.executable, "-m", "seqtune", "sweep", str(rows_file), *tried, *options, "--trials", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for directory in ("000", "001"):
        with subprocess.Popen([*command, "--out", str(out)], env=environment, stderr=subprocess.PIPE) as process:
            until = time.monotonic() + 200
            while not any(int(p.name[5:]) > 4 for p in out.glob(f"trials/{directory}/checkpoints/step-*")):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < until
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
    with (out / "study.jsonl").open("a") as journal:
        journal.write('{"op_code": 5, "worker')  # as if the kill had come in the middle of a line
    done = subprocess.run([*command, "--json", "--out", out], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [each["directory"] for each in result["trials"]] == ["000", "001", "002", "003"][: len(result["trials"])]
    assert len(result["trials"]) == 4
    for directory in ("000", "001"):  # killed: each has gone on, not begun anew
        states = sorted((out / "trials" / directory / "checkpoints").glob("step-*/state.json"))
        resumed = json.loads(states[-1].read_text())["state"]["resumed_at"] if states else None
        resumed = resumed or Run(out / "trials" / directory).manifest["training"]["resumed_at"]  # the best is whole
        assert resumed[0] > 4
