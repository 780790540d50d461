"""Trials side by side on a Ray: what is tried is drawn by the number alone; killed and gone on; pruned by ASHA."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from seqtune.cluster import on_ray
from seqtune.errors import InputError, RunError
from seqtune.run import Run, is_finished, is_unfinished
from seqtune.sweep import on_cluster
from seqtune.sweep.space import parsed
from seqtune.sweep.study import RUNGS, sweep

TRIES = ("learning_rate=1e-6..1e-2:log", "lora_r=2,4,16")


def test_drawn_by_number():
    tries = parsed((*TRIES, "early_stopping_patience=1..3"))
    values = [on_cluster.drawn(tries, 42, number) for number in range(300)]
    assert values == [on_cluster.drawn(tries, 42, number) for number in range(300)]
    assert values != [on_cluster.drawn(tries, 43, number) for number in range(300)]
    assert {each["lora_r"] for each in values} == {2, 4, 16}
    assert {each["early_stopping_patience"] for each in values} == {1, 2, 3}
    rates = sorted(each["learning_rate"] for each in values)
    assert 1e-6 <= rates[0] < 1e-5
    assert 1e-3 < rates[-1] <= 1e-2
    assert 3e-5 < rates[150] < 3e-4  # the middle of the logarithms
    assert on_cluster.drawn(parsed(TRIES), 42, 0) == {"learning_rate": 1e-3, "lora_r": 16}


def test_what_is_written_down_is_not_done_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    told: dict[str, Any] = {}
    lines = [
        {"what": "trial", "trial": 1, "begins": True},
        {"what": "trial", "trial": 1, "per_cent": 20, "loss": 3.0},
        {"what": "trial", "trial": 1, "state": "pruned", "loss": 3.0, "steps": 5, "of": 20},
    ]

    def heard(module: str, on: str, workers: int | None, given: dict[str, Any], log: Path):
        told.update(given)
        return iter([dict(line) for line in lines])

    monkeypatch.setattr(on_ray, "lines_of", heard)
    study = tmp_path / "study.jsonl"
    ended = {"trial": 0, "state": "complete", "loss": 2.0, "steps": 20, "of": 20}
    study.write_text(
        f'{{"trial": 0, "per_cent": 20, "loss": 2.5}}\n{json.dumps(ended)}\n'
        '{"trial": 1, "per_cent": 20, "loss": 3.1}\n{"trial": 1, "per'
    )
    given = {"tries": parsed(TRIES), "rungs": RUNGS, "on": "ray", "workers": 2}
    with pytest.raises(RunError, match="1 of 3 trials have not come to an end"):
        on_cluster.tried(tmp_path, study, {}, trials=3, **given)
    assert [(each["trial"], each["measured"]) for each in told["trials"]] == [(1, {"20": 3.1}), (2, {})]
    assert [line["trial"] for line in told["before"]] == [0, 0]  # 1 tells the new scheduler itself
    found = on_cluster.tried(tmp_path, study, {}, trials=2, **given)
    assert [each["state"] for each in found] == ["complete", "pruned"]
    assert found[1]["settings"] == on_cluster.drawn(parsed(TRIES), 42, 1)


def test_a_scheduler_that_is_told_of_before():
    pytest.importorskip("ray.tune", reason="Ray is not installed")
    from types import SimpleNamespace

    from seqtune.sweep.ray_trials import scheduler

    before = [{"trial": n, "per_cent": RUNGS[0], "loss": loss} for n, loss in enumerate((2.0, 3.0, 4.0))]
    for loss, wanted in ((1.5, "CONTINUE"), (3.5, "STOP")):
        found, new = scheduler(list(RUNGS), before), SimpleNamespace(trial_id="new")
        found.on_trial_add(None, new)
        assert found.on_trial_result(None, new, {"per_cent": RUNGS[0], "loss": loss}) == wanted


def test_killed_and_gone_on(rows_file: Path, tiny_t5: Path, tmp_path: Path):
    pytest.importorskip("ray.tune", reason="Ray is not installed")
    out = tmp_path / "sweep"
    settings = {
        "max_steps": 20, "per_device_train_batch_size": 4, "eval_steps": 2, "max_new_tokens": 4,
        "bootstrap_samples": 100, "device_type": "cpu", "early_stopping_patience": 0, "save_steps": 1,
        "model_id": str(tiny_t5),
    }  # fmt: skip
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    tried = [part for text in TRIES for part in ("--try", text)]
    command = [
        sys.executable, "-m", "seqtune", "sweep", str(rows_file), *tried, *options, "--trials", "6", "--out", str(out),
        "--on", "ray", "--workers", "2",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        until = time.monotonic() + 1800
        while not (out / "study.jsonl").is_file() or '"state"' not in (out / "study.jsonl").read_text():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        children = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs(children, timeout=600)[1]  # nobody goes on in its place
    before = (out / "study.jsonl").read_text()
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (out / "study.jsonl").read_text().startswith(before[: before.rfind("\n") + 1])
    result = json.loads(done.stdout)
    trials = result["trials"]
    assert [each["directory"] for each in trials] == [f"{number:03}" for number in range(6)]
    best = min((each for each in trials if each["state"] == "complete"), key=lambda each: each["loss"])
    assert result["best"] == best["number"]
    assert {each["state"] for each in trials} <= {"complete", "pruned"}  # which, depends on who is the first at a rung
    for each in trials:
        place = out / "trials" / each["directory"]
        assert is_finished(place) == (place == Path(result["run"]))
        assert is_unfinished(place) != is_finished(place)
        assert 0 < each["steps"] <= each["of"] == 20
        assert (each["steps"] == 20) == (each["state"] == "complete")
    run = Run(result["run"])
    assert run.manifest["training"]["best_validation_loss"] == best["loss"]
    assert run.manifest["verdict"]["unseen"]
    assert (out / "report.html").read_text().count("<polyline") == 6


def test_a_sweep_of_the_other_kind(rows_file: Path, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(on_ray, "check", lambda *_: None)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"settings": {}, "tries": [], "data_sha256": None}))
    with pytest.raises(InputError, match="a sweep of something else") as caught:
        sweep(rows_file, parsed(TRIES), out=tmp_path / "sweep", on="ray", model_id=str(tiny_t5))
    assert "search: was optuna, now ray" in caught.value.details
