"""Which rows of which file are in which set: as text that a run directory can keep, and a digest to compare."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset


def written(dataset: Dataset) -> str:
    """The numbers of a set's rows in their file (counted from 1), in order, runs of them shortened: ``1-3,5,9-12``."""
    numbers = np.sort(np.asarray(dataset["row"][:], dtype=np.int64))
    if not len(numbers):
        return ""
    breaks = [0, *(np.flatnonzero(np.diff(numbers) > 1) + 1).tolist(), len(numbers)]
    runs = [(int(numbers[start]), int(numbers[end - 1])) for start, end in pairwise(breaks)]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def read(text: str) -> list[int]:
    """The row numbers that `written` has written."""
    bounds = [part.split("-") for part in text.split(",") if part]
    return [number for each in bounds for number in range(int(each[0]), int(each[-1]) + 1)]


def digests(ids: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 (hexadecimal) of each set's row numbers."""
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in ids.items()}
