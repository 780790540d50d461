"""Splits: no question in two of them, nothing lost, the same for every order of the file."""

from __future__ import annotations

import json
import string
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqtune.data.shingles import question_key
from seqtune.data.splits import NAMES, Splits, shares_of, split, with_own_files
from seqtune.errors import InputError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def dataset_of(questions: list[str], replies: list[str] | None = None, first_row: int = 1) -> Dataset:
    replies = replies or ["r"] * len(questions)
    rows = list(range(first_row, first_row + len(questions)))
    return Dataset.from_dict({"row": rows, "input": questions, "reference": replies, "extra": ["{}"] * len(questions)})


def contents(part: Dataset) -> list[tuple[str, str]]:
    return list(zip(part["input"][:], part["reference"][:], strict=True))


def keys(part: Dataset) -> set[str]:
    return {question_key(text) for text in part["input"][:]}


def parts_of(splits: Splits) -> list[Dataset]:
    return [splits.train, splits.validation, splits.hold_out]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How tall is it?", "how tall is it"),
        ("How  tall\nis it", "Howtall is it!!"),
        ("STRASSE", "Straße"),
        ("ﬁnd №5", "find No5"),
        ("Ｆｕｌｌ", "full"),
        ("e\u0301te\u0301", "été"),
        ("日本 語？", "日本語"),
        ("zero\u200bwidth", "zero width"),
        ("a\u00adb", "ab"),
        (" ??? ", "???"),
    ],
)
def test_the_same_question(one, other):
    assert question_key(one) == question_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("a", "b"), ("???", "!!!"), ("☺️", "☹️"), ("कि", "की"), ("v1", "v2"), ("résumé", "resume")]
)
def test_different_questions(one, other):
    assert question_key(one) != question_key(other)


@pytest.mark.parametrize(
    ("given_", "shares"),
    [
        ((0.8, None, None), (0.8, 0.1, 0.1)),
        ((0.8, 0.15, None), (0.8, 0.15, 0.05)),
        ((0.8, None, 0.15), (0.8, 0.05, 0.15)),
        ((0.7, 0.2, 0.1), (0.7, 0.2, 0.1)),
        ((0.6, None, None), (0.6, 0.2, 0.2)),
    ],
)
def test_shares(given_, shares):
    assert tuple(shares_of(*given_).values()) == pytest.approx(shares)
    assert tuple(shares_of(*given_)) == NAMES


@pytest.mark.parametrize(
    ("given_", "parts"),
    [
        (
            (0.8, 0.2, 0.2),
            ["train_size = 0.8, validation_size = 0.2, hold_out_size = 0.2", "sum to 1.2", "--train-size 0.6"],
        ),
        ((0.8, 0.05, 0.05), ["sum to 0.9", "--train-size 0.9"]),
        ((0.1, 0.6, 0.6), ["sum to 1.3", "Make them smaller"]),
        ((0.8, 0.2, None), ["train_size = 0.8, validation_size = 0.2: nothing is left for hold_out_size"]),
        ((0.8, None, 0.3), ["nothing is left for validation_size"]),
        ((1.0, None, None), ["train_size = 1: expected fractions between 0 and 1"]),
        ((0.8, -0.1, None), ["validation_size = -0.1"]),
    ],
)
def test_shares_that_do_not_fit(given_, parts):
    with pytest.raises(InputError) as caught:
        split(dataset_of(list("abcdef")), *given_, random_state=1)
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.mend


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [(3, (1, 1, 1)), (4, (2, 1, 1)), (5, (3, 1, 1)), (10, (8, 1, 1)), (20, (16, 2, 2)), (1000, (800, 100, 100))],
)
def test_sizes(rows, sizes):
    splits = split(dataset_of([f"question {i}" for i in range(rows)]), 0.8, None, None, 42)
    assert tuple(splits.sizes.values()) == sizes
    assert tuple(splits.sizes) == NAMES
    if rows <= 20:
        (warning,) = splits.warnings
        assert f"only {rows} different questions in {rows} rows (train {sizes[0]}, validation" in warning
    else:
        assert splits.warnings == ()


def test_another_seed_divides_otherwise():
    dataset = dataset_of([f"question {i}" for i in range(100)])
    assert keys(split(dataset, 0.8, None, None, 1).hold_out) != keys(split(dataset, 0.8, None, None, 2).hold_out)


def test_the_division_is_frozen():
    """The same on every machine and in every version: a changed result here would mix up the splits of old runs."""
    splits = split(dataset_of([f"question {i}" for i in range(10)]), 0.6, None, None, 42)
    numbers = [sorted(int(key.removeprefix("question")) for key in keys(part)) for part in parts_of(splits)]
    assert numbers == [[1, 4, 5, 7, 8, 9], [0, 2], [3, 6]]


def test_one_large_group_goes_to_training():
    questions = ["same"] * 600 + [f"question {i}" for i in range(400)]
    assert split(dataset_of(questions), 0.8, None, None, 42).sizes == {"train": 800, "validation": 100, "hold_out": 100}


def test_groups_that_fit_nowhere_are_told():
    questions = ["same"] * 300 + [f"question {i}" for i in range(30)]
    splits = split(dataset_of(questions), 0.5, None, None, 42)
    assert splits.sizes["train"] == 300
    assert any("train has 91% of the rows instead of 50%" in warning for warning in splits.warnings)


@pytest.mark.parametrize(
    ("questions", "found"),
    [(["a", "A!", "b"], "2 different questions in 3 rows"), (["a"], "1 different question in 1 row")],
)
def test_too_few_questions(questions, found):
    with pytest.raises(InputError) as caught:
        split(dataset_of(questions), 0.8, None, None, 42)
    assert caught.value.headline == found
    assert caught.value.details == ["expected at least 3: one each for train, validation and hold-out"]
    assert "Add rows" in caught.value.mend


