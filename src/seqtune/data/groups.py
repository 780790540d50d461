"""The questions of a data set, and which of them are near-duplicates: what the splits and the checks go by.

Rows with the same question (`question_key`) have one number; questions that are near-duplicates (`likeness`), or
near-duplicates of near-duplicates, have one group. Numbers depend on the questions alone, not on the order of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqtune.data.columns import batches, digests
from seqtune.data.likeness import Index, groups, index_of, nearest_side
from seqtune.data.shingles import question_key
from seqtune.progress import advance

if TYPE_CHECKING:
    from datasets import Dataset

Indices = NDArray[np.int64]

#: What the search is called in the progress display.
STAGE = "near-duplicates"


@dataclass(frozen=True)
class Groups:
    """The questions of rows, and their groups.

    Args:
        question: int64 [rows], from 0, in the order of the questions' digests.
        group: int64 [rows], the smallest question of the row's group.
        threshold: the share of common pieces from which questions are near-duplicates; 1: only the same ones are.
        whole: whether all candidates were compared; if not, some near-duplicates in large crowds may be apart.
    """

    question: Indices
    group: Indices
    threshold: float
    whole: bool = True

    def __len__(self) -> int:
        return len(self.question)

    def take(self, rows: Sequence[int] | Indices) -> Groups:
        """The same of some of the rows."""
        return Groups(self.question[rows], self.group[rows], self.threshold, self.whole)


def grouped(dataset: Dataset, threshold: float) -> Groups:
    """The questions of the rows and their groups.

    Args:
        dataset: with the column ``input``.
        threshold: as in `Groups`.
    """
    _, first, question = np.unique(digests(dataset, "input", question_key), return_index=True, return_inverse=True)
    if threshold >= 1 or len(first) < 2:
        return Groups(question, question, threshold)
    index = _indexed(dataset, first, threshold)
    label, whole = groups(index, lambda done, total: advance(STAGE, done, total, "passes"))
    return Groups(question, label[question], threshold, whole)


def within(dataset: Dataset, rows: Indices, threshold: float) -> Groups:
    """`grouped` of some of the rows; the numbers count from 0 for these."""
    return grouped(dataset.select(rows), threshold)


def alike(dataset: Dataset, other: Dataset, threshold: float) -> tuple[NDArray[np.bool_], Indices, bool]:
    """For each row of ``dataset``, what ``other`` has of it.

    Returns:
        Whether its question is there (bool [rows]); a row of ``other`` with the same question or a near-duplicate of
        it, or -1 (int64 [rows]); whether all candidates were compared.
    """
    from datasets import concatenate_datasets

    numbers, its = digests(dataset, "input", question_key), digests(other, "input", question_key)
    known, at = np.unique(its, return_index=True)
    place = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
    same = known[place] == numbers
    found = np.where(same, at[place], -1)
    if threshold >= 1 or same.all():
        return same, found, True
    mine, first, question = np.unique(numbers[~same], return_index=True, return_inverse=True)
    # An index in which first come the questions of `dataset` that are not in `other`, then those of `other`.
    both = concatenate_datasets([dataset.select_columns(["input"]), other.select_columns(["input"])])
    rows = np.concatenate([np.flatnonzero(~same)[first], len(dataset) + at])
    index = _indexed(both, rows, threshold)
    sides = np.arange(len(rows)) < len(mine)
    near, whole = nearest_side(index, sides, lambda done, total: advance(STAGE, done, total, "passes"))
    near_rows = np.where(near >= 0, rows[near] - len(dataset), -1)[: len(mine)]
    found[~same] = near_rows[question]
    return same, found, whole


def _indexed(dataset: Dataset, rows: Indices, threshold: float) -> Index:
    """An index of the questions in these rows, in their order; read in the order of the file, which is faster."""
    order = np.argsort(rows, kind="stable")
    wanted = np.zeros(len(dataset), dtype=np.bool_)
    wanted[rows] = True

    def keys() -> Iterator[list[str]]:
        at = 0
        for (texts,) in batches(dataset, "input"):
            found = [question_key(texts[row]) for row in np.flatnonzero(wanted[at : at + len(texts)])]
            at += len(texts)
            advance("questions", at, len(dataset), "rows")
            if found:
                yield found

    return index_of(keys(), order, threshold)
