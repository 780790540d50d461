from __future__ import annotations

import pytest
import torch

from seqtune.engine import batching

LENGTHS = [(3 + (row * 37) % 50, 1 + row % 5) for row in range(103)]


@pytest.mark.parametrize("window_steps", [1, 4, 1000])
def test_each_row_once_an_epoch(window_steps: int):
    steps = batching.epoch_order(LENGTHS, 8, seed=1, epoch=0, window_steps=window_steps)
    assert sorted(row for step in steps for row in step) == list(range(103))
    assert len(steps) == 13
    assert all(len(step) <= 8 for step in steps)


def test_order_depends_on_seed_and_epoch_alone():
    first = batching.epoch_order(LENGTHS, 8, seed=1, epoch=0)
    assert first == batching.epoch_order(LENGTHS, 8, seed=1, epoch=0)
    assert first != batching.epoch_order(LENGTHS, 8, seed=1, epoch=1)
    assert first != batching.epoch_order(LENGTHS, 8, seed=2, epoch=0)


def test_windows_leave_less_padding():
    def padding(window_steps: int) -> float:
        steps = batching.epoch_order(LENGTHS, 8, seed=1, epoch=0, window_steps=window_steps)
        padded = sum(
            max(side) * len(step) for step in steps for side in zip(*(LENGTHS[row] for row in step), strict=True)
        )
        return padded / sum(map(sum, LENGTHS))

    assert padding(1) > 1.4
    assert padding(32) < 1.15


@pytest.mark.parametrize(("steps", "window"), [(1, 1), (15, 1), (16, 2), (125, 15), (10_000, 64)])
def test_a_small_file_is_not_sorted_whole(steps: int, window: int):
    assert batching.window_steps(steps) == window


def test_micro_batches_cut_a_step():
    assert batching.micro_batches([5, 4, 3, 2, 1], 2) == [[5, 4], [3, 2], [1]]


@pytest.mark.parametrize("budget", [1, 40, 100, 10_000])
def test_by_budget_cuts_a_pass(budget: int):
    rows = [{"labels": [1] * length} for length, _ in LENGTHS]
    chosen = list(range(3, 40, 2))
    passes = batching.by_budget(chosen, rows, budget)
    assert sorted(row for part in passes for row in part) == chosen
    assert all(len(part) == 1 or len(part) * max(LENGTHS[row][0] for row in part) <= budget for part in passes)
    assert len(passes) == {1: len(chosen), 10_000: 1}.get(budget, len(passes))


def test_by_length_goes_from_long_to_short():
    batches = list(batching.by_length([1, 9, 5, 9], 2))
    assert batches == [[1, 3], [2, 0]]


def test_collate_pads_to_the_longest_of_the_batch():
    batch = batching.collate(
        [{"input_ids": [5, 6, 1], "labels": [7, 1]}, {"input_ids": [5, 1], "labels": [7, 8, 9, 1]}], pad_token_id=0
    )
    assert batch["input_ids"].tolist() == [[5, 6, 1], [5, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[7, 1, -100, -100], [7, 8, 9, 1]]
    assert batch["labels"].dtype == torch.long
