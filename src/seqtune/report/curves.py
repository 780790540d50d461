"""The training log as curves: columns by step, few enough points to draw, whatever the length of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seqtune.report.reading import number

#: Points of a curve in the page.
MOST_POINTS = 1500


def of_log(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``steps`` and, for each, ``loss``, ``learning_rate`` and ``speed`` (tokens a second); ``validation`` apart.

    Of a long run each point stands for several steps: their mean, at the last of them.
    """
    steps = [row for row in log if number(row.get("loss")) is not None]
    size = -(-len(steps) // MOST_POINTS) or 1
    parts = [steps[start : start + size] for start in range(0, len(steps), size)]
    measured = [row for row in log if number(row.get("validation_loss")) is not None]
    return {
        "each": size,
        "steps": [part[-1]["step"] for part in parts],
        "loss": [_mean(part, "loss") for part in parts],
        "learning_rate": [part[-1].get("learning_rate") for part in parts],
        "speed": [_speed(part) for part in parts],
        "validation": {
            "steps": [row["step"] for row in measured],
            "loss": [row["validation_loss"] for row in measured],
        },
    }


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return round(sum(row[name] for row in rows) / len(rows), 6)


def _speed(rows: Sequence[Mapping[str, Any]]) -> float | None:
    seconds = sum(row.get("seconds") or 0.0 for row in rows)
    return round(sum(row.get("tokens") or 0 for row in rows) / seconds, 1) if seconds else None
