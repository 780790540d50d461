"""Finished runs side by side: what differs in how they were made, what differs in what came out, and which is best.

| file | what |
|---|---|
| `differences` | settings, data, base model, versions and machine that are not the same |
| `answers` | the rows that runs share; their metrics with paired intervals; the answers that changed |
| `listing` | the runs of a folder, best first |
| `table`, `page` | both for the terminal, and as one HTML file |

Nothing here needs PyTorch: all of it is read from the run directories.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqtune.comparing import answers, differences
from seqtune.errors import InputError
from seqtune.run import Run


def compare(paths: Sequence[str | Path], samples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Everything that differs between two or more finished runs; the first is what the others are compared with.

    Args:
        paths: run directories.
        samples: resamplings of the paired bootstrap.
        seed: of the drawing.

    Returns:
        ``runs`` (name, path, verdict), ``differences`` (`differences.between`), ``sets`` (`answers.compared`, for each
        of ``hold_out`` and ``validation``) and ``notes``: what to bear in mind, a sentence each.

    Raises:
        InputError: fewer than two runs, or one that is no finished run or lacks its predictions.
    """
    if len(paths) < 2:
        raise InputError("one run alone can't be compared", mend="Name two run directories or more.")
    runs = [Run(path) for path in paths]
    for run in runs:
        try:
            _ = run.predictions
        except (OSError, ValueError) as error:
            mend = "Make the run again, or bring its predictions/ back."
            raise InputError(f"{run.path}: its predictions can't be read ({error})", mend=mend) from None
    names = _names(runs)
    found = differences.between([run.manifest for run in runs])
    sets = {split: answers.compared(runs, split, samples, seed) for split in ("hold_out", "validation")}
    return {
        "runs": [
            {"name": name, "path": str(run.path), "created": run.manifest.get("created"), **_said(run)}
            for name, run in zip(names, runs, strict=True)
        ],
        "differences": found,
        "sets": sets,
        "notes": _notes(found, sets),
    }


def _names(runs: Sequence[Run]) -> list[str]:
    """The folders' names, with as much of the path before them as tells them apart."""
    paths = [run.path.absolute() for run in runs]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]


def _said(run: Run) -> dict[str, Any]:
    verdict = run.manifest.get("verdict") or {}
    return {"verdict": verdict.get("verdict"), "sentence": verdict.get("sentence")}


def _notes(found: dict[str, Any], sets: dict[str, Any]) -> list[str]:
    notes = []
    if "sha256" in found["data"]:
        notes.append("the runs were made from other data: a shared hold-out row may have been trained on by another")
    for split, each in sets.items():
        if not each["rows"]:
            notes.append(f"the runs share no {split.replace('_', '-')} row, so there are no scores to compare")
        elif each["rows"] < max(each["of"]):
            notes.append(
                f"{each['rows']} {split.replace('_', '-')} rows are shared, of {' and '.join(map(str, each['of']))}"
            )
        if each["scored_again"]:
            notes.append(f"the {split.replace('_', '-')} answers were scored again, by the words of the first run")
    return notes
