"""Where the rows of each step come from: a table in memory, or a stream (`seqtune.data.streaming`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from seqtune.engine import batching

#: Numbers of the rows, the rows (``input_ids``, ``labels``), and the place behind them, for a resume.
Step = tuple[list[int], list[dict[str, Any]], list[int]]


class Feed(Protocol):
    """What `loop.train` asks for rows."""

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        ...

    def steps(self, epoch: int, place: list[int], rows_per_step: int) -> Iterator[Step]:
        """The steps of an epoch, from a place on; an empty place is its beginning."""
        ...


class Table:
    """Rows in memory, in `batching.epoch_order`.

    Args:
        rows: with ``input_ids`` and ``labels``.
        seed: of the order.
        window_steps: see `batching.epoch_order`.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], seed: int, window_steps: int):
        self.all = rows
        self.seed = seed
        self.window_steps = window_steps
        self.lengths = [(len(row["labels"]), len(row["input_ids"])) for row in rows]

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.all)

    def steps(self, epoch: int, place: list[int], rows_per_step: int) -> Iterator[Step]:
        """The place is the number of steps behind us."""
        order = batching.epoch_order(
            self.lengths, rows_per_step, seed=self.seed, epoch=epoch, window_steps=self.window_steps
        )
        (start,) = place or (0,)
        for index, numbers in enumerate(order[start:], start=start):
            yield numbers, [self.all[number] for number in numbers], [index + 1]
