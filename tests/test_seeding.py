"""Several training seeds: the first is the run's, the others are trained as it was, and the verdict counts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import seqtune
from seqtune import seeding


@pytest.fixture(scope="module")
def settings(tiny_t5: Path) -> dict[str, Any]:
    return {
        "model_id": str(tiny_t5),
        "max_steps": 6,
        "learning_rate": 2e-2,
        "max_new_tokens": 6,
        "train_size": 0.6,
        "precision": "fp32",
    }


def test_three_seeds(settings, rows_file, tmp_path):
    alone = seqtune.finetune(rows_file, out=tmp_path / "alone", **settings)
    run = seqtune.finetune(rows_file, out=tmp_path / "three", seeds=3, **settings)
    assert run.manifest["adapter"]["sha256"] == alone.manifest["adapter"]["sha256"], "the run's adapter is the same"
    assert run.metrics == alone.metrics
    assert alone.manifest["seeds"] == []
    assert [each["seed"] for each in run.manifest["seeds"]] == [42, 43, 44]
    assert run.manifest["seeds"][0]["metrics"]["hold_out"] == run.metrics["hold_out"]
    assert not (tmp_path / "three" / "checkpoints").exists()

    # the second seed is what a run of that seed on the same division of rows gives
    verdict = run.manifest["verdict"]
    lifts = [each["metrics"]["hold_out"] for each in run.manifest["seeds"]]
    lifts = [each["tuned"]["rougeL"] - each["base"]["rougeL"] for each in lifts]
    assert verdict["by_seed"] == pytest.approx(lifts, abs=1e-9)
    assert verdict["lift"] == pytest.approx(sum(lifts) / 3, abs=1e-9)
    assert (verdict["seeds"], alone.manifest["verdict"]["seeds"]) == (3, 1)
    assert "3 training seeds" in verdict["sentence"]
    losses = [each["metrics"]["hold_out"]["tuned"]["loss"] for each in run.manifest["seeds"]]
    assert len(set(losses)) == 3, "other seeds, other models"


def test_a_run_of_several_seeds_goes_on_where_it_was_stopped(settings, rows_file, tmp_path, monkeypatch):
    whole = seqtune.finetune(rows_file, out=tmp_path / "whole", seeds=2, save_steps=2, **settings)
    answers_of = seeding.scoring.answers_of

    def killed(*arguments: Any) -> Any:
        if "seed 43" in arguments[-1]:
            raise KeyboardInterrupt
        return answers_of(*arguments)

    monkeypatch.setattr(seeding.scoring, "answers_of", killed)
    with pytest.raises(KeyboardInterrupt):
        seqtune.finetune(rows_file, out=tmp_path / "stopped", seeds=2, save_steps=2, **settings)
    assert list((tmp_path / "stopped" / "checkpoints" / "seed-43").glob("step-*"))
    monkeypatch.setattr(seeding.scoring, "answers_of", answers_of)
    run = seqtune.resume(tmp_path / "stopped")
    assert run.manifest["seeds"] == whole.manifest["seeds"]
    assert run.manifest["verdict"] == whole.manifest["verdict"]
    assert not (tmp_path / "stopped" / "checkpoints").exists()


def test_the_seeds_follow_the_first():
    assert seeding.others({"random_state": 42, "seeds": 3}) == [43, 44]
    assert seeding.others({"random_state": 42, "seeds": 1}) == []
    assert seeding.others({"random_state": 2**32 - 1, "seeds": 2}) == [0]
