from __future__ import annotations

import math
from typing import Any

import pytest
from datasets import Dataset

from seqtune import scoring


def answers(predictions: list[str], references: list[str], nll: float = 2.0) -> dict[str, list]:
    return {
        "predictions": predictions,
        "references": references,
        "nll": [nll] * len(predictions),
        "target_tokens": [4] * len(predictions),
        "target_bytes": [len(text.encode()) for text in references],
    }


def test_set_metrics_are_sums_over_sums():
    found = scoring.set_metrics(answers(["a b", "x"], ["a b", "c d"]), "english")
    assert found["loss"] == pytest.approx(4.0 / 8)
    assert found["bits_per_byte"] == pytest.approx(4.0 / math.log(2) / 6)
    assert found["exact_match"] == 50.0
    assert found["rouge1"] == 50.0


def test_prediction_rows():
    sample = Dataset.from_dict(
        {"row": [7], "input": ["q"], "reference": ["a b"], "extra": ['{"tags": ["x"], "n": {"m": 1}}']}
    )
    (row,) = scoring.prediction_rows(sample, answers(["z"], ["a b"]), answers(["a b"], ["a b"], 1.0), "english")
    assert (row["row"], row["input"], row["reference"], row["base"], row["tuned"]) == (7, "q", "a b", "z", "a b")
    assert row["extra"] == {"tags": ["x"], "n": {"m": 1}}
    assert row["scores"]["base"]["rougeL"] == 0
    assert row["scores"]["tuned"]["rougeL"] == 100
    assert row["scores"]["tuned"]["loss"] == 0.25


@pytest.mark.parametrize(("tuned", "expected"), [(80.0, "better"), (20.0, "worse"), (50.0, "no clear difference")])
def test_verdict(tuned: float, expected: str):
    rows: list[dict[str, Any]] = [
        {"scores": {"base": {"rougeL": 50.0 + n % 3 - 1}, "tuned": {"rougeL": tuned + (n + 1) % 3 - 1}}}
        for n in range(30)
    ]
    found = scoring.verdict(rows, "hold_out", samples=500, seed=1)
    assert found["verdict"] == expected
    assert found["low"] <= found["lift"] <= found["high"]
    assert found["lift"] == pytest.approx(tuned - 50)
    assert "30 hold-out rows" in found["sentence"]
    assert found == scoring.verdict(rows, "hold_out", samples=500, seed=1)
