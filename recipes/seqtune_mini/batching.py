"""From pairs of texts to padded batches.

Examples of like lengths go into one batch: padding is then a few per cent, and the vocabulary head, the dearest single
part of so small a model, is applied to few positions that do not count.
"""

import random

import torch

LONGEST = (128, 80)  # source and target lengths in pieces; longer examples are left out


def encode(tokenizer, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    sources = tokenizer([source for source, _ in pairs], verbose=False).input_ids
    targets = tokenizer([target for _, target in pairs], verbose=False).input_ids
    return list(zip(sources, targets, strict=True))


def tensors_of(rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Source and target of one batch, each padded (id 0) to its longest."""
    columns = []
    for place in (0, 1):
        longest = max(len(row[place]) for row in rows)
        columns.append(torch.tensor([row[place] + [0] * (longest - len(row[place])) for row in rows]))
    return columns[0], columns[1]


def batches(rows, tokens: int, rng: random.Random) -> list[list]:
    """Cut rows of like lengths into batches of at most `tokens` pieces with padding, in random order."""
    rows = [row for row in rows if len(row[0]) <= LONGEST[0] and len(row[1]) <= LONGEST[1]]
    rows.sort(key=lambda row: (len(row[0]) // 8, len(row[1])))
    made, batch, width = [], [], 0
    for row in rows:
        wider = max(width, len(row[0]) // 8 * 8 + 8 + len(row[1]))
        if batch and wider * (len(batch) + 1) > tokens:
            made.append(batch)
            batch, wider = [], len(row[0]) // 8 * 8 + 8 + len(row[1])
        batch.append(row)
        width = wider
    made.append(batch)
    rng.shuffle(made)
    return made
