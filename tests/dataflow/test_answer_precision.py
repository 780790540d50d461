"""In which arithmetic answers are written: bf16 only where it gives the validation rows' ROUGE-L of fp32."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset
from peft import PeftModel

import seqtune
from seqtune import run, scoring
from seqtune.comparing import differences
from seqtune.engine import hardware
from seqtune.report import origins
from seqtune.serve.shelf import Shelf

ROWS = 10


@pytest.fixture
def wrong() -> list[int]:
    """Numbers of the rows that come out wrong in bf16."""
    return []


@pytest.fixture
def asked(wrong: list[int], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions in which the rows were answered, one after the other, by a machine with units for bf16."""
    passes: list[str] = []

    def written(*given: Any) -> tuple[dict[str, str], dict[str, list[Any]]]:
        wanted = given[4]
        passes.append(wanted)
        used = "bf16" if wanted == "auto" else wanted
        predictions = [f"alpha beta {row}" for row in range(ROWS)]
        if used == "bf16":
            predictions = ["gamma" if row in wrong else text for row, text in enumerate(predictions)]
        return {"value": used, "reason": "these"}, {"predictions": predictions, "at_limit": [False] * ROWS}

    monkeypatch.setattr(scoring, "_written", written)
    monkeypatch.setattr(scoring.generation, "score", lambda *_: ([1.0] * ROWS, [1] * ROWS))
    monkeypatch.setattr(scoring.generation, "pad_token_id", lambda *_: 0)
    monkeypatch.setattr(scoring.tokens, "encode_targets", lambda _, texts: [[1]] * len(texts))
    return passes


def answers(precision: str = "auto", words: Any = "english") -> scoring.Answers:
    sample = Dataset.from_dict(
        {"input": [f"q{row}" for row in range(ROWS)], "reference": [f"alpha beta {row}" for row in range(ROWS)]}
    )
    tokenized = Dataset.from_dict({"input_ids": [[1]] * ROWS, "labels": [[1]] * ROWS})
    settings = {"answer_precision": precision, "per_device_eval_batch_size": 4}
    model: Any = None
    return scoring.answers_of(model, model, sample, tokenized, settings, "answering", words)


def test_bf16_where_its_answers_are_as_good(asked: list[str]):
    found = answers()
    assert asked == ["auto", "fp32"]
    assert found["precision"]["value"] == "bf16"
    assert "100.00 in fp32 and 100.00 in bf16" in found["precision"]["reason"]


def test_fp32_where_they_are_not(asked: list[str], wrong: list[int]):
    wrong += [3, 7]
    found = answers()
    assert found["precision"]["value"] == "fp32"
    assert "100.00 in fp32 and 80.00 in bf16, more than 0.3 points apart" in found["precision"]["reason"]
    assert found["predictions"] == found["references"]


@pytest.mark.parametrize(("precision", "words"), [("bf16", "english"), ("fp32", "english"), ("auto", None)])
def test_what_is_given_is_not_questioned(precision: str, words: str | None, asked: list[str], wrong: list[int]):
    wrong += [3, 7]
    found = answers(precision, words)
    assert asked == [precision]
    assert found["precision"]["value"] == ("fp32" if precision == "fp32" else "bf16")


def test_other_rows_are_answered_in_the_same(asked: list[str], wrong: list[int]):
    wrong += [3, 7]
    settings = {"answer_precision": "auto", "num_beams": 1}
    assert scoring.in_the_precision_of(answers(), settings) == {"answer_precision": "fp32", "num_beams": 1}
    assert settings["answer_precision"] == "auto"


