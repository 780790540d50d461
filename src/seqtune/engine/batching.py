"""Which rows make a batch, and the batch as tensors.

Shape suffixes: B rows of a batch, S source tokens, T target tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

#: Label of positions that count neither in the loss nor in the number of target tokens (PyTorch's and transformers').
IGNORED = -100

#: Optimizer steps whose rows are sorted by length together: enough to leave little padding, few enough that the order
#: of the rows stays random at the scale of an epoch.
WINDOW_STEPS = 64

#: Target positions of a pass of the fast engine on a CPU: more are hardly faster, and take more memory.
TOKENS_PER_PASS = 2048


def epoch_order(
    lengths: Sequence[tuple[int, int]], rows_per_step: int, *, seed: int, epoch: int, window_steps: int = WINDOW_STEPS
) -> list[list[int]]:
    """The rows of each optimizer step of one epoch.

    A fresh random order for each (seed, epoch). With ``window_steps > 1``, rows of similar length share a step: windows
    of that many steps are sorted by length, cut into steps, and the steps shuffled. Each row occurs exactly once.

    Args:
        lengths: target and source tokens of each row; rows are sorted by the target first, which costs most.
        rows_per_step: rows of an optimizer step over all its accumulated passes.
        seed: the run's seed.
        epoch: counted from 0.
        window_steps: 1 leaves the order purely random.

    Returns:
        A list of steps, each a list of row numbers; the last step of the epoch may be smaller.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    if window_steps > 1:
        target, source = np.asarray(lengths).reshape(-1, 2).T
        window = window_steps * rows_per_step
        order = np.concatenate([part[np.lexsort((source[part], target[part]))] for part in _cut(order, window)])
    steps = [part.tolist() for part in _cut(order, rows_per_step)]
    if window_steps > 1:
        rng.shuffle(steps)
    return steps


def window_steps(steps_per_epoch: int) -> int:
    """`WINDOW_STEPS`, but an eighth of the epoch at most: sorted whole, it is learned less well."""
    return max(1, min(WINDOW_STEPS, steps_per_epoch // 8))


def micro_batches(step: Sequence[int], rows_per_pass: int) -> list[list[int]]:
    """The rows of one optimizer step, cut into the passes whose gradients are accumulated."""
    return [list(step[start : start + rows_per_pass]) for start in range(0, len(step), rows_per_pass)]


def shares(step: Sequence[int], lengths: Sequence[tuple[int, int]], ranks: int) -> list[list[int]]:
    """The rows of one optimizer step dealt out to the ranks, so that all have about the same number of tokens.

    The longest row first, each to the rank that has the fewest tokens so far (Graham's LPT rule: the fullest rank has
    at most a third more than it must). One rank has the rows as they are.

    Args:
        step: row numbers.
        lengths: target and source tokens of each row of the set.
        ranks: how many share; with more ranks than rows some have none.
    """
    if ranks == 1:
        return [list(step)]
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    held = [0] * ranks
    for row in sorted(step, key=lambda row: (-sum(lengths[row]), row)):
        least = held.index(min(held))
        dealt[least].append(row)
        held[least] += sum(lengths[row])
    return dealt


def by_budget(rows: Sequence[int], all_rows: Sequence[dict], tokens: int = TOKENS_PER_PASS) -> list[list[int]]:
    """One pass of rows as several, none of more than this many target positions, padding included, or of one row.

    A pass holds its activations until its backward pass: so many smaller ones take less memory, and its tensors stay
    nearer to the processor. Longest rows first, so that rows of one length share a pass. The gradient is the same: that
    of the sum over all target tokens of the step (where the engine samples a part of it, on the average).

    Args:
        rows: row numbers.
        all_rows: each with ``labels``.
        tokens: the budget.
    """
    passes: list[list[int]] = []
    width = 0
    for row in sorted(rows, key=lambda row: -len(all_rows[row]["labels"])):
        if not passes or width * (len(passes[-1]) + 1) > tokens:
            passes.append([])
            width = len(all_rows[row]["labels"])
        passes[-1].append(row)
    return passes


def by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Batches of row numbers, longest first: little padding, and whether memory holds shows at once."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def with_little_padding(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Batches of row numbers, longest first, each padded to its longest with ``most`` tokens in all at most."""
    part: list[int] = []
    padding = 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        padding += lengths[part[0]] - lengths[row] if part else 0
        if padding > most:
            yield part
            part, padding = [], 0
        part.append(row)
    if part:
        yield part


def collate(rows: Sequence[dict], pad_token_id: int, device: torch.device | None = None) -> dict[str, Tensor]:
    """Rows of token ids as right-padded tensors, each padded to the longest of *this* batch.

    Args:
        rows: each with ``input_ids`` and, for training, ``labels`` (lists of token ids, end-of-sequence included).
        pad_token_id: fills ``input_ids``; labels are filled with `IGNORED`.
        device: where the tensors go.

    Returns:
        ``input_ids_BS``, ``attention_mask_BS`` and, where the rows have labels, ``labels_BT``, under transformers'
        names without the suffix.
    """
    sources = [row["input_ids"] for row in rows]
    batch = {
        "input_ids": _padded(sources, pad_token_id),
        "attention_mask": _padded([[1] * len(source) for source in sources], 0),
    }
    if "labels" in rows[0]:
        batch["labels"] = _padded([row["labels"] for row in rows], IGNORED)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _padded(sequences: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(len(sequence) for sequence in sequences)
    padded = torch.full((len(sequences), width), value, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
    return padded


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]
