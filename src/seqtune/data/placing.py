"""Which split each group of rows goes to: sizes near to what was asked for, and the way out where groups are too large.

`splits` says what a split is; here is the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqtune.data.checks import content_hash, counted
from seqtune.data.columns import batches
from seqtune.data.groups import Groups, within
from seqtune.data.shingles import question_key

if TYPE_CHECKING:
    from datasets import Dataset

#: Where groups are too large to be divided by, they are divided by these thresholds in turn; 1: the same question.
TIGHTER = (0.8, 0.9, 1.0)
#: A split with less than this part of the rows it should have is no use.
USEFUL = 0.5


def targets_of(rows: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers of rows, at least one each, that sum to `rows` and are nearest to the shares."""
    targets = dict.fromkeys(shares, 0)
    *before_last, last = shares
    left, share_left = rows, 1.0
    for name in before_last:
        # Rounded first: 0.1 * 25 must be 2.5 whether 0.1 was given or is 1 - 0.9.
        targets[name] = min(left, int(round(left * shares[name] / share_left, 6) + 0.5))
        left, share_left = left - targets[name], share_left - shares[name]
    targets[last] = left
    for name in targets:
        if targets[name] < 1:
            targets[max(targets, key=targets.__getitem__)] -= 1
            targets[name] += 1
    return targets


def _filled(sizes: NDArray[np.int64], ordered: NDArray[np.int64], targets: Mapping[str, int]) -> NDArray[np.int64]:
    """The number of the split that each group goes to.

    Groups larger than the smallest target go first, largest ahead, each to the split with most room: at the end they
    would fit nowhere. The others fill the splits in turn. No split is left without a group.

    Args:
        sizes: rows of each group.
        ordered: the groups in the order in which they are placed.
        targets: rows that each split should have.
    """
    limit = min(targets.values())
    large = ordered[sizes[ordered] > limit]
    large = large[np.argsort(-sizes[large], kind="stable")]  # ties by hash
    queue = np.concatenate([large, ordered[sizes[ordered] <= limit]]).tolist()
    room, empty, splits = list(targets.values()), set(range(len(targets))), range(len(targets))
    split_of = np.empty(len(sizes), dtype=np.int64)
    for left, group, size in zip(range(len(queue), 0, -1), queue, sizes[queue].tolist(), strict=True):
        open_to = sorted(empty) if left <= len(empty) else splits
        fitting = next((split for split in open_to if room[split] >= size), None) if size <= limit else None
        chosen = max(open_to, key=room.__getitem__) if fitting is None else fitting
        split_of[group] = chosen
        room[chosen] -= size
        empty.discard(chosen)
    return split_of


def placed(
    dataset: Dataset, groups: Groups, targets: Mapping[str, int], random_state: int
) -> tuple[NDArray[np.int64], bool]:
    """The number of each row's split (int64 [rows]), and whether near-duplicates had to be divided for it.

    They have to be where a split would go without half of its rows otherwise; then the groups that are larger than the
    smallest split are divided by a tighter threshold.
    """
    label = groups.group
    best, best_share, divided = None, -1.0, False
    for threshold in (groups.threshold, *(each for each in TIGHTER if each > groups.threshold)):
        if threshold != groups.threshold:
            label = _tighter(dataset, groups, label, min(targets.values()), threshold)
        numbers, group = np.unique(label, return_inverse=True)
        if len(numbers) < len(targets):
            continue
        split_of = _filled(np.bincount(group), _in_hash_order(dataset, groups, numbers, random_state), targets)[group]
        sizes = np.bincount(split_of, minlength=len(targets))
        share = min(1.0, *(size / target for size, target in zip(sizes, targets.values(), strict=True)))
        if share > best_share:
            best, best_share, divided = split_of, share, threshold != groups.threshold
        if best_share >= USEFUL:
            break
    assert best is not None  # different questions are different groups at the tightest
    return best, divided


def _tighter(dataset: Dataset, groups: Groups, label: NDArray, most: int, threshold: float) -> NDArray[np.int64]:
    """The labels, those of groups of more than so many rows made anew by this threshold."""
    large = np.bincount(label)[label] > most
    made = label.copy()
    for each in np.unique(label[large]):
        rows = np.flatnonzero(label == each)
        inner = within(dataset, rows, threshold).group
        # The group's number becomes that of one of its questions, the smallest, as everywhere.
        smallest = np.full(inner.max() + 1, np.iinfo(np.int64).max)
        np.minimum.at(smallest, inner, groups.question[rows])
        made[rows] = smallest[inner]
    return made


def said_of(groups: Groups, split_of: NDArray[np.int64]) -> str:
    """The warning where near-duplicates had to be divided."""
    train = np.unique(groups.group[split_of == 0])
    scored = split_of > 0
    torn = scored & np.isin(groups.group, train)
    largest = int(np.bincount(groups.group).max())
    return (
        f"{largest:,} of {counted(len(groups), 'row')} are near-duplicates of one another: kept together they leave "
        f"too little to score; divided, {int(torn.sum()):,} of {int(scored.sum()):,} scored rows have near-duplicates "
        "in training; the scores say how well the model repeats such rows, not how well it answers others"
    )


def _in_hash_order(dataset: Dataset, groups: Groups, numbers: NDArray, random_state: int) -> NDArray[np.int64]:
    """The places of the groups ordered by sha256 of `random_state` and a question of each."""
    known, first = np.unique(groups.question, return_index=True)
    rows = first[np.searchsorted(known, numbers)]
    place = np.argsort(rows)  # in the order of the file, to be read in one go
    hashes = np.empty(len(rows), dtype="S64")
    at = 0
    for (texts,) in batches(dataset.select(rows[place]), "input", stage="splitting"):
        hashes[place[at : at + len(texts)]] = [
            content_hash(f"split {random_state}", question_key(text)).encode() for text in texts
        ]
        at += len(texts)
    return np.argsort(hashes)
