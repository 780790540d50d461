"""The page `report.html`: verdict, metrics, losses, answers, settings. One file; no script, no network.

Questions, answers and names are text of strangers: the template escapes everything, and the page's
Content-Security-Policy allows neither script nor a single request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

#: How each metric is shown: its key, its name, and whether more is better.
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
        metrics=METRICS,
        curves=loss_curves(log or []),
        predictions={name: rows[:SHOWN_ANSWERS] for name, rows in predictions.items()},
        totals={name: len(rows) for name, rows in predictions.items()},
    )


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
