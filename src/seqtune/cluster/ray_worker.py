"""What a worker of Ray Train does: the training of a job, as one of its ranks. Ray has brought the ranks together."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seqtune.errors import InputError, SeqtuneError


def train(told: dict[str, Any]) -> None:
    """Train, and say how far it is; called in each worker, anew after one was lost."""
    import ray  # pyright: ignore[reportMissingImports] (an extra)
    import torch
    from ray.train import get_context  # pyright: ignore[reportMissingImports] (an extra)

    from seqtune import progress
    from seqtune.cluster.storage import Storage, StoredCheckpoints
    from seqtune.engine.checkpoint import Checkpoints
    from seqtune.engine.job import Job
    from seqtune.engine.ranks import RankGoneError, Ranks
    from seqtune.run import INPUTS

    context = get_context()
    ranks, queue = Ranks(context.get_world_rank(), context.get_world_size()), told["queue"]
    torch.set_num_threads(told["threads"])
    job = Job.of_bytes(ray.get(told["job"]))
    folder = Path(told["checkpoints"])

    class Speaking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            queue.put({"what": "warn" if record.levelno >= logging.WARNING else "say", "text": record.getMessage()})

    logger = logging.getLogger("seqtune")
    logger.setLevel(logging.INFO if ranks.first else logging.ERROR)
    logger.handlers = [Speaking()]
    heard = {"last": 0.0, "shown": 0.0, "lines": 0}

    def report(seen: progress.Progress) -> None:
        now = time.monotonic()
        if ranks.first and (now - heard["last"] > 0.1 or seen.done == seen.total):
            heard["last"] = now
            queue.put({"what": "progress", **asdict(seen)})

    def shown(log: Sequence[dict[str, Any]], model: Any) -> None:
        now, own = time.monotonic(), log[int(heard["lines"]) :]
        if ranks.first and own and (now - heard["shown"] > 0.5 or "validation_loss" in own[-1]):
            heard.update(shown=now, lines=len(log))
            queue.put({"what": "log", "lines": [dict(line) for line in own]})

    when = {name: told[name] for name in ("save_steps", "save_minutes", "allow_changed")}
    try:
        with ExitStack() as stack:
            if told["storage"] and ranks.first:
                own = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seqtune-")))
                storage = Storage(told["storage"])
                storage.fetch(own)
                kept: Checkpoints = StoredCheckpoints(own, **when, storage=storage)
            elif ranks.first and not (folder / INPUTS).is_file():
                raise InputError(
                    f"{folder}: the first worker can't see it",
                    mend="Choose an --out on a file system that all machines of the cluster share, or a --storage.",
                )
            else:
                kept = Checkpoints(folder, **when)
            stack.enter_context(progress.listening(report))
            stack.enter_context(progress.watching(shown))
            _, state = job.train(ranks, kept)
        if ranks.first:
            queue.put({"what": "trained", "step": state.step})
    except RankGoneError:
        raise  # Ray starts all of them again
    except SeqtuneError as error:  # another start would end the same way
        told_why = {"headline": error.headline, "details": error.details, "mend": error.mend}
        queue.put({"what": "failed", **told_why})
