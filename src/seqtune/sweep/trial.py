"""One run of a sweep, up to the end of its training: its directory is that of a run that was stopped there.

Its hold-out rows are not answered, so that none of them takes part in the choice. `seqtune resume` finishes any of
them; the sweep finishes the best.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seqtune import claim
from seqtune.driver import build_driver
from seqtune.engine.checkpoint import Checkpoints
from seqtune.errors import SeqtuneError
from seqtune.progress import Progress, overhearing
from seqtune.settings import DEFAULT

#: (share of the training that is done, best validation loss so far) → whether to go on.
Judge = Callable[[float, float], bool]


class PrunedError(SeqtuneError):
    """The trial was stopped because others do better; its state is saved."""


def trained(out: Path, inputs: Mapping[str, Any], judge: Judge) -> dict[str, Any]:
    """Train, or go on training, the run at ``out``.

    Args:
        out: its directory.
        inputs: the settings.
        judge: asked after every step.

    Returns:
        ``pruned``, ``loss`` (best on the validation rows, nats a token), ``steps`` (done), ``of`` (all).

    Raises:
        InputError: the settings or the data can't be used.
        RunError: training failed.
    """
    seen: dict[str, Any] = {"pruned": False, "loss": None, "steps": 0, "of": 0}
    given = {**inputs, "out": str(out)}
    with claim.claimed(out, given) as folder, tempfile.TemporaryDirectory(prefix="seqtune-") as work:
        minutes = given.get("save_minutes", DEFAULT.save_minutes)
        checkpoints = Checkpoints(folder, given.get("save_steps"), minutes)

        def listen(report: Progress) -> None:
            if report.stage != "training":
                return
            best = report.figures["best_validation_loss"]
            seen.update(loss=best, steps=report.done, of=report.total)
            if seen["pruned"]:
                raise PrunedError("pruned")
            if report.done < report.total and not judge(report.done / report.total, best):
                seen["pruned"] = True
                checkpoints.save_steps = 1  # after the next step it is saved, and left

        try:
            with overhearing(listen):
                found = build_driver({"start": "base"}).execute(
                    ["trained_adapter"], inputs={**given, "work_dir": work}, overrides={"checkpoints": checkpoints}
                )
        except PrunedError:
            return seen
        training = found["trained_adapter"].training
        of = seen["of"] or training["steps"]  # one that was killed behind its last step takes none
        return {"pruned": False, "loss": training["best_validation_loss"], "steps": training["steps"], "of": of}
