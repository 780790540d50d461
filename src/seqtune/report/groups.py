"""Scores by the values of the rows' other fields: category, language, whatever the file had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seqtune import metrics
from seqtune.report.reading import number, shown

#: A field with more values than this tells rows apart, it does not group them.
MOST_VALUES = 30

#: Resamples behind the interval of a group's lift.
SAMPLES = 1000

#: Characters shown of a field's name and of its values.
LONGEST = 60

Rows = Sequence[Mapping[str, Any]]


def fields(rows: Rows) -> dict[str, list[str | None]]:
    """The fields that group these rows, each with its value in every row (None where a row lacks it)."""
    found: dict[str, list[str | None]] = {}
    for name in dict.fromkeys(name for row in rows for name in row.get("extra") or {}):
        values = [_value((row.get("extra") or {}).get(name)) for row in rows]
        distinct = {value for value in values if value is not None}
        there = sum(value is not None for value in values)
        if 2 <= len(distinct) <= MOST_VALUES and there >= 2 * len(distinct):
            found[name] = values
    return found


def by_field(rows: Rows, metric: str) -> list[dict[str, Any]]:
    """For every field that groups the rows: its name and lines with value, rows, base, tuned, lift and interval.

    Each line has ``cells`` (text) and ``base`` and ``tuned`` (0–100), the worst first.
    """
    tables = []
    for name, values in fields(rows).items():
        lines = []
        for value in dict.fromkeys(value for value in values if value is not None):
            of = [row for row, its in zip(rows, values, strict=True) if its == value]
            pairs = [
                (base, tuned)
                for row in of
                if (base := number(row["scores"]["base"].get(metric))) is not None
                and (tuned := number(row["scores"]["tuned"].get(metric))) is not None
            ]
            if pairs:
                lines.append(_line(value, pairs))
        tables.append({"name": _cut(name), "lines": sorted(lines, key=lambda line: line["tuned"])})
    return tables


def _line(value: str, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    base, tuned = (sum(part) / len(pairs) for part in zip(*pairs, strict=True))
    interval = "too few rows"
    if len(pairs) >= 5:
        lift = metrics.lift([b for b, _ in pairs], [t for _, t in pairs], samples=SAMPLES, seed=0)
        interval = f"{shown(lift.low, 1, signed=True)} to {shown(lift.high, 1, signed=True)}"
    return {
        "value": _cut(value),
        "rows": len(pairs),
        "base": round(max(0.0, min(base, 100.0)), 2),
        "tuned": round(max(0.0, min(tuned, 100.0)), 2),
        "cells": [shown(base, 1), shown(tuned, 1), shown(tuned - base, 1, signed=True), interval],
    }


def _value(value: Any) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, str | int) else None


def _cut(text: str) -> str:
    text = " ".join(text.split()) or "(empty)"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
