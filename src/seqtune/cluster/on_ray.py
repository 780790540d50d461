"""The same run with its training on a Ray cluster: `seqtune finetune … --on ray`, or ``--on ray://HOST:PORT``.

The dataflow stays in this process, which never connects to Ray: a child does (`ray_driver`), and tells what happens in
lines of JSON. Ray ends a process whose cluster is gone for good; here that is the child, and the run is left as any run
that was stopped, to go on with or without Ray. Checkpoints are the run's own, in its own directory, which the workers
must see (one machine, or a shared file system), or behind a URI (`storage`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqtune.cluster.steps import Halves
from seqtune.cluster.storage import Storage, with_endpoint
from seqtune.engine.checkpoint import Checkpoints
from seqtune.errors import InputError, RunError
from seqtune.progress import advance, say, show, warn

JOB, LOG = "job", "ray.log"


def check(on: str | None, workers: int | None, storage: str | None = None) -> None:
    """Refuse an address that is none, and Ray where it is not installed.

    Raises:
        InputError: one of these.
    """
    if not on:
        for name, value in (("workers", workers), ("storage", storage)):
            if value is not None:
                raise InputError(f"{name}: has no use without --on ray")
        return
    if on != "ray" and not on.startswith("ray://"):
        raise InputError(f"on = {on!r}   expected ray (started here) or ray://HOST:PORT")
    if importlib.util.find_spec("ray") is None:
        raise InputError("Ray is not installed", mend="pip install 'seqtune[ray]'")


def delivered(
    inputs: Mapping[str, Any], on: str, workers: int | None, storage: str | None = None, adapters: Sequence[Any] = ()
) -> Path:
    """The run of the dataflow, its training on the cluster; returns the run directory.

    Args:
        inputs: of the dataflow.
        on: ``ray`` or an address.
        workers: how many.
        storage: a URI, where the workers do not see the run directory.
        adapters: of the dataflow's driver.

    Raises:
        InputError: the storage can't be used.
        RunError: training failed, or the cluster is gone.
    """
    halves = Halves(inputs, adapters)
    checkpoints, job = halves.checkpoints, halves.job()
    if checkpoints.folder is None:
        raise InputError("checkpoints_path is needed to train on Ray")
    folder = checkpoints.folder.absolute()
    shelf = Storage(with_endpoint(storage)) if storage is not None else None
    if shelf is not None:
        shelf.check()
        _brought(shelf, folder, checkpoints, job.made_of)
    (folder / JOB).write_bytes(job.as_bytes())
    told = {
        "job": str(folder / JOB),
        "checkpoints": str(folder),
        "save_steps": checkpoints.save_steps,
        "save_minutes": checkpoints.save_minutes,
        "allow_changed": checkpoints.allow_changed,
        "gpu": job.device == "cuda",
        "storage": shelf.uri if shelf is not None else None,
    }
    ended_at, log = None, list[dict[str, Any]]()
    try:
        for line in lines_of("seqtune.cluster.ray_driver", on, workers, told, folder / LOG):
            if line["what"] == "trained":
                ended_at = line["step"]
            elif line["what"] == "log":  # workers that were started again repeat what came behind their checkpoint
                log[:] = [*(each for each in log if each["step"] < line["lines"][0]["step"]), *line["lines"]]
                show(log)
            _listen(line)
    finally:
        if shelf is not None:
            try:
                shelf.fetch(folder)
            except OSError as error:  # whatever ended the training is told, not this
                warn(f"{shelf.uri}: its checkpoints can't be fetched ({error}); the same command fetches them")
    (folder / JOB).unlink()
    taken = checkpoints.newest(None)
    if taken is None or taken.step != ended_at:
        found = "no checkpoint" if taken is None else f"a checkpoint of step {taken.step} alone"
        mend = f"{folder / LOG} says more. The same command goes on from what is there."
        raise RunError(f"training ended at step {ended_at}, but the workers have left {found}", mend=mend)
    path = halves.deliver(halves.keep(*job.finished(taken, halves.found["base_model"])))
    if shelf is not None:
        shelf.clear()
    return path


def _brought(shelf: Storage, folder: Path, checkpoints: Checkpoints, made_of: dict[str, Any]) -> None:
    """What the workers of a command that was killed had saved, fetched; what a run without a cluster had, put there."""
    fetched = shelf.fetch(folder)
    try:
        checkpoints.compare(made_of)
    except InputError as error:
        if not fetched:
            raise
        for name in fetched:
            shutil.rmtree(folder / name)
        mend = "Choose another --storage, or go on all the same with --allow-changed."
        raise InputError(f"{shelf.uri}: holds a run of something else", error.details, mend) from None
    shelf.put_newest(folder)


def lines_of(module: str, on: str, workers: int | None, told: Mapping[str, Any], log: Path) -> Iterator[dict[str, Any]]:
    """What the child says, line by line, until it is done.

    Args:
        module: what the child runs; it calls `ray_driver.run`.
        on: ``ray`` or an address.
        workers: how many; None: one for each GPU, or for each machine.
        told: what else it needs, as JSON values.
        log: takes what Ray prints.

    Raises:
        RunError: what the child says went wrong, or that it ended without a word.
    """
    spec = json.dumps({"on": on, "workers": workers, **told})
    environment = {
        **os.environ,
        "RAY_gcs_rpc_server_reconnect_timeout_s": "20",  # a head that is gone is noticed in seconds, not a minute
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    command = [sys.executable, "-m", module]
    ended = failed = False
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
        ) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(spec.encode() + b"\n")
            child.stdin.flush()  # and left open: its end tells the child that we are gone
            for content in child.stdout:
                line = json.loads(content)
                if line["what"] == "end":
                    ended = True
                elif line["what"] == "failed":
                    failed = True
                    raise RunError(line["headline"], line["details"], line["mend"])
                else:
                    yield line
        finally:
            if not ended and not failed and child.poll() is None:
                child.terminate()  # we were stopped: it takes its cluster, or its place in one, down
                try:
                    child.wait(30)
                except subprocess.TimeoutExpired:
                    child.kill()
    if not ended:
        raise RunError(
            "the Ray cluster is gone, or can't be reached",
            _last_lines(log),
            told.get("mend", "Any checkpoint is kept: the same command goes on, with --on ray or without it."),
        )


def _listen(line: Mapping[str, Any]) -> None:
    if line["what"] == "progress":
        advance(line["stage"], line["done"], line["total"], line["unit"], **line["figures"])
    elif line["what"] == "say":
        say(line["text"])
    elif line["what"] == "warn":
        warn(line["text"])


def _last_lines(log: Path) -> list[str]:
    """Of what Ray printed: the last lines that say something."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [line[:200] for line in lines if line and not line.startswith(("*", "@"))][-2:]
