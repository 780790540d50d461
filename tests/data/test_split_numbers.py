"""Row numbers of a set as text and back."""

from __future__ import annotations

import random

import pytest
from datasets import Dataset

from seqtune.data import split_numbers


@pytest.mark.parametrize(
    ("numbers", "text"), [([1, 2, 3, 5], "1-3,5"), ([7], "7"), ([9, 2, 1], "1-2,9"), ([], ""), ([1, 3, 5], "1,3,5")]
)
def test_written_and_read(numbers: list[int], text: str) -> None:
    assert split_numbers.written(Dataset.from_dict({"row": numbers})) == text
    assert split_numbers.read(text) == sorted(numbers)


def test_any_set_comes_back() -> None:
    numbers = random.Random(0).sample(range(1, 5000), 2000)
    assert split_numbers.read(split_numbers.written(Dataset.from_dict({"row": numbers}))) == sorted(numbers)


def test_another_row_is_another_digest() -> None:
    one, other = ({"train": split_numbers.written(Dataset.from_dict({"row": rows}))} for rows in ([1, 2, 4], [1, 2, 5]))
    assert split_numbers.digests(one) != split_numbers.digests(other)
