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

from seqtune.errors import InputError, RunError
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
    # None but these: an interrupted one that stood beside them would be compared with itself.
    assert [each["number"] for each in result["trials"]] == [0, 1, 2, 3]
    for directory in ("000", "001"):  # killed: each has gone on, not begun anew
        states = sorted((out / "trials" / directory / "checkpoints").glob("step-*/state.json"))
        resumed = json.loads(states[-1].read_text())["state"]["resumed_at"] if states else None
        resumed = resumed or Run(out / "trials" / directory).manifest["training"]["resumed_at"]  # the best is whole
        assert resumed[0] > 4


def test_settings_that_do_not_fit_the_model_fail_alone(rows_file: Path, tiny_t5: Path, tmp_path: Path):
    tries = parsed(["target_modules=q|nothing"])
    more = {**QUICK, "max_steps": 2, "random_state": 1}
    result = study.sweep(rows_file, tries, out=tmp_path / "some", trials=4, model_id=str(tiny_t5), **more)
    states = {each["settings"]["target_modules"]: each["state"] for each in result["trials"]}
    assert states == {"q": "complete", "nothing": "failed"}
    with pytest.raises(RunError, match="not one trial came to an end") as raised:
        study.sweep(
            rows_file, parsed(["target_modules=nothing|none"]), out=tmp_path / "none", trials=2,
            model_id=str(tiny_t5), **more,
        )  # fmt: skip
    assert "nothing" in raised.value.details[0] + raised.value.details[1]


def test_data_that_has_gone_is_no_fault_of_a_trial(
    rows_file: Path, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = tmp_path / "rows.json"
    data.write_bytes(rows_file.read_bytes())
    arguments = {"out": tmp_path / "sweep", "trials": 2, "model_id": str(tiny_t5), **QUICK, "max_steps": 2}
    with monkeypatch.context() as patched:
        patched.setattr(study, "say", lambda text: data.unlink() if text.startswith("trial 001") else None)
        with pytest.raises(InputError, match=r"rows\.json"):
            study.sweep(data, parsed(TRIES), **arguments)
    data.write_bytes(rows_file.read_bytes())
    result = study.sweep(data, parsed(TRIES), **arguments)
    assert [each["state"] for each in result["trials"]] == ["complete", "complete"]


def test_a_trial_that_was_stopped_by_the_others_stays_so_after_a_kill(
    rows_file: Path, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The kill came between the decision and its end."""
    import optuna

    def killed(*_: Any, **more: Any) -> None:
        if more.get("state") == optuna.trial.TrialState.PRUNED:
            raise KeyboardInterrupt
        told(*_, **more)

    told = optuna.Study.tell
    arguments = {"out": tmp_path / "sweep", "trials": 6, "model_id": str(tiny_t5), **QUICK}
    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            study.sweep(rows_file, parsed(TRIES), **arguments)
    place = max((tmp_path / "sweep" / "trials").iterdir())
    before = sorted(each.name for each in (place / "checkpoints").glob("step-*"))
    result = study.sweep(rows_file, parsed(TRIES), **arguments)
    one = next(each for each in result["trials"] if each["directory"] == place.name)
    assert (one["state"], one["steps"]) == ("pruned", int(before[-1].removeprefix("step-")))
    assert sorted(each.name for each in (place / "checkpoints").glob("step-*")) == before


@pytest.mark.parametrize(
    "text", ["seeds=1,2", "minutes=1,2", "shard_base=yes,no", "input_template=a {question}|{question}"]
)
def test_what_can_not_be_tried(text: str):
    with pytest.raises(InputError, match="1 problem") as raised:
        parsed([text])
    assert "can't be compared" in raised.value.details[0]