texts = st.text(alphabet=string.ascii_letters + " ?.日é1", min_size=1, max_size=3).filter(str.strip)
row_lists = st.lists(st.tuples(texts, st.sampled_from("xyz")), min_size=3, max_size=60).filter(
    lambda rows: len({question_key(question) for question, _ in rows}) >= 3
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@quick
@given(row_lists, st.floats(0.05, 0.95), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_properties(rows, train_size, seed, random):
    dataset = dataset_of([question for question, _ in rows], [reply for _, reply in rows])
    splits = split(dataset, train_size, None, None, seed)
    parts = parts_of(splits)

    assert Counter(row for part in parts for row in contents(part)) == Counter(rows)
    assert sorted(row for part in parts for row in part["row"][:]) == dataset["row"][:]
    assert all(len(part) for part in parts)
    assert sum(len(keys(part)) for part in parts) == len(set().union(*map(keys, parts)))

    largest = max(Counter(question_key(question) for question, _ in rows).values())
    assert abs(len(splits.train) - train_size * len(rows)) <= 2 * largest + 2

    shuffled = random.sample(rows, len(rows))
    again = split(dataset_of([q for q, _ in shuffled], [r for _, r in shuffled]), train_size, None, None, seed)
    assert [contents(part) for part in parts_of(again)] == [contents(part) for part in parts]
    assert again.warnings == splits.warnings


@quick
@given(row_lists, row_lists, row_lists, st.booleans(), st.booleans())
def test_properties_with_own_files(rows, validation_rows, hold_out_rows, has_validation, has_hold_out):
    def of(rows):
        return dataset_of([question for question, _ in rows], [reply for _, reply in rows])

    train, validation, hold_out = of(rows), of(validation_rows), of(hold_out_rows)
    own = (validation if has_validation else None, hold_out if has_hold_out else None)
    try:
        splits = with_own_files(train, *own, 0.8, None, None, 7)
    except InputError as error:  # the drawn files overlap too much
        assert "is left" in str(error) or "different question" in str(error)  # noqa: PT017
        return
    parts = parts_of(splits)
    assert all(len(part) for part in parts)
    assert sum(len(keys(part)) for part in parts) == len(set().union(*map(keys, parts)))
    if has_hold_out:
        assert Counter(contents(splits.hold_out)) == Counter(hold_out_rows)
    elif has_validation:
        assert Counter(contents(splits.validation)) == Counter(validation_rows)


def numbered(start: int, stop: int) -> Dataset:
    return dataset_of([f"question {i}" for i in range(start, stop)])


@pytest.mark.parametrize(
    ("own", "shares", "sizes"),
    [
        ((None, None), (0.8, None, None), (80, 10, 10)),
        (((200, 230), None), (0.8, None, None), (89, 30, 11)),
        ((None, (200, 230)), (0.8, None, None), (89, 11, 30)),
        ((None, (200, 230)), (0.8, 0.2, None), (80, 20, 30)),
        ((None, (200, 230)), (0.6, 0.2, 0.2), (75, 25, 30)),
        (((200, 230), (300, 305)), (0.8, None, None), (100, 30, 5)),
        (((200, 201), (300, 301)), (0.8, 0.1, 0.1), (100, 1, 1)),
    ],
)
def test_own_files_replace_shares(own, shares, sizes):
    validation, hold_out = (numbered(*bounds) if bounds else None for bounds in own)
    if shares[1:] == (0.2, None):
        # Alone, 0.8 and 0.2 leave nothing for the hold-out; beside a file of its own they are all there is to share.
        with pytest.raises(InputError):
            split(numbered(0, 100), *shares, 42)
    splits = with_own_files(numbered(0, 100), validation, hold_out, *shares, 42)
    assert tuple(splits.sizes.values()) == sizes
    assert splits.warnings == ()


def test_overlaps_are_taken_out_and_counted():
    splits = with_own_files(numbered(0, 100), numbered(80, 95), numbered(90, 110), 0.8, None, None, 42)
    assert splits.sizes == {"train": 80, "validation": 10, "hold_out": 20}
    assert splits.warnings == (
        "5 validation rows were left out: the same question is in the hold-out file",
        "10 training rows were left out: the same question is in the validation file",
        "10 training rows were left out: the same question is in the hold-out file",
    )


def test_own_files_that_leave_nothing():
    with pytest.raises(InputError, match=r"no training row is left: .* also in the hold-out file"):
        with_own_files(numbered(0, 5), None, numbered(0, 9), 0.8, None, None, 42)
    with pytest.raises(InputError, match="no validation row is left"):
        with_own_files(numbered(0, 5), numbered(10, 12), numbered(9, 13), 0.8, None, None, 42)
    with pytest.raises(InputError, match="1 different question in 1 row") as caught:
        with_own_files(numbered(0, 5), None, numbered(0, 4), 0.8, None, None, 42)
    assert caught.value.details == ["expected at least 2: one each for train and validation"]
    with pytest.raises(InputError, match="the validation file has no rows"):
        with_own_files(numbered(0, 5), numbered(0, 0), None, 0.8, None, None, 42)


def test_real_file():
    path = SHARED / "support.json"
    if not path.is_file():
        pytest.skip("the shared data is not here")
    rows = json.loads(path.read_text(encoding="utf-8"))
    dataset = dataset_of([row["instruction"] for row in rows], [row["response"] for row in rows])
    splits = split(dataset, 0.8, None, None, 42)
    assert splits.warnings == ()
    assert splits.sizes["train"] == round(0.8 * len(rows))
    assert not keys(splits.train) & (keys(splits.validation) | keys(splits.hold_out))
