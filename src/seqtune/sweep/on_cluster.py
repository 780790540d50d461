"""A sweep's trials on a Ray cluster: `seqtune sweep FILE --on ray`; this half never connects to Ray (`cluster.on_ray`).

What trial number N tries is drawn by the run's seed and N alone, not from the trials before it as on one machine: many
are at work at once, and a sweep that was killed goes on without a state of Ray's. Every measurement and every end is a
line of ``study.jsonl``; what stands there is not done again, and a trial that was at work goes on from its checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqtune.cluster import on_ray
from seqtune.errors import RunError
from seqtune.progress import advance, say, warn
from seqtune.settings import DEFAULT
from seqtune.sweep.space import Dimension

LOG = "ray.log"
MEND = "What has been tried is kept: the same command goes on."


def tried(
    folder: Path,
    study: Path,
    given: Mapping[str, Any],
    tries: Sequence[Dimension],
    *,
    trials: int,
    rungs: Sequence[int],
    on: str,
    workers: int | None,
) -> list[dict[str, Any]]:
    """The trials, each come to an end of its own.

    Args:
        folder: of the trials' directories, where all machines of the cluster see it.
        study: the file of measurements.
        given: settings of all runs.
        tries: what is tried.
        trials: how many.
        rungs: per cent of a run after which it may be stopped; empty: none is.
        on: ``ray``, or ``ray://HOST:PORT``.
        workers: how many at once; one for each GPU, or for each machine, unless given.

    Raises:
        RunError: a worker can't use what it was given, or the cluster is gone.
    """
    values = [drawn(tries, given.get("random_state", DEFAULT.random_state), number) for number in range(trials)]
    lines = _read(study)
    ended = {line["trial"]: line for line in lines if "state" in line}
    left = [number for number in range(trials) if number not in ended]
    if left:
        told = {
            "folder": str(folder.absolute()),
            "trials": [
                {"trial": number, "inputs": {**given, **_set(values[number])}, "measured": _measured(lines, number)}
                for number in left
            ],
            "before": [line for line in lines if line["trial"] in ended],
            "rungs": list(rungs),
            "gpu": given.get("device_type") == "cuda",
            "mend": MEND,
        }
        with study.open("a", encoding="utf-8") as kept:
            advance("sweep", len(ended), trials, "trials")
            for line in on_ray.lines_of("seqtune.sweep.ray_trials", on, workers, told, study.with_name(LOG)):
                if line.pop("what") != "trial":
                    say(line["text"])
                    continue
                number = line["trial"]
                if line.pop("begins", False):
                    say(f"trial {number:03}: {_shown(values[number])}")
                    continue
                kept.write(json.dumps(line) + "\n")
                kept.flush()
                os.fsync(kept.fileno())
                if "state" in line:
                    ended[number] = line
                    if line["state"] == "failed":
                        warn(f"trial {number:03} failed: {line['error']}")
                    advance("sweep", len(ended), trials, "trials", **_best(ended))
    missing = [number for number in range(trials) if number not in ended]
    if missing:
        raise RunError(f"{len(missing)} of {trials} trials have not come to an end", mend=MEND)
    names = ("state", "loss", "steps", "of", "error")
    return [
        {
            "number": number, "directory": f"{number:03}", "settings": values[number],
            **{name: ended[number].get(name) for name in names},
        }
        for number in range(trials)
    ]  # fmt: skip


def drawn(tries: Sequence[Dimension], random_state: int, number: int) -> dict[str, Any]:
    """What a trial tries; the first one the settings of a run without a sweep, where these are among them."""
    usual = {each.name: getattr(DEFAULT, each.name) for each in tries}
    if number == 0 and all(each.holds(usual[each.name]) for each in tries):
        return usual
    dice = random.Random(f"{random_state} {number}")
    return {each.name: _one(each, dice) for each in tries}


def _one(each: Dimension, dice: random.Random) -> Any:
    if each.choices:
        return dice.choice(each.choices)
    low, high = each.low, each.high + each.whole  # a whole number n is what is drawn between n and n + 1
    value = math.exp(dice.uniform(math.log(low), math.log(high))) if each.log else dice.uniform(low, high)
    return min(int(value), int(each.high)) if each.whole else min(max(value, each.low), each.high)


def _set(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _read(study: Path) -> list[dict[str, Any]]:
    """The lines so far; half a line at the end, from a kill, is cut off."""
    if not study.exists():
        return []
    content = study.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    study.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def _measured(lines: Sequence[Mapping[str, Any]], number: int) -> dict[str, float]:
    """What a trial measured at each rung, by its per cent: the first time, where a lost worker made it do so twice."""
    found: dict[str, float] = {}
    for line in lines:
        if line["trial"] == number and "per_cent" in line:
            found.setdefault(str(line["per_cent"]), line["loss"])
    return found


def _best(ended: Mapping[int, Mapping[str, Any]]) -> dict[str, float]:
    losses = [line["loss"] for line in ended.values() if line["state"] == "complete"]
    return {"best_validation_loss": min(losses)} if losses else {}


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {v:.3g}" if isinstance(v, float) else f"{name} {v}" for name, v in values.items())
