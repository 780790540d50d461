"""One run of a sweep, up to the end of its training: its directory is that of a run that was stopped there.

Its hold-out rows are not answered, so that none of them takes part in the choice. `seqtune resume` finishes any of
them; the sweep finishes the best.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqtune import claim, preflight
from seqtune.driver import build_driver
from seqtune.engine.checkpoint import Checkpoints
from seqtune.errors import InputError, RunError, SeqtuneError
from seqtune.progress import Progress, overhearing, watching
from seqtune.settings import DEFAULT

#: (steps that are done, steps in all, best validation loss so far) → whether to go on.
Judge = Callable[[int, int, float], bool]


class PrunedError(SeqtuneError):
    """The trial was stopped because others do better; its state is saved."""


class UnfitError(RunError):
    """The settings of this trial do not fit the data or the model; those of others may."""


def trained(out: Path, inputs: Mapping[str, Any], judge: Judge) -> dict[str, Any]:
    """Train, or go on training, the run at ``out``.

    Args:
        out: its directory.
        inputs: the settings.
        judge: asked at every measurement behind the first step.

    Returns:
        ``pruned``, ``loss`` (best on the validation rows, nats a token), ``steps`` (done), ``of`` (all).

    Raises:
        InputError: the place, the data or the base model can't be used.
        RunError: training failed, or its settings do not fit (`UnfitError`).
    """
    seen: dict[str, Any] = {"pruned": False, "loss": None, "steps": 0, "of": 0}
    given = {**inputs, "out": str(out)}
    with claim.claimed(out, given) as folder, tempfile.TemporaryDirectory(prefix="seqtune-") as work:
        minutes = given.get("save_minutes", DEFAULT.save_minutes)
        checkpoints = Checkpoints(folder, given.get("save_steps"), minutes)

        def look(log: Sequence[Mapping[str, Any]], model: Any) -> None:
            step = log[-1]["step"]
            if model is None or not 0 < step < seen["of"]:
                return
            best = min(line["validation_loss"] for line in log if "validation_loss" in line)
            if not judge(step, seen["of"], best):
                seen["pruned"] = True
                checkpoints.save_steps = 1  # this step is saved, and then it ends

        def listen(report: Progress) -> None:
            if report.stage != "training":
                return
            seen.update(loss=report.figures["best_validation_loss"], steps=report.done, of=report.total)
            if seen["pruned"]:
                raise PrunedError("pruned")

        try:
            with watching(look), overhearing(listen):
                found = build_driver({"start": "base"}).execute(
                    ["trained_adapter"], inputs={**given, "work_dir": work}, overrides={"checkpoints": checkpoints}
                )
        except PrunedError:
            return seen
        except InputError as error:
            preflight.check({**inputs, "out": str(out / "trial")})  # of the data or the base: no other would do better
            raise UnfitError(error.headline, error.details, error.mend) from None
        training = found["trained_adapter"].training
        seen.update(loss=training["best_validation_loss"], steps=training["steps"])
        return seen
