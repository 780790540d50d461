"""How long the rows are, in tokens: percentiles, a histogram, the limits, and what a limit cuts off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoConfig

from seqtune.data.findings import Finding
from seqtune.data.tokens import SIDES, UNLIMITED, sizes_of
from seqtune.errors import InputError
from seqtune.models import families
from seqtune.progress import say, warn

PERCENTILES = (50, 90, 95, 99)
#: Bars of a histogram, the last of which holds whatever is longer than nearly all rows.
BARS = 20
#: Heights of a histogram in a line of text.
BLOCKS = "▁▂▃▄▅▆▇█"


def measure(encoded_set: Dataset) -> dict[str, dict[str, Any]]:
    """For ``source`` and ``target``: the percentiles ``p50`` … ``p99`` and the maximum of the lengths, in tokens; their
    ``total``; and a ``histogram`` (`histogram`).

    Args:
        encoded_set: as `tokens.encoded` makes it.
    """
    measured = {}
    for side, sizes in _sizes(encoded_set).items():
        at = {f"p{p}": int(np.percentile(sizes, p, method="higher")) for p in PERCENTILES}
        measured[side] = {**at, "max": int(sizes.max()), "total": int(sizes.sum()), "histogram": histogram(sizes)}
    return measured


def histogram(sizes: np.ndarray) -> dict[str, list[int]]:
    """How many rows have a length from ``edges[i]`` up to, not including, ``edges[i + 1]``: ``counts[i]``."""
    longest = int(sizes.max())
    width = max(1, -(-int(np.percentile(sizes, 99, method="higher")) // (BARS - 1)))
    edges = [*range(0, min(longest + 1, width * (BARS - 1) + 1), width)]
    edges.append(max(longest + 1, edges[-1] + width))
    return {"edges": edges, "counts": np.histogram(sizes, bins=edges)[0].tolist()}


def line_of(found: Mapping[str, Sequence[int]]) -> str:
    """A histogram in a line of text: ``0 ▁▃█▆▂▁ 240``."""
    top = max(found["counts"]) + 1
    bars = "".join(BLOCKS[len(BLOCKS) * count // top] if count else " " for count in found["counts"])
    return f"{found['edges'][0]:,} {bars} {found['edges'][-1] - 1:,}"


def limits(
    training_lengths: Mapping[str, Mapping[str, int]], settings: Mapping[str, Any], model_path: str
) -> dict[str, dict[str, Any]]:
    """For ``source`` and ``target``: the limit in tokens (``value``), why it is that (``reason``), ``positions``.

    Given limits are taken as they are; else it is what the model can take. Batches are padded to their own longest row,
    so that a generous limit costs nothing. ``positions`` is how many the model has, None where it has no limit.

    Raises:
        InputError: a given limit is more than the model can take.
    """
    decided = {}
    config = AutoConfig.from_pretrained(model_path)
    for side, positions in zip(SIDES, families.position_limits(config), strict=True):
        given = settings[f"max_{side}_length"]
        if given is not None and positions is not None and given > positions:
            raise InputError(
                f"max_{side}_length = {given}   expected at most {positions}, the model's number of positions",
                mend=f"Leave out --max-{side}-length to use what the model takes.",
            )
        if given is not None:
            value, reason = given, "given"
        elif positions is not None:
            value, reason = positions, "the model's number of positions"
        else:
            value, reason = UNLIMITED, "the limit where the model has none"
        decided[side] = {"value": value, "reason": reason, "positions": positions}
        at = "  ".join(f"{name} {training_lengths[side][name]}" for name in ("p50", "p95", "p99", "max"))
        say(f"{side} length: at most {value} tokens ({reason}); training rows: {at}")
    return decided


def cut_report(
    sets: Mapping[str, Dataset], length_limits: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, int]]]:
    """For each set and side: how many ``rows`` are cut and how many ``tokens`` they lose."""
    report: dict[str, dict[str, dict[str, int]]] = {}
    for name, rows in sets.items():
        report[name] = {}
        for side, sizes in _sizes(rows).items():
            limit = length_limits[side]["value"]
            over = sizes[sizes > limit] - limit
            report[name][side] = {"rows": int(over.size), "tokens": int(over.sum())}
            if over.size:
                warn(
                    f"{over.size} of {sizes.size} {name.replace('_', '-')} rows have a {side} of more than "
                    f"{limit} tokens: "
                    f"{int(over.sum()):,} tokens ({over.sum() / sizes.sum():.1%}) are cut off "
                    f"({length_limits[side]['reason']}; --max-{side}-length changes it)"
                )
    return report


def finding(
    measured: Mapping[str, Mapping[str, Any]],
    length_limits: Mapping[str, Mapping[str, Any]],
    cut: Mapping[str, Mapping[str, Mapping[str, int]]],
    rows: int,
) -> Finding:
    """The lengths as a check of the data: percentiles, a small histogram, and what the limits cut off.

    Args:
        measured: as `measure` makes it.
        length_limits: as `limits` makes them.
        cut: as `cut_report` makes it.
        rows: training rows.
    """
    lines = []
    for side in SIDES:
        at = "  ".join(f"{name} {measured[side][name]:,}" for name in ("p50", "p95", "p99", "max"))
        limit = length_limits[side]["value"]
        lines.append(f"{side:6}  {at}   {line_of(measured[side]['histogram'])}   limit {limit:,}")
    over = max(cut["train"][side]["rows"] for side in SIDES)
    if not over:
        return Finding("lengths", "PASS", "no training row is longer than the limits (tokens)", 0, rows, tuple(lines))
    lost = [
        f"{cut['train'][side]['tokens'] / max(1, measured[side]['total']):.1%} of the {side} tokens" for side in SIDES
    ]
    options = " or ".join(f"--max-{side}-length" for side in SIDES if cut["train"][side]["rows"])
    return Finding(
        "lengths",
        "WARN",
        f"{over:,} of {rows:,} training rows are longer than a limit: {' and '.join(lost)} would be cut off",
        over,
        rows,
        tuple(lines),
        f"Shorten them, or raise {options} as far as the model and the memory go.",
    )


def _sizes(encoded_set: Dataset) -> dict[str, np.ndarray]:
    return {"source": sizes_of(encoded_set, "input_ids"), "target": sizes_of(encoded_set, "labels")}
