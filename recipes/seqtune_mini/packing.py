"""From pairs of texts to packed batches, all of one shape.

A row of a batch holds several examples one after the other; `places` says which example a piece belongs to (0 is
padding), and attention stays within one. One shape means one compiled program, and hardly any padding. T5 knows only
differences of positions, so that it makes no difference where in a row an example begins.
"""

from collections.abc import Iterator

import numpy as np

Batch = dict[str, np.ndarray]
SOURCE, TARGET = 256, 160  # pieces in a row; longer examples are left out
MISSES = 16  # a batch is full when so many examples in a row found no room


def encode(tokenizer, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Piece ids of sources and targets, each with its end."""
    fast = tokenizer.backend_tokenizer  # without the wrapper's book-keeping: the tokenizing is what takes the time
    sources = fast.encode_batch_fast([source for source, _ in pairs])
    targets = fast.encode_batch_fast([target for _, target in pairs])
    return [(source.ids, target.ids) for source, target in zip(sources, targets, strict=True)]


def pack(examples: Iterator[tuple[list[int], list[int]]], rows: int) -> Batch:
    """Put examples, in their order, each into the first row with room for it, until they find none.

    Returns:
        ``source`` (rows, SOURCE) and ``target`` (rows, TARGET): ids, 0 where nothing is; ``source_place`` and
        ``target_place``: the number of the example within its row, from 1. An example's two parts have one number.
    """
    batch = {
        f"{name}{kind}": np.zeros((rows, width), dtype)
        for name, width in (("source", SOURCE), ("target", TARGET))
        for kind, dtype in (("", np.uint16), ("_place", np.uint8))
    }
    used, count, misses = np.zeros((rows, 2), np.int64), np.zeros(rows, np.int64), 0
    limit = np.array([SOURCE, TARGET])
    for example in examples:
        sizes = np.array([len(part) for part in example])
        if (sizes > limit).any():
            continue
        free = (used + sizes <= limit).all(axis=1)
        row = int(free.argmax())
        if not free[row]:
            misses += 1
            if misses == MISSES:
                break
            continue
        count[row] += 1
        for place, name in enumerate(("source", "target")):
            here = slice(used[row, place], used[row, place] + sizes[place])
            batch[name][row, here] = example[place]
            batch[f"{name}_place"][row, here] = count[row]
        used[row] += sizes
    return batch
