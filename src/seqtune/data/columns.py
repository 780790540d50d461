"""Columns of a data set in batches: a million rows are never held as Python objects all at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from seqtune.progress import MANY, advance

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray

#: Rows in Python's hands at a time.
BATCH = 10_000


def batches(dataset: Dataset, *columns: str, size: int = BATCH, stage: str = "") -> Iterator[tuple[list[Any], ...]]:
    """The values of the columns, a list each, some thousand rows at a time; a stage that is named reports them."""
    arrow: Any = dataset.select_columns(list(columns)).with_format("arrow")
    total = len(dataset)
    for start in range(0, total, size):
        table = arrow[start : start + size]
        yield tuple(table.column(name).to_pylist() for name in columns)
        if stage and total >= MANY:
            advance(stage, min(start + size, total), total, "rows")


def digests(dataset: Dataset, column: str, key: Callable[[str], str]) -> NDArray[np.uint64]:
    """A number for each row by which equal keys of its text are told (64 bits of BLAKE2: a slip in 10¹⁰ rows)."""
    import numpy as np  # not above: readers need this module, and a refusal must not wait for numpy

    found = np.empty(len(dataset), dtype=np.uint64)
    at = 0
    for (texts,) in batches(dataset, column):
        found[at : at + len(texts)] = [number_of(key(text)) for text in texts]
        at += len(texts)
    return found


def number_of(text: str) -> int:
    """64 bits of a text's BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
