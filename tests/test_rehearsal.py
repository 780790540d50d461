"""A little of a run, done and measured: a number of steps out of minutes, and what is kept of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import seqtune
from seqtune import progress
from seqtune.engine.loop import Plan
from seqtune.errors import InputError
from seqtune.rehearsal import CLOSING, STEPS, Rehearsal, fitted, peak_bytes, steps_that_fit
from seqtune.settings import DEFAULT

#: Half a second a step, one for a validation loss, 20 for the answers.
MEASURED = Rehearsal(0.5, 1.0, 20.0, 3.0, 2**30)


def plan(**knobs: Any) -> Plan:
    return Plan.of(800, {**DEFAULT.model_dump(), **knobs})


@pytest.mark.parametrize("minutes", [1.0, 2.0, 5.0, 10.0])
def test_the_run_of_so_many_steps_takes_the_time_that_was_given(minutes: float) -> None:
    elapsed = 10.0
    steps, reason = steps_that_fit(minutes, elapsed, MEASURED, plan(num_train_epochs=100.0))
    total = elapsed + sum(MEASURED.seconds_of_run(plan(max_steps=steps)).values())
    assert minutes * 60 - 6 <= total <= minutes * 60
    assert "0.5 s a step measured, 24 s kept for answers and scores" in reason


def test_never_more_steps_than_were_asked_for() -> None:
    steps, reason = steps_that_fit(60, 0.0, MEASURED, plan(num_train_epochs=1.0))
    assert steps == 100
    assert reason.startswith("all of num_train_epochs fits")


def test_too_little_time_says_how_much_would_do() -> None:
    with pytest.raises(InputError) as caught:
        steps_that_fit(0.4, 2.0, MEASURED, plan())
    assert "not one step of training fits" in str(caught.value)
    assert f"{20 + CLOSING:.0f} s go to answers and scores" in str(caught.value)
    assert "Give 1 or more" in str(caught.value)
    assert steps_that_fit(1, 2.0, MEASURED, plan())[0] >= 1


def test_nothing_is_rehearsed_without_minutes() -> None:
    def never() -> Rehearsal:
        raise AssertionError

    for knobs in ({"minutes": None, "max_steps": None}, {"minutes": 3.0, "max_steps": 7}):
        assert fitted(knobs, 10, never, None) == knobs


def test_a_run_that_goes_on_keeps_its_number_of_steps(tmp_path: Path) -> None:
    settings = {**DEFAULT.model_dump(), "minutes": 2.0, "num_train_epochs": 100.0}
    first = fitted(settings, 800, lambda: MEASURED, tmp_path)
    assert json.loads((tmp_path / STEPS).read_text())["max_steps"] == first["max_steps"]
    slower = Rehearsal(1.0, 1.0, 20.0, 3.0, 2**30)
    assert fitted(settings, 800, lambda: slower, tmp_path)["max_steps"] < first["max_steps"], "no checkpoint: a new run"
    fitted(settings, 800, lambda: MEASURED, tmp_path)
    (tmp_path / "step-00000010").mkdir()
    assert fitted(settings, 800, lambda: slower, tmp_path) == first


def test_a_run_with_minutes_says_how_many_steps_and_why(tiny_t5: Path, rows_file: Path, tmp_path: Path) -> None:
    knobs = {"model_id": str(tiny_t5), "minutes": 1.0, "max_new_tokens": 4, "num_train_epochs": 2.0}
    run = seqtune.finetune(rows_file, out=str(tmp_path / "run"), **knobs)
    assert run.manifest["settings"]["max_steps"] == run.manifest["training"]["steps"] == 8
    assert run.manifest["derived"]["max_steps"]["reason"].startswith("all of num_train_epochs fits into 1 minutes")
    assert seqtune.finetune(rows_file, out=str(tmp_path / "run"), **knobs).manifest == run.manifest, "finished: a no-op"
    plain = seqtune.finetune(rows_file, out=str(tmp_path / "plain"), **{**knobs, "minutes": None})
    losses = [[line.get("loss") for line in each.log or []] for each in (run, plain)]
    assert losses[0] == losses[1], "the rehearsal leaves no trace in the run"


def test_silently_nothing_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    reports: list[progress.Progress] = []
    with progress.listening(reports.append), caplog.at_level("INFO"):
        with progress.silently():
            progress.say("unheard")
            progress.advance("unseen", 1, 2, "rows")
        progress.say("heard")
        progress.advance("seen", 1, 2, "rows")
    assert [report.stage for report in reports] == ["seen"]
    assert "unheard" not in caplog.text
    assert "heard" in caplog.text


def test_the_peak_of_memory_is_that_of_this_process_and_not_of_who_started_it() -> None:
    size = 3 * 2**29
    held = bytearray(size)
    held[::4096] = b"x" * len(held[::4096])
    assert peak_bytes() > size
    if sys.platform == "linux":
        code = "from seqtune.rehearsal import peak_bytes; print(peak_bytes())"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert 0 < int(found.stdout) < size
    del held
