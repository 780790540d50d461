"""What differs in what came out of runs: their metrics on the rows they share, and the answers that changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from seqtune import metrics
from seqtune.data.shingles import question_key
from seqtune.metrics import bootstrap, sums
from seqtune.run import Run

#: The metric that changed answers are ordered by.
ORDER_METRIC = "rougeL"


def compared(runs: Sequence[Run], split: str, samples: int, seed: int) -> dict[str, Any]:
    """The tuned models of runs on the rows of a set that all of them answered.

    Returns:
        ``rows`` (shared) and ``of`` (of each run); ``metrics``: for each ``values`` and ``against_first`` (None for the
        first run, else lift, low, high, confidence, and whether the interval leaves out 0: ``clear``); ``changed``: a
        dict for each row whose answers are not all the same, largest change first: ``input``, ``reference``,
        ``answers``, ``scores``; ``scored_again``: whether the runs had scored by other words.
    """
    everything = [run.predictions[split] for run in runs]
    rows = shared(everything)
    found: dict[str, Any] = {"rows": len(rows[0]), "of": [len(each) for each in everything], "scored_again": False}
    if not rows[0]:
        return {**found, "metrics": {}, "changed": []}
    words: list[metrics.TokenizerName] = [_words(run) for run in runs]
    if len(set(words)) > 1:
        rows = [_scored_again(each, words[0]) for each in rows]
        found["scored_again"] = True
    counted = [sums.of_predictions(each, "tuned", words[0]) for each in rows]
    return {
        **found,
        "metrics": _metrics(counted, [question_key(row["input"]) for row in rows[0]], samples, seed),
        "changed": _changed(rows),
    }


def shared(everything: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[Mapping[str, Any]]]:
    """The rows with the same question and reference in all of the runs, in the order of the first."""
    by_content = [_by_content(rows) for rows in everything]
    keys = [key for key in by_content[0] if all(key in each for each in by_content)]
    return [[each[key] for key in keys] for each in by_content]


def _by_content(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, int], Mapping[str, Any]]:
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for row in rows:
        content = row["input"], row["reference"]
        found[*content, seen[content]] = row  # the same pair may stand in a file more than once
        seen[content] += 1
    return found


def _words(run: Run) -> metrics.TokenizerName:
    return ((run.manifest.get("derived") or {}).get("rouge_tokenizer") or {}).get("value", "english")


def _scored_again(rows: Sequence[Mapping[str, Any]], words: metrics.TokenizerName) -> list[Mapping[str, Any]]:
    scores = metrics.row_scores([row["tuned"] for row in rows], sums.references_of(rows), words)
    return [
        {**row, "scores": {**row["scores"], "tuned": {**row["scores"]["tuned"], **now}}}
        for row, now in zip(rows, scores, strict=True)
    ]


def _metrics(
    counted: Sequence[Mapping[str, sums.Sums]], questions: Sequence[str], samples: int, seed: int
) -> dict[str, dict[str, Any]]:
    lifts = [
        bootstrap.lifts(counted[0], [other], questions=questions, samples=samples, seed=seed) for other in counted[1:]
    ]
    found = {}
    for name in dict.fromkeys([*metrics.SET_METRICS, *counted[0]]):
        if all(name in each for each in counted):
            against = [
                {
                    "lift": each[name].mean,
                    "low": each[name].low,
                    "high": each[name].high,
                    "confidence": each[name].confidence,
                    "clear": metrics.verdict(each[name]) != "no clear difference",
                }
                for each in lifts
            ]
            found[name] = {"values": [each[name].value for each in counted], "against_first": [None, *against]}
    return found


def _changed(rows: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    found = []
    for same in zip(*rows, strict=True):
        answers = [row["tuned"] for row in same]
        if len(set(answers)) > 1:
            scores = [row["scores"]["tuned"].get(ORDER_METRIC) for row in same]
            first = same[0]
            found.append(
                {"input": first["input"], "reference": first["reference"], "answers": answers, "scores": scores}
            )
    return sorted(found, key=lambda row: -_reach(row["scores"]))


def _reach(scores: Sequence[float | None]) -> float:
    known = [score for score in scores if score is not None]
    return max(known) - min(known) if known else 0.0
