from __future__ import annotations

import json
import math
from typing import Any

import pytest
from datasets import Dataset

import seqtune
from seqtune import scoring
from seqtune.data import checks


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


def sample(questions: list[str], references: list[str]) -> Dataset:
    count = len(questions)
    return Dataset.from_dict(
        {"row": [*range(1, count + 1)], "input": questions, "reference": references, "extra": ["{}"] * count}
    )


def test_rows_that_ask_the_same_share_their_references():
    asked = ["Which way?", "which way", "Why?"]
    wanted = ["Left.", "To the left.", "So."]
    said = answers(["to the left", "Left.", "No."], wanted)
    rows = scoring.prediction_rows(sample(asked, wanted), said, said, "english")
    assert [row.get("references") for row in rows] == [["Left.", "To the left."], ["To the left.", "Left."], None]
    assert [row["scores"]["tuned"]["exact_match"] for row in rows] == [100, 100, 0]
    assert [row["reference"] for row in rows] == wanted, "what the loss is over"
    found = scoring.lifts(rows, "english", 200, 0)
    assert (found["rougeL"]["rows"], found["rougeL"]["questions"]) == (3, 2)


def test_metrics_of_rows_are_those_of_the_answers():
    wanted = ["open the settings", "hold the button for ten seconds", "no"]
    base, tuned = answers(["the", "button", ""], wanted, 3.0), answers(["open settings", wanted[1], "yes"], wanted)
    rows = scoring.prediction_rows(sample(["a", "b", "c"], wanted), base, tuned, "english")
    found = scoring.metrics_of(rows, "english")
    assert found["base"] == pytest.approx(scoring.set_metrics(base, "english"), abs=1e-9)
    assert found["tuned"] == pytest.approx(scoring.set_metrics(tuned, "english"), abs=1e-9)
    lifts = scoring.lifts(rows, "english", 500, 0)
    assert set(lifts) == set(found["base"])
    for name, each in lifts.items():
        assert each["lift"] == pytest.approx(found["tuned"][name] - found["base"][name], abs=1e-9)
        assert each["low"] <= each["lift"] <= each["high"]


def test_guard_rails_of_rows():
    wanted = ["open the settings", "hold the button for ten seconds"]
    base, tuned = answers(["", "x"], wanted), answers(["the the the the the the", wanted[1]], wanted)
    tuned["at_limit"] = [True, False]
    rows = scoring.prediction_rows(sample(["a", "b"], wanted), base, tuned, "english", training_answers=[wanted[1]])
    assert rows[0]["flags"] == {"base": ["empty"], "tuned": ["repeats_itself", "at_limit"]}
    found = scoring.guard_rails(rows)
    assert (found["base"]["empty"], found["tuned"]["at_limit"], found["tuned"]["memorised_right"]) == (1, 1, 1)


def test_a_list_of_answers_is_one_row_of_training_and_several_references(tiny_t5, tmp_path):
    rows = [{"question": f"q{n}?", "reply": [f"first {n}", f"second {n}"] if n % 2 else f"only {n}"} for n in range(30)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    run = seqtune.finetune(
        tmp_path / "rows.json",
        model_id=str(tiny_t5),
        max_steps=2,
        max_new_tokens=4,
        out=tmp_path / "run",
        train_size=0.5,
    )
    assert sum(run.manifest["data"]["splits"].values()) == 30, "a list is one row, in one set"
    found = [row for split in run.predictions.values() for row in split]
    for row in found:
        number = row["input"].strip("q?")
        several = [f"first {number}", f"second {number}"] if int(number) % 2 else None
        assert row.get("references") == several
        assert row["reference"] == (several[0] if several else f"only {number}")


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ([], "is an empty list"),
        (["a", ""], "is empty in place 2"),
        (["a", 7], "is a number in place 2"),
        ([["a"]], "is a list"),
    ],
)
def test_a_list_of_answers_with_something_else_in_it(reply, found):
    (problem,) = checks.check_rows([{"question": "q", "reply": reply}], "question", "reply")
    assert problem.what.startswith(found)
    (problem,) = checks.check_rows([{"question": ["q"], "reply": "a"}], "question", "reply")
    assert problem.what == "is a list"
