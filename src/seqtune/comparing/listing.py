"""The runs of a folder, best first, and their curves as a line of characters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from seqtune.errors import InputError, did_you_mean
from seqtune.run import MANIFEST, Run, is_unfinished

BARS = "▁▂▃▄▅▆▇█"
#: Columns of a curve.
WIDTH = 16


def runs_of(folder: str | Path) -> list[dict[str, Any]]:
    """The runs in a folder: finished ones by data, best first; then those that are not finished or can't be read.

    Runs of other data or hold-out rows can't be ranked against each other: they are groups of their own, in the order
    of their newest run.

    Returns:
        A dict a run: ``name``, ``path``, ``state`` (finished, stopped, damaged), and of finished ones ``group`` (a
        number), ``created``, ``model_id``, ``data``, ``metric``, ``base``, ``tuned``, ``low``, ``high`` (of the lift),
        ``verdict``, ``steps``, ``loss`` and ``validation_loss`` (the curves).

    Raises:
        InputError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        hint = did_you_mean(
            folder.name, sorted(each.name for each in folder.absolute().parent.glob("*") if each.is_dir())
        )
        mend = "`seqtune finetune` makes the folder runs/ where it is started."
        raise InputError(f"{folder}: no such folder" + (f"; {hint}" if hint else ""), mend=mend)
    places = [folder, *sorted(folder.glob("*"))]
    places = [place for place in places if place.is_dir() and ((place / MANIFEST).is_file() or is_unfinished(place))]
    found = [_facts(place) for place in places]
    groups: dict[Any, list[dict[str, Any]]] = {}
    for each in found:
        if each["state"] == "finished":
            groups.setdefault(each.pop("rows_scored"), []).append(each)
    ordered = sorted(groups.values(), key=lambda group: max(each["created"] or "" for each in group), reverse=True)
    ranked = []
    for number, group in enumerate(ordered, 1):
        group.sort(key=lambda each: (-_known(each["tuned"]), each["name"]))
        ranked += [{**each, "group": number} for each in group]
    return [*ranked, *(each for each in found if each["state"] != "finished")]


def _facts(place: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": place.name or str(place), "path": str(place)}
    if is_unfinished(place) and not (place / MANIFEST).is_file():
        return {**facts, "state": "stopped"}
    try:
        run = Run(place)
        manifest, verdict = run.manifest, run.manifest["verdict"]
        metric, scores = verdict["metric"], run.metrics["hold_out"]
        data = manifest["data"]
        log = run.log or []
        return {
            **facts,
            "state": "finished",
            "rows_scored": (data.get("sha256"), str(data.get("splits")), manifest["settings"].get("random_state")),
            "created": manifest.get("created"),
            "model_id": manifest["settings"].get("model_id"),
            "data": Path(str((data["sources"]["data"])["path"])).name,
            "metric": metric,
            "base": scores["base"].get(metric),
            "tuned": scores["tuned"].get(metric),
            "low": verdict["low"],
            "high": verdict["high"],
            "verdict": verdict["verdict"],
            "steps": (manifest.get("training") or {}).get("steps"),
            "loss": [row["loss"] for row in log if "loss" in row],
            "validation_loss": [row["validation_loss"] for row in log if "validation_loss" in row],
        }
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.headline if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return {**facts, "state": "damaged", "reason": reason}


def sparkline(values: Iterable[float | None], width: int = WIDTH) -> str:
    """A curve as bars, from the lowest value to the highest; the means of its parts where there are more than fit."""
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not known:
        return ""
    points = _means(known, width)
    low, span = min(points), max(points) - min(points)
    if span == 0:
        return BARS[0] * len(points)
    return "".join(BARS[min(len(BARS) - 1, int((value - low) / span * len(BARS)))] for value in points)


def _means(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        return list(values)
    ends = [round(part * len(values) / width) for part in range(width + 1)]
    return [math.fsum(values[a:b]) / (b - a) for a, b in itertools.pairwise(ends)]


def _known(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else -math.inf
