"""Near-duplicates: found, confirmed, the same for every order; against a brute-force search of its own."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
from datasets import Dataset

from seqtune.data.groups import alike, grouped
from seqtune.data.likeness import groups, index_of, rows_of_band
from seqtune.data.shingles import MOST, question_key, shingles_of
from seqtune.data.splits import split


def dataset_of(questions: list[str]) -> Dataset:
    number = len(questions)
    return Dataset.from_dict(
        {"row": [*range(1, number + 1)], "input": questions, "reference": ["r"] * number, "extra": ["{}"] * number}
    )


def pieces(text: str) -> set[str]:
    """The same definition in other words, to check by."""
    padded = "\0\0\0" + question_key(text) + "\0\0\0"
    return {padded[i : i + 4] for i in range(len(padded) - 3)}


def likeness(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def searched(texts: list[str], threshold: float = 0.7) -> list[int]:
    keys = [question_key(text) for text in texts]
    return groups(index_of([keys], np.arange(len(keys)), threshold))[0].tolist()


def many_texts(seed: int, count: int = 400) -> list[str]:
    """Made questions, each third a changed copy of one before."""
    drawn = random.Random(seed)
    words = ["".join(drawn.choices("aeioubdfgklmnprst", k=drawn.randint(2, 8))) for _ in range(300)]
    texts: list[str] = []
    for number in range(count):
        text = drawn.choices(words, k=drawn.randint(5, 14))
        if number % 3 == 2:
            text = drawn.choice(texts).split()
            text[drawn.randrange(len(text))] = drawn.choice(words)
        texts.append(" ".join(text))
    return texts


def test_pieces_are_those_of_the_definition():
    texts = ["How tall is it?", "a", "日本の首都はどこですか", "na na na na", "e\u0301te\u0301 😀", "???"]
    found = shingles_of([question_key(text) for text in texts])
    sizes = [len(pieces(text)) for text in texts]
    assert np.diff(found.ends).tolist() == sizes
    assert found.ends[-1] == len(found.values) == sum(sizes)


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("How do I reset my password?", "how do i reset my password", True),
        ("How do I reset my password on the phone?", "How do I reset my passwords on the phone?", True),
        ("I want to cancel the order 10234 please", "I want to cancel the order 10239 please", True),
        ("日本の首都である東京の人口は現在どのくらいですか", "日本の首都である東京の人口は現在どれくらいですか", True),
        ("What does error E3 mean?", "What does error E4 mean?", False),
        ("How do I reset my password?", "How do I change my address?", False),
        ("question 1", "question 2", False),
        ("日本の首都は", "中国の首都は", False),
        ("यह कैसे काम करता है", "वह कहाँ रहता है", False),
    ],
)
def test_what_is_a_near_duplicate(one, other, together):
    groups = grouped(dataset_of([one, other]), 0.7)
    assert (len(set(groups.group.tolist())) == 1) is together


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_groups_are_those_of_brute_force(threshold):
    texts = many_texts(3)
    sets = [pieces(text) for text in texts]
    label = list(range(len(texts)))
    for one, other in itertools.combinations(range(len(texts)), 2):
        if likeness(sets[one], sets[other]) >= threshold and label[one] != label[other]:
            low, high = sorted((label[one], label[other]))
            label = [low if each == high else each for each in label]
    assert searched(texts, threshold) == label
    assert (len(set(label)) < len(texts)) is (threshold < 0.9)


def test_the_band_is_chosen_by_what_it_misses():
    assert [rows_of_band(threshold) for threshold in (0.5, 0.7, 0.8, 0.9)] == [3, 4, 6, 9]


def test_the_order_of_the_rows_makes_no_difference():
    texts = [*many_texts(5), *many_texts(5)[:30]]
    there = grouped(dataset_of(texts), 0.7)
    order = random.Random(1).sample(range(len(texts)), len(texts))
    back = grouped(dataset_of([texts[i] for i in order]), 0.7)
    assert back.question.tolist() == there.question[order].tolist()
    assert back.group.tolist() == there.group[order].tolist()


def test_a_long_text_and_its_changed_copy():
    drawn = random.Random(2)
    words = ["".join(drawn.choices("abcdefghij", k=6)) for _ in range(2000)]
    text, half = " ".join(words), " ".join([*words[:1000], *reversed(words[1000:]), "more"])
    assert len(pieces(text)) > 10 * MOST
    other = " ".join("".join(drawn.choices("abcdefghij", k=6)) for _ in range(2000))
    label = searched([text, text + " and a little at the end", half[: len(half) // 3], other])
    assert label == [0, 0, 2, 3]


def test_a_large_crowd_is_one_group_and_takes_no_square_of_it():
    texts = [f"{number:05d} is the number of the order that I would like to cancel today" for number in range(20_000)]
    label = searched(texts)
    assert set(label) == {0}


def test_texts_without_letters_and_empty_batches():
    assert searched(["???", "!!!", "???!", "a"]) == [0, 1, 2, 3]
    assert len(grouped(dataset_of(["a"]), 0.7)) == 1


def test_alike_in_another_file():
    here = dataset_of(
        ["What is the price of the new red lamp?", "what is THE price", "Where is the station of Lyon?", "Zebra"] * 2
    )
    there = dataset_of(
        ["Something else entirely", "What is the price?", "What is the price of the new red lamps?", "Yak"] * 2
    )
    same, found, whole = alike(here, there, 0.7)
    assert same.tolist() == [False, True, False, False] * 2
    assert found.tolist() == [2, 1, -1, -1] * 2
    assert whole
    assert alike(here, there, 1.0)[1].tolist() == [-1, 1, -1, -1] * 2


def assert_no_near_duplicate_across(parts: list[list[str]], threshold: float = 0.7) -> int:
    """By brute force over all pairs; returns how many pairs were looked at."""
    count = 0
    for one, other in itertools.combinations([[pieces(text) for text in part] for part in parts], 2):
        for mine in one:
            for its in other:
                count += 1
                # A set shares no more than the smaller has: most pairs need no more than their sizes.
                if min(len(mine), len(its)) >= threshold * max(len(mine), len(its)):
                    assert likeness(mine, its) < threshold, (mine, its)
    return count


def test_no_near_duplicate_in_two_splits():
    dataset = dataset_of(many_texts(9, 600))
    splits = split(dataset, 0.6, None, None, 42, grouped(dataset, 0.7))
    parts = [list(part["input"]) for part in (splits.train, splits.validation, splits.hold_out)]
    assert splits.sizes["train"] == 360
    assert assert_no_near_duplicate_across(parts) > 50_000
    apart = split(dataset, 0.6, None, None, 42)
    with pytest.raises(AssertionError):  # what it is for: a division by the question alone has some
        assert_no_near_duplicate_across([list(part["input"]) for part in (apart.train, apart.hold_out)])


def test_no_near_duplicate_in_two_splits_of_a_real_file(shared_data):
    rows = json.loads((shared_data / "support_short.json").read_text(encoding="utf-8"))
    dataset = dataset_of([row["instruction"] for row in rows])
    splits = split(dataset, 0.8, None, None, 42, grouped(dataset, 0.7))
    assert splits.warnings == ()
    assert splits.sizes["train"] == round(0.8 * len(rows))
    drawn = random.Random(0)
    parts = [list(part["input"]) for part in (splits.train, splits.validation, splits.hold_out)]
    assert_no_near_duplicate_across([drawn.sample(parts[0], 1200), parts[1][:150], parts[2][:150]])


def test_a_set_of_near_duplicates_alone_is_divided_and_it_is_said():
    questions = [f"Please tell me the current state of my order number {1000 + n}, thank you" for n in range(200)]
    dataset = dataset_of(questions)
    splits = split(dataset, 0.8, None, None, 42, grouped(dataset, 0.7))
    assert splits.sizes == {"train": 160, "validation": 20, "hold_out": 20}
    (warning,) = splits.warnings
    assert warning.startswith("200 of 200 rows are near-duplicates of one another")
    assert "40 of 40 scored rows have near-duplicates in training" in warning


def test_a_large_group_that_leaves_enough_stays_whole():
    alike_ = [f"Please tell me the current state of my order number {1000 + n}, thank you" for n in range(150)]
    dataset = dataset_of([*alike_, *many_texts(4, 60)])
    splits = split(dataset, 0.7, None, None, 42, grouped(dataset, 0.7))
    (of_the_group,) = [
        name
        for name, part in (("train", splits.train), ("validation", splits.validation), ("hold_out", splits.hold_out))
        if any("order number" in text for text in part["input"])
    ]
    assert of_the_group == "train"
    assert not any("near-duplicates of one another" in warning for warning in splits.warnings)
