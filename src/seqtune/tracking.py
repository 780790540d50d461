"""A run followed by TensorBoard, MLflow, Weights & Biases or Trackio, through Accelerate's own trackers.

The tracker sees what `progress.show` shows: each step's loss, learning rate and speed, each validation loss; at the end
the scores of the hold-out rows, the table of them, the manifest and the report, where it keeps files. It never touches
the training: no random number is drawn from its generators, and a tracker that fails is let go with a warning.

Files: TensorBoard's lie in ``tensorboard/`` beside the run directory; the others go by their own settings
(``MLFLOW_TRACKING_URI``, ``WANDB_MODE``, ``TRACKIO_DIR`` …). Settings and manifest are given as `seqtune.publishing`
publishes them, without paths of this machine and without examples of rows. The report is given as it is: it names the
file of the rows, and holds answers where ``report_text`` asked for them. Weights & Biases sends all of it to its
servers unless ``WANDB_MODE=offline``; what it would take of the machine by itself (the terminal's output, the command
line, the folder, the host's name, the packages) is switched off.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from seqtune import card, progress, publishing, run
from seqtune.errors import InputError
from seqtune.settings import DEFAULT

#: What each tracker's package is called.
PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}
NAMES = tuple(PACKAGES)
#: The project, or experiment, that runs are listed under.
PROJECT = "seqtune"
#: Of a line of the log, what is drawn as a curve.
CURVES = ("loss", "validation_loss", "learning_rate", "grad_norm", "epoch")

#: Of Weights & Biases' settings: nothing is taken of the machine, nor of what the terminal shows.
_WANDB: dict[str, Any] = {
    "console": "off",
    "disable_git": True,
    "host": "seqtune",
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}


class Tracking:
    """One run's tracker, from before training to the end.

    Args:
        name: one of `NAMES`.
        out: the run directory.
        settings: those that were given.

    Raises:
        InputError: an unknown tracker, or its package is missing.
    """

    def __init__(self, name: str, out: str | Path, settings: Mapping[str, Any]):
        check(name)
        self.name, self.out = name, Path(out)
        self._log: Sequence[dict[str, Any]] | None = None
        self._seen = 0
        self._tracker: Any = None
        self._failed = False
        known = {**DEFAULT.model_dump(), **settings}
        plain = {n: v for n, v in known.items() if v is not None and not publishing.PRIVATE.search(n)}
        self._safely(lambda: self._start({**plain, "model_id": card.public_name(str(known["model_id"] or ""))}))

    def shown(self, log: Sequence[dict[str, Any]], model: Any = None) -> None:
        """Take in the lines of the log that are new; of the run's own training, not of those of other seeds."""
        if self._log is None:
            self._log = log
        if log is not self._log or model is not None:  # with a model, the line of the step is not complete yet
            return
        for line in log[self._seen :]:
            self._safely(self._line, line)
        self._seen = len(log)

    def finish(self, path: Path | None) -> None:
        """Give the tracker what came out, and close it.

        Args:
            path: the run directory; None where the run was stopped or failed, which the tracker then shows.
        """
        if path is not None:
            self._safely(self._results, run.Run(path))
        self._safely(self._close, path is not None)

    def _start(self, settings: dict[str, Any]) -> None:
        from accelerate import PartialState, tracking

        PartialState()  # the trackers log through it; the loop sets it up anew
        title = self.out.absolute().name
        if self.name == "tensorboard":
            folder = self.out.absolute().parent / "tensorboard"
            self._tracker = tracking.TensorBoardTracker(title, folder)
        elif self.name == "mlflow":
            self._tracker = tracking.MLflowTracker(experiment_name=PROJECT, run_name=title)
        elif self.name == "wandb":
            import wandb  # pyright: ignore[reportMissingImports]

            self._tracker = tracking.WandBTracker(PROJECT, name=title, settings=wandb.Settings(**_WANDB))
        else:
            self._tracker = tracking.TrackioTracker(PROJECT, name=title)
        self._tracker.main_process_only = False  # else a state of Accelerate is made, which training makes its own way
        self._tracker.start()
        self._tracker.store_init_configuration(settings)

    def _line(self, line: Mapping[str, Any]) -> None:
        values = {f"training/{name}": line[name] for name in CURVES if name in line}
        if line.get("seconds"):
            values["training/tokens_per_second"] = line["tokens"] / line["seconds"]
        self._tracker.log(values, step=line["step"])

    def _results(self, finished: run.Run) -> None:
        step = (finished.manifest.get("training") or {}).get("steps") or 0
        scores = {
            f"{split}/{model}/{name}": value
            for split, models in finished.metrics.items()
            for model, each in models.items()
            for name, value in each.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._tracker.log(scores, step=step)
        heading, rows = card.score_rows(finished.manifest)
        with tempfile.TemporaryDirectory(prefix="seqtune-") as folder:
            manifest = Path(folder) / run.MANIFEST
            run.write_json(manifest, publishing.public_manifest(finished.manifest))
            self._artefacts(heading, rows, _sentence(finished), finished.path / run.REPORT, manifest, step)

    def _artefacts(
        self,
        heading: Sequence[str],
        rows: Sequence[Sequence[str]],
        verdict: str,
        report: Path,
        manifest: Path,
        step: int,
    ) -> None:
        """The table of the scores, the verdict, and where the tracker keeps files the report and the manifest."""
        title = self.out.absolute().name
        if self.name == "tensorboard":
            self._tracker.log({"scores": card.table(heading, rows), "verdict": verdict}, step=step)
        elif self.name == "mlflow":
            import mlflow

            mlflow.log_table({name: [row[n] for row in rows] for n, name in enumerate(heading)}, "scores.json")
            mlflow.set_tag("verdict", verdict)
            for file in (report, manifest):
                self._tracker.log_artifact(str(file))
        elif self.name == "wandb":
            self._tracker.log_table("scores", columns=list(heading), data=[list(row) for row in rows], step=step)
            self._tracker.tracker.summary["verdict"] = verdict
            for file, kind in ((report, "report"), (manifest, "manifest")):
                self._tracker.tracker.log_artifact(str(file), name=f"{title}-{kind}", type=kind)
        else:
            import trackio  # pyright: ignore[reportMissingImports]

            table = trackio.Table(columns=list(heading), data=[list(row) for row in rows])
            self._tracker.log({"scores": table, "verdict": verdict}, step=step)
            for file, kind in ((report, "report"), (manifest, "manifest")):
                self._tracker.tracker.log_artifact(str(file), name=f"{title}-{kind}", type=kind)

    def _close(self, whole: bool) -> None:
        """Close the tracker; of a run that broke off it is said so, where the tracker knows a word for it."""
        if self.name == "mlflow" and not whole:
            import mlflow

            mlflow.end_run("FAILED")
        elif self.name == "wandb" and not whole:
            self._tracker.tracker.finish(exit_code=1)
        elif self.name == "trackio":
            import trackio  # pyright: ignore[reportMissingImports]

            trackio.finish()  # by Accelerate's way it is done again when the process ends, and prints that
        else:
            self._tracker.finish()

    def _safely(self, call: Callable[..., None], *arguments: Any) -> None:
        """A tracker that fails must not end a training: it is said once, and the run goes on without it."""
        if self._failed:
            return
        try:
            with redirect_stdout(sys.stderr):  # what a tracker says of itself is no output of the command
                call(*arguments)
        except Exception as error:
            progress.warn(f"{self.name} failed, and the run goes on without it ({type(error).__name__}: {error})")
            self._failed = True


def check(name: str) -> None:
    """Refuse a tracker that is unknown or not installed.

    Raises:
        InputError: saying what to install.
    """
    if name not in PACKAGES:
        raise InputError(f"track = {name!r}   expected {', '.join(NAMES)}")
    if not any(importlib.util.find_spec(package) for package in PACKAGES[name]):
        package = PACKAGES[name][-1]
        raise InputError(
            f"{name} is not installed", mend=f"pip install {package}   (seqtune[track] has TensorBoard and MLflow)"
        )


@contextmanager
def tracked(name: str, out: str | Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Follow the training in the block with a tracker; the run is at ``out`` when it ends.

    Args:
        name: one of `NAMES`.
        out: the run directory.
        settings: those that were given.

    Raises:
        InputError: as `check`.
    """
    tracking = Tracking(name, out, settings)
    done = False
    try:
        with progress.watching(tracking.shown):
            yield
        done = True
    finally:
        tracking.finish(Path(out) if done and run.is_finished(Path(out)) else None)


def _sentence(finished: run.Run) -> str:
    return str((finished.manifest.get("verdict") or {}).get("sentence") or "")
