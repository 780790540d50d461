"""The page `report.html`: verdict, metrics, losses, answers, settings. One file; no script, no network.

Questions, answers and names are text of strangers: the template escapes everything, and the page's
Content-Security-Policy allows neither script nor a single request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

#: How each metric is shown: its key, its name, and whether more is better. Metrics of your own follow them.
METRICS = (
    ("rougeL", "ROUGE-L", True),
    ("rouge1", "ROUGE-1", True),
    ("rouge2", "ROUGE-2", True),
    ("rougeLsum", "ROUGE-Lsum", True),
    ("bleu", "BLEU", True),
    ("chrf", "chrF", True),
    ("exact_match", "exact match", True),
    ("loss", "loss (nats a token)", False),
    ("bits_per_byte", "bits a byte", False),
)

#: Answers shown of each set.
SHOWN_ANSWERS = 100

#: Characters shown of an extra field's key and of its value.
SHOWN_OF_EXTRA = 80

WIDTH, HEIGHT = 640, 200


def render(
    manifest: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]] | None,
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """The page as text.

    Args:
        manifest: the content of ``run.json``.
        log: a dict per step, or None where training is unknown.
        predictions: the predictions of each set.
    """
    environment = Environment(
        loader=PackageLoader("seqtune.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        manifest=manifest,
        metrics=metric_rows(manifest["metrics"]),
        extra_line=extra_line,
        curves=loss_curves(log or []),
        predictions={name: rows[:SHOWN_ANSWERS] for name, rows in predictions.items()},
        totals={name: len(rows) for name, rows in predictions.items()},
    )


def metric_rows(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of the table: METRICS that were measured, then numbers of your own under their own names.

    Returns:
        ``name``; ``cells``: base and tuned on the hold-out, their difference, base and tuned on the validation rows, as
        text, "–" where there is none; ``good``: whether the tuned model is better (False where that is not known).
    """
    places = [metrics[split][model] for split in ("hold_out", "validation") for model in ("base", "tuned")]
    ours = [key for key, _, _ in METRICS]
    own = dict.fromkeys(key for place in places for key in place if key not in ours)
    rows = []
    for key, name, more_is_better in (*METRICS, *((key, key, None) for key in own)):
        values = [_number(place.get(key)) for place in places]
        if values == [None] * 4:
            continue
        base, tuned = values[:2]
        gain = None if base is None or tuned is None else tuned - base
        cells = ["–" if value is None else f"{value:.2f}" for value in values]
        cells.insert(2, "–" if gain is None else f"{gain:+.2f}")
        good = gain is not None and more_is_better is not None and gain != 0 and (gain > 0) == more_is_better
        rows.append({"name": name, "cells": cells, "good": good})
    return rows


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def extra_line(extra: Mapping[str, Any]) -> str:
    """A row's other fields in a line: ``topic: errors · id: 7``; what is long is cut."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in extra.items()
    }
    return " · ".join(f"{_cut(key)}: {_cut(text)}" for key, text in texts.items())


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_OF_EXTRA else text[: SHOWN_OF_EXTRA - 1] + "…"


def loss_curves(log: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The losses by step as points of an SVG of `WIDTH` × `HEIGHT`, the best step marked; None without two points."""
    series = {name: [(row["step"], row[name]) for row in log if name in row] for name in ("loss", "validation_loss")}
    points = [point for line in series.values() for point in line]
    if len(points) < 2:
        return None
    last = max(step for step, _ in points) or 1
    low, high = min(value for _, value in points), max(value for _, value in points)
    span = (high - low) or 1.0

    def place(step: int, value: float) -> str:
        return f"{step / last * WIDTH:.1f},{(high - value) / span * HEIGHT:.1f}"

    return {
        "width": WIDTH,
        "height": HEIGHT,
        "low": low,
        "high": high,
        "last": last,
        "lines": {name: " ".join(place(*point) for point in line) for name, line in series.items()},
    }
