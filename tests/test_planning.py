"""What `seqtune plan` says of a run before it is started."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqtune.planning import proposals
from seqtune.settings import DEFAULT


def test_a_plan_is_measured_where_the_model_is_here(
    command: Callable, tiny_t5: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    knobs = ("--model-id", tiny_t5, "--max-new-tokens", 4)
    status, out, _ = command("plan", rows_file, *knobs, "--json")
    assert status == 0
    found = json.loads(out)
    assert found["rows"] == {"train": 32, "validation": 4, "hold_out": 4}
    assert found["steps"] == {"total": 12, "of_an_epoch": 4, "reason": None}
    assert found["tokens"]["source"] > 32
    parts = {name: value for name, value in found["seconds"].items() if name != "total"}
    assert set(parts) == {"getting ready", "training", "validation losses", "answers", "scores and report"}
    assert all(value > 0 for value in parts.values())
    assert found["seconds"]["total"] == pytest.approx(sum(parts.values()))
    assert 2**26 < found["memory"]["peak_bytes"] < 2**36
    assert 0 < found["disk"]["needed_bytes"] < found["disk"]["free_bytes"]
    status, out, _ = command("plan", rows_file, *knobs)
    assert (status, list(tmp_path.iterdir())) == (0, []), "nothing is kept"
    for word in ("rows", "tokens", "steps", "time", "memory", "disk"):
        assert any(line.startswith(word) for line in out.splitlines()), word


def test_minutes_limit_the_steps(command: Callable, tiny_t5: Path, rows_file: Path) -> None:
    knobs = ("--model-id", tiny_t5, "--max-new-tokens", 4, "--num-train-epochs", 100_000, "--minutes", 1)
    status, out, _ = command("plan", rows_file, *knobs, "--json")
    assert status == 0
    found = json.loads(out)
    assert 1 < found["steps"]["total"] < 400_000
    assert found["steps"]["reason"].startswith("what fits into 1 minutes")
    assert 0 < found["seconds"]["rehearsing"] < 30
    assert 30 < found["seconds"]["total"] <= 61, "the whole minute, and no more"
    assert not any(each["setting"] == "num_train_epochs" for each in found["proposals"])
    status, _, err = command("plan", rows_file, *knobs[:4], "--minutes", 0.01)
    assert (status, "not one step of training fits into that" in err) == (2, True)


def test_without_the_model_nothing_is_downloaded(command: Callable, rows_file: Path) -> None:
    status, out, _ = command("plan", rows_file, "--model-id", "nobody/none-such", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["seconds"] is None
    assert found["memory"] is None
    assert found["tokens"]["target"] > 32
    status, out, _ = command("plan", rows_file, "--model-id", "nobody/none-such")
    assert "nobody/none-such is not on this machine" in out


def report(rows: int, model_id: str = "google/flan-t5-small", **more: Any) -> dict[str, Any]:
    return {"rows": {"train": rows}, "model_id": model_id, "memory": None, "seconds": None, **more}


@pytest.mark.parametrize(
    ("found", "settings", "expected"),
    [
        (report(100), {}, {"num_train_epochs": 15.0}),
        (report(10_000), {}, {"num_train_epochs": 4.0}),
        (report(300_000), {}, {"num_train_epochs": 1.0, "lora_r": 32}),
        (report(10_000), {"num_train_epochs": 4.0}, {}),
        (report(10_000), {"max_steps": 50}, {}),
        (
            report(400, "seqtune-mini"),
            {},
            {"num_train_epochs": 12.0, "learning_rate": 3e-3, "target_modules": "all-linear"},
        ),
        (report(10_000, parameters=700_000_000), {"num_train_epochs": 4.0}, {"learning_rate": 3e-4}),
        (
            report(10_000, memory={"peak_bytes": 9, "free_bytes": 10}),
            {"num_train_epochs": 4.0},
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        ),
        (
            report(10_000, seconds={"answers": 400.0, "training": 100.0}),
            {"num_train_epochs": 4.0},
            {"max_eval_rows": 125},
        ),
    ],
)
def test_proposals_fit_the_data_and_the_machine(
    found: dict[str, Any], settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    made = proposals(found, {**DEFAULT.model_dump(), **settings})
    assert {each["setting"]: each["value"] for each in made} == expected
    assert all(each["reason"] for each in made)
    again = {**DEFAULT.model_dump(), **settings, **expected}
    assert {each["setting"] for each in proposals(found, again)} <= set(expected) & {
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "max_eval_rows",
    }
