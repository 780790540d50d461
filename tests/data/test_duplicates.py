"""What repeats itself in a set: each check on rows made for it, and on a real file."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from seqtune.data import duplicates
from seqtune.data.groups import grouped
from seqtune.data.splits import split, with_own_files


def dataset_of(pairs: list[tuple[str, str]]) -> Dataset:
    questions, replies = ([pair[side] for pair in pairs] for side in (0, 1))
    return Dataset.from_dict(
        {"row": [*range(1, len(pairs) + 1)], "input": questions, "reference": replies, "extra": ["{}"] * len(pairs)}
    )


def different(count: int) -> list[tuple[str, str]]:
    return [(f"{number} questions about {number * number}?", f"answer {number}") for number in range(count)]


def found(check, pairs: list[tuple[str, str]], threshold: float = 0.7):
    rows = dataset_of(pairs)
    return check(rows, grouped(rows, threshold))


def test_nothing_repeats_itself():
    pairs = different(50)
    for check in (duplicates.repeated_rows, duplicates.near_duplicates, duplicates.conflicting_answers):
        finding = found(check, pairs)
        assert (finding.verdict, finding.rows, finding.of, finding.mend) == ("PASS", 0, 50, "")


def test_repeated_rows():
    pairs = [
        *different(10),
        ("How tall is it?", "Two metres"),
        ("how TALL is it", " Two metres\n"),
        ("How tall is it?", "3 m"),
    ]
    finding = found(duplicates.repeated_rows, pairs)
    assert (finding.verdict, finding.rows, finding.of) == ("WARN", 1, 13)
    assert finding.examples == ("row 11 “How tall is it?”   2 times",)
    assert found(duplicates.repeated_rows, [*different(300), pairs[-1], pairs[-1]]).verdict == "PASS"


def test_near_duplicates_with_the_likest_pair():
    crowd = [
        "I would like to cancel the order with the number 1, please",
        "I would like to change the order with the number 1, please",
        "I would like to cancel the order with the number 2, please",
    ]
    finding = found(duplicates.near_duplicates, [*different(20), *((text, "a") for text in crowd)])
    assert (finding.verdict, finding.rows) == ("PASS", 3)
    assert "1 group, the largest of 3 rows" in finding.found
    (example,) = finding.examples
    assert example.startswith("row 2")
    assert " and row 2" in example
    assert found(duplicates.near_duplicates, [(text, "a") for text in crowd]).verdict == "WARN"
    assert "not looked for" in found(duplicates.near_duplicates, [(text, "a") for text in crowd], 1.0).found


def test_conflicting_answers():
    pairs = [
        *different(10),
        ("How tall?", "2 m"),
        ("how tall", "3 m"),
        ("How tall?", "3 m."),
        ("Why?", "a"),
        ("why", "A!"),
    ]
    finding = found(duplicates.conflicting_answers, pairs)
    assert (finding.verdict, finding.rows, finding.found) == (
        "WARN",
        3,
        "1 question (3 rows of 15) have different answers",
    )
    (example,) = finding.examples
    assert example.startswith("row 1")
    assert "“2 m”" in example


@pytest.mark.parametrize(
    ("answers", "verdict", "said"),
    [
        ([f"answer {n}" for n in range(200)], "PASS", "200 different answers in 200 rows"),
        ([f"answer {n % 20}" for n in range(200)], "WARN", "nearly a closed set: 20 different answers in 200 rows"),
        (["yes"] * 120 + [f"no {n}" for n in range(80)], "WARN", "the answer of 60% of the rows"),
        (["yes"] * 50, "PASS", "1 different answer in 50 rows"),
    ],
)
def test_few_answers(answers, verdict, said):
    finding = duplicates.few_answers(dataset_of([(f"question {n}", answer) for n, answer in enumerate(answers)]))
    assert finding.verdict == verdict
    assert said in finding.found


def test_a_closed_set_that_is_real(shared_data):
    rows = json.loads((shared_data / "support_short.json").read_text(encoding="utf-8"))
    finding = duplicates.few_answers(dataset_of([(row["instruction"], row["response"]) for row in rows]))
    assert (finding.verdict, finding.found) == ("WARN", "nearly a closed set: 27 different answers in 6,480 rows")


def crowds(count: int) -> list[tuple[str, str]]:
    """Ten near-duplicates of each question."""
    words = (
        "lamp",
        "kettle",
        "toaster",
        "washing machine",
        "drone",
        "vacuum cleaner",
        "radio",
        "oven",
        "fan",
        "router",
    )
    return [
        (f"What do I do when the {word} in my kitchen does not turn on, {number}?", "a")
        for word in words
        for number in range(count)
    ]


def test_no_leakage_with_groups_and_what_a_random_split_would_leak():
    rows = dataset_of(crowds(10))
    groups = grouped(rows, 0.7)
    divided = split(rows, 0.6, None, None, 42, groups)
    sets = {"train": divided.train, "validation": divided.validation, "hold_out": divided.hold_out}
    finding = duplicates.leakage(rows, groups, sets, {})
    assert (finding.verdict, finding.rows) == ("PASS", 0)
    assert finding.of == 100 - len(divided.train)
    assert "in a random split 100% would have others of their group there" in finding.found


def test_leakage_that_nothing_can_be_done_about_is_told():
    rows = dataset_of([(f"Please tell me the current state of my order {100 + n}, thank you", "a") for n in range(100)])
    groups = grouped(rows, 0.7)
    divided = split(rows, 0.8, None, None, 42, groups)
    sets = {"train": divided.train, "validation": divided.validation, "hold_out": divided.hold_out}
    finding = duplicates.leakage(rows, groups, sets, {})
    assert (finding.verdict, finding.rows, finding.of) == ("WARN", 20, 20)
    assert len(finding.examples) == 3
    assert "(validation)" in finding.examples[0]
    assert "(training)" in finding.examples[0]


def test_leakage_from_files_of_ones_own():
    rows = dataset_of([*crowds(2), *different(10)])
    own = dataset_of([*crowds(3)[::3], ("Something else?", "b")])
    divided = with_own_files(rows, own, None, 0.8, None, None, 42, grouped(rows, 0.7))
    assert "near-duplicate" in "".join(divided.warnings)
    sets = {"train": divided.train, "validation": divided.validation, "hold_out": divided.hold_out}
    finding = duplicates.leakage(rows, grouped(rows, 0.7), sets, {"validation": own})
    stays = any("stay, being too many" in warning for warning in divided.warnings)
    assert (finding.verdict == "WARN") is stays
    assert (finding.rows > 0) is stays
