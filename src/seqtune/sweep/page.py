"""The sweep's report: parallel coordinates, the trials, the best one's verdict. One file, no script, no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from seqtune.run import Run

WIDTH, HEIGHT, TOP, SIDE = 860, 320, 34, 70


def render(result: Mapping[str, Any], tries: Sequence[str], run: Run) -> str:
    """The page.

    Args:
        result: of `study.sweep`.
        tries: what was tried, as it was written.
        run: of the best trial, finished.
    """
    trials = sorted(result["trials"], key=lambda each: (each["loss"] is None, each["loss"] or 0.0))
    environment = Environment(
        loader=PackageLoader("seqtune.sweep"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    steps = [(each["steps"] or 0, each["of"] or 0) for each in trials]
    return environment.get_template("sweep.html.j2").render(
        trials=trials,
        best=result["best"],
        names=[text.partition("=")[0] for text in tries],
        tries=tries,
        axes=axes(trials, tries),
        lines=lines(trials, tries, result["best"]),
        steps=sum(done for done, _ in steps),
        of=sum(total for _, total in steps),
        verdict=run.manifest["verdict"],
        metrics=run.metrics["hold_out"],
        place=f"trials/{run.path.name}",
        width=WIDTH,
        height=HEIGHT,
        shown=shown,
    )


def shown(value: Any) -> str:
    """A setting's value or a loss, as a person reads it."""
    if value is None:
        return "default"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def axes(trials: Sequence[Mapping[str, Any]], tries: Sequence[str]) -> list[dict[str, Any]]:
    """An axis for each setting and one for the loss: its place, its name, its marks."""
    places = []
    for index, (name, scale) in enumerate(_scales(trials, tries)):
        marks = [{"y": _y(scale(value)), "text": shown(value)} for value in scale.marks]
        places.append({"x": _x(index, len(tries)), "name": name, "marks": marks})
    return places


def lines(trials: Sequence[Mapping[str, Any]], tries: Sequence[str], best: int) -> list[dict[str, Any]]:
    """A line for each trial that has a loss; pruned ones at the loss that they had."""
    drawn = []
    for each in reversed(trials):
        if each["loss"] is None:
            continue
        values = [*(each["settings"].get(text.partition("=")[0]) for text in tries), each["loss"]]
        scales = [scale for _, scale in _scales(trials, tries)]
        points = [
            f"{_x(i, len(tries)):.1f},{_y(scale(v)):.1f}"
            for i, (scale, v) in enumerate(zip(scales, values, strict=True))
        ]
        kind = "best" if each["number"] == best else each["state"]
        title = f"{each['directory']}: {', '.join(map(shown, values))}"
        drawn.append({"points": " ".join(points), "kind": kind, "title": title})
    return drawn


class _Scale:
    """A place between 0 and 1 for each value: names by their order, numbers by size, or by logarithm if asked."""

    def __init__(self, values: Sequence[Any], log: bool):
        self.numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        self.log = log and self.numbers and all(value > 0 for value in values)
        self.order = sorted(set(values), key=lambda value: (value is None, value if self.numbers else str(value)))
        low, high = self.order[0], self.order[-1]
        self.marks = [low, high] if self.numbers and len(self.order) > 4 and low != high else self.order

    def __call__(self, value: Any) -> float:
        if not self.numbers:
            return self.order.index(value) / max(1, len(self.order) - 1)
        low, high, at = (math.log(v) if self.log else v for v in (self.order[0], self.order[-1], value))
        return (at - low) / (high - low) if high > low else 0.5


def _scales(trials: Sequence[Mapping[str, Any]], tries: Sequence[str]) -> list[tuple[str, _Scale]]:
    found = []
    for text in tries:
        name = text.partition("=")[0]
        found.append((name, _Scale([each["settings"].get(name) for each in trials], text.endswith(":log"))))
    losses = [each["loss"] for each in trials if each["loss"] is not None]
    return [*found, ("validation loss", _Scale(losses, False))]


def _x(index: int, last: int) -> float:
    return SIDE + index * (WIDTH - 2 * SIDE) / max(1, last)


def _y(share: float) -> float:
    return TOP + (1 - share) * (HEIGHT - 2 * TOP)