@pytest.mark.parametrize("far", ["neither", "base", "tuned"])
def test_a_run_answers_as_it_was_found_to(far: str, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """Both sets of a model in what its own validation rows have settled; so does whoever loads or serves the run."""
    monkeypatch.setattr(hardware, "best_precision", lambda _: {"value": "bf16", "reason": "these"})
    passes: list[tuple[str, str]] = []
    plain = scoring.generation.Answerer

    def answerer(model: Any, tokenizer: Any, precision: str) -> Any:
        passes.append(("tuned" if isinstance(model, PeftModel) else "base", precision))
        return plain(model, tokenizer, precision)

    def rouge(*_: Any) -> float:  # asked after both passes, of those in bf16 first
        points.append(10.0 if passes[-1][0] == far and len(points) % 2 == 0 else 50.0)
        return points[-1]

    points: list[float] = []
    monkeypatch.setattr(scoring.generation, "Answerer", answerer)
    monkeypatch.setattr(scoring, "_rouge", rouge)
    made = seqtune.finetune(**inputs)
    settled = made.manifest["derived"]["answer_precision"]
    assert made.manifest["settings"]["answer_precision"] == "auto"
    for model, found in (("tuned", settled), ("base", settled["base"])):
        expected = "fp32" if model == far else "bf16"
        assert found["value"] == expected
        assert found["rougeL"] == {"fp32": 50.0, "bf16": 10.0 if model == far else 50.0}
        assert [p for m, p in passes if m == model] == ["auto", "fp32", expected]
        answering = run.answering(run.open_saved(made.path), base=model == "base")
        assert answering["answer_precision"] == ("fp32" if model == far else "auto")
    assert seqtune.load(made.path).answerer.precision == settled["value"]
    for asked, of_tuned, of_base in (
        (None, settled["value"], settled["base"]["value"]),
        ("auto", settled["value"], settled["base"]["value"]),
        ("bf16", "bf16", "bf16"),
        ("fp32", "fp32", "fp32"),
    ):
        tuned, base = Shelf.filled([str(made.path)], "cpu", asked).entries.values()
        assert (tuned.model.answerer.precision, base.model.answerer.precision) == (of_tuned, of_base)
    line = next(
        line
        for group in origins.settings(made.manifest)
        for line in group["lines"]
        if line["name"] == "answer_precision"
    )
    assert (line["value"], line["kind"]) == (settled["value"], "derived")
    assert seqtune.evaluate(made.path)["metrics"] == made.metrics


def test_what_was_given_stays_given(inputs: dict[str, Any]):
    made = seqtune.finetune(**inputs, answer_precision="fp32")
    assert made.manifest["derived"]["answer_precision"] == {
        "value": "fp32", "reason": "given", "base": {"value": "fp32", "reason": "given"},
    }  # fmt: skip
    assert "--answer-precision fp32" in origins.command(made.manifest)


def test_a_run_of_another_machine_is_answered_by_what_this_one_has(
    inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hardware, "best_precision", lambda _: {"value": "fp32", "reason": "these"})
    made = seqtune.finetune(**inputs)
    settled = made.manifest["derived"]["answer_precision"]
    assert settled == {**settled["base"], "base": settled["base"]}
    assert (settled["value"], settled["reason"]) == ("fp32", "this machine has no units for bf16")
    assert run.answering(run.open_saved(made.path))["answer_precision"] == "auto"


def test_answers_of_a_node_of_ones_own_need_not_say_it():
    assert scoring.in_the_precision_of({"predictions": []}, {"answer_precision": "auto"}) == {
        "answer_precision": "auto"
    }
    assert scoring.settled_precision({}, {})["value"] == "unknown"


def test_runs_that_answered_differently_are_told_apart():
    one, other = (
        {"settings": {"answer_precision": "auto"}, "derived": {"answer_precision": {"value": value, "reason": "so"}}}
        for value in ("bf16", "fp32")
    )
    assert differences.between([one, other])["derived"] == {"answer_precision": ["bf16", "fp32"]}


def test_auto_that_nothing_came_of_is_shown_as_auto():
    groups = origins.settings({"settings": {"encoding": "auto"}})
    assert [line["value"] for group in groups for line in group["lines"]] == ["auto"]


def test_a_run_from_elsewhere_has_no_say():
    assert run.answering({"manifest": None}) == {}
    assert run.answering({"manifest": {"settings": {"answer_precision": "auto"}}}) == {"answer_precision": "auto"}
