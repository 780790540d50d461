"""Under `torchrun`: the first process runs the dataflow, the others train with it.

```sh
torchrun --nproc-per-node 2 -m seqtune finetune support.json --out runs/support
```

The others wait for a message: a training to join, or the end of the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqtune.cluster.steps import Halves
from seqtune.engine.job import Job
from seqtune.engine.ranks import Ranks, together
from seqtune.launch import launched
from seqtune.progress import say

_TRAIN, _DONE = b"train", b"done"


def several() -> bool:
    """Whether this process was launched with others."""
    return launched()[1] > 1


def run(work: Callable[[Callable[[dict[str, Any]], Path]], Path]) -> Path:
    """A run in all the processes that were launched: ``work`` in the first, its training in all.

    Args:
        work: given a function that runs the dataflow of some inputs and returns the run directory.

    Returns:
        In every process: the run directory.

    Raises:
        RankGoneError: another process ended; why, it said itself.
    """
    with together() as ranks:
        if not ranks.first:
            return _followed(ranks)
        path = work(lambda inputs: _delivered(inputs, ranks))
        ranks.from_the_first(_DONE + str(path.absolute()).encode())
        return path


def _delivered(inputs: Mapping[str, Any], ranks: Ranks) -> Path:
    """In the first process."""
    halves = Halves(inputs)
    job = halves.job()
    rows = job.settings["per_device_train_batch_size"] * job.settings["gradient_accumulation_steps"]
    say(f"{ranks.size} processes share the {rows} rows of a step")
    if rows < 2 * ranks.size:
        say("that is little for each: a larger --per-device-train-batch-size keeps them busier")
    if job.settings["seeds"] > 1:
        say(f"the first of {job.settings['seeds']} seeds is trained by all of them, the others by this process alone")
    ranks.from_the_first(_TRAIN + job.as_bytes())
    model, state = job.train(ranks, halves.checkpoints, halves.base_model())
    adapter = halves.keep(model, state)
    del model  # its share of a base model that is sharded, before the whole of it comes back for the answers
    return halves.deliver(adapter)


def _followed(ranks: Ranks) -> Path:
    """In the others."""
    with _silent():
        while (message := ranks.from_the_first(None) or b"").startswith(_TRAIN):
            Job.of_bytes(message.removeprefix(_TRAIN)).train(ranks)
    return Path(message.removeprefix(_DONE).decode())


@contextmanager
def _silent() -> Iterator[None]:
    """What is said is said by the first process."""
    logger = logging.getLogger("seqtune")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
