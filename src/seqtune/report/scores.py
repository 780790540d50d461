"""Base against tuned: the table with its intervals, and what else speaks for or against the figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqtune.report.reading import dig, number, set_name, shown

#: How each metric is shown: its key, its name, and whether more is better. Metrics of your own follow them.
METRICS: tuple[tuple[str, str, bool | None], ...] = (
    ("rougeL", "ROUGE-L", True),
    ("rouge1", "ROUGE-1", True),
    ("rouge2", "ROUGE-2", True),
    ("rougeLsum", "ROUGE-Lsum", True),
    ("bleu", "BLEU", True),
    ("chrf", "chrF", True),
    ("exact_match", "exact match", True),
    ("f1", "token F1", True),
    ("identical", "identical text", True),
    ("bertscore", "BERTScore", True),
    ("embedding_similarity", "embedding similarity", True),
    ("loss", "loss (nats a token)", False),
    ("bits_per_byte", "bits a byte", False),
)

#: Metrics that are no scores from 0 to 100.
NO_PERCENT = ("loss", "bits_per_byte")

SPLITS = ("hold_out", "validation")

#: What the guard rails count, in words.
RAILS = {
    "empty": "empty answers",
    "copies_question": "answers that copy the question",
    "repeats_itself": "answers that repeat themselves",
    "at_limit": "answers that stop at the token limit",
    "memorised": "answers that are a training answer, word for word",
    "memorised_right": "… of these, right here",
}


def table(manifest: Mapping[str, Any], split: str) -> list[dict[str, Any]]:
    """The rows of a set's table: `METRICS` that were measured, then numbers of your own under their own names.

    Returns:
        ``key``, ``name``, ``base``, ``tuned``, ``gain``, ``low``, ``high`` (numbers or None), ``cells`` (the first
        three as text), ``interval`` (text), ``verdict`` ("good", "bad" or "": which way the gain goes, where that is
        known, and not where the interval holds the zero), ``percent`` (whether it is a score from 0 to 100).
    """
    base, tuned = (dig(manifest, "metrics", split, model, default={}) for model in ("base", "tuned"))
    known = {key: (name, way) for key, name, way in METRICS}
    rows = []
    for key in [*known, *(key for key in dict.fromkeys([*base, *tuned]) if key not in known)]:
        name, way = known.get(key, (key, None))
        values = [number(base.get(key)), number(tuned.get(key))]
        if values == [None, None]:
            continue
        gain = None if None in values else values[1] - values[0]  # type: ignore[operator]
        low, high = _interval(manifest, split, key)
        clear = low is None or high is None or low > 0 or high < 0
        sign = "" if not gain or way is None or not clear else "good" if (gain > 0) == way else "bad"
        rows.append(
            {
                "key": key,
                "name": name,
                "base": values[0],
                "tuned": values[1],
                "gain": gain,
                "low": low,
                "high": high,
                "cells": [shown(values[0]), shown(values[1]), shown(gain, signed=True)],
                "interval": "" if low is None else f"{shown(low, signed=True)} to {shown(high, signed=True)}",
                "verdict": sign,
                "percent": key not in NO_PERCENT and all(v is not None and 0 <= v <= 100 for v in values),
            }
        )
    return rows


def _interval(manifest: Mapping[str, Any], split: str, key: str) -> tuple[float | None, float | None]:
    found = dig(manifest, "lifts", split, key)
    verdict = dig(manifest, "verdict", default={})
    if found is None and verdict.get("metric") == key and verdict.get("split") == split:
        found = verdict
    return number(dig(found, "low")), number(dig(found, "high"))


def whisker(row: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """A row's interval as places on a line of 100 units, zero in the middle, better at the right; None without one.

    Scores from 0 to 100 share a scale; every other metric has its own.
    """
    low, high, gain = row["low"], row["high"], row["gain"]
    if low is None or high is None or gain is None:
        return None
    alike = [r for r in rows if r["percent"]] if row["percent"] else [row]
    reach = max(abs(r[end]) for r in alike for end in ("low", "high", "gain") if r[end] is not None) or 1.0
    if row["key"] in NO_PERCENT:
        low, high, gain = -high, -low, -gain
    place = {name: round(50 + 48 * value / reach, 2) for name, value in (("low", low), ("high", high), ("gain", gain))}
    return {**place, "width": round(place["high"] - place["low"], 2)}


def rails(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The guard rails: per set a name, rows, and lines of (what, base, tuned) counts; what nobody counted is absent."""
    found = []
    for split in SPLITS:
        counts = dig(manifest, "guard_rails", split, default={})
        models = [counts.get(model) or {} for model in ("base", "tuned")]
        lines = [
            {"name": RAILS.get(key, key.replace("_", " ")), "counts": [shown(number(m.get(key)), 0) for m in models]}
            for key in dict.fromkeys(key for m in models for key in (*RAILS, *m) if key != "rows" and key in m)
        ]
        if lines:
            rows = next((int(m["rows"]) for m in models if number(m.get("rows")) is not None), 0)
            found.append({"set": set_name(split), "rows": rows, "lines": lines})
    return found


def forgetting(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The loss on general text before and after: ``rows`` and lines of (what, base, tuned); None where not measured."""
    found = dig(manifest, "forgetting")
    if not found:
        return None
    lines = [
        {"name": name, "values": [shown(number(dig(found, model, key)), 3) for model in ("base", "tuned")]}
        for key, name in (("loss", "loss (nats a token)"), ("bits_per_byte", "bits a byte"))
        if number(dig(found, "base", key)) is not None
    ]
    return {"rows": found.get("rows"), "lines": lines} if lines else None


def seeds(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Runs of several seeds: seed, ROUGE-L and loss of the tuned model on the hold-out rows, as text."""
    rows = []
    for each in dig(manifest, "seeds", default=[]):
        tuned = dig(each, "metrics", "hold_out", "tuned", default=dig(each, "metrics", default={}))
        figures = [shown(number(tuned.get(key))) for key in ("rougeL", "loss")]
        rows.append({"seed": each.get("seed"), "figures": figures, "run": each.get("run") or ""})
    return rows
