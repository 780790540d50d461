"""Every problem of every row, keys that no row has, clean rows and samples."""

from __future__ import annotations

import json

import pytest

from seqtune.data.checks import (
    MISSING,
    Problem,
    bad_rows_error,
    check_rows,
    clean_rows,
    sample_rows,
    value_at,
)
from seqtune.errors import InputError

GOOD = {"question": "How tall?", "reply": "2 m"}


@pytest.mark.parametrize(
    ("row", "key", "value"),
    [
        ({"a": 1}, "a", 1),
        ({"a": None}, "a", None),
        ({"a": 1}, "b", MISSING),
        ({"message": {"text": "x"}}, "message.text", "x"),
        ({"message": {"text": "x"}, "message.text": "literal"}, "message.text", "literal"),
        ({"a": {"b.c": "inner literal"}}, "a.b.c", "inner literal"),
        ({"a.b": {"c": "longest"}, "a": {"b": {"c": "shortest"}}}, "a.b.c", "longest"),
        ({"a.b": {}, "a": {"b": {"c": "the one that is there"}}}, "a.b.c", "the one that is there"),
        ({"turns": [{"text": "x"}, {"text": "y"}]}, "turns.1.text", "y"),
        ({"turns": ["x", "y"]}, "turns.0", "x"),
        ({"turns": [["x"]]}, "turns.0.0", "x"),
        ({"turns": ["x"]}, "turns.1", MISSING),
        ({"turns": ["x"]}, "turns.-1", MISSING),
        ({"turns": ["x"]}, "turns", ["x"]),
        ({"text": "abc"}, "text.0", MISSING),
        ({"a": {"": "x"}}, "a.", "x"),
        ({"a": {}}, "a..b", MISSING),
    ],
)
def test_value_at(row, key, value):
    found = value_at(row, key)
    assert found is value if value is MISSING else found == value


@pytest.mark.parametrize(
    ("value", "what", "expected"),
    [
        (None, "is null", "expected text"),
        ("", "is empty", ""),
        (" \n\t\u3000", "is white space", ""),
        ("a\0b", "holds a NUL character", r"expected text; \u0000 is character 2"),
        ("a" * 1_000_001, "has 1,000,001 characters", "expected at most 1,000,000"),
        (3, "is a number", "expected text"),
        (2.5, "is a number", "expected text"),
        (float("nan"), "is NaN", "expected text"),
        (True, "is a boolean", "expected text"),
        ({"a": 1}, "is an object", "expected text"),
        (b"a", "is binary data", "expected text"),
        ("ab\ud83d", "holds a lone surrogate", r"expected whole characters; \ud83d is character 3"),
    ],
)
@pytest.mark.parametrize("key", ["question", "reply"])
def test_each_problem(key, value, what, expected):
    assert check_rows([GOOD, {**GOOD, key: value}], "question", "reply") == [Problem(2, key, what, expected)]


def test_good_text_has_no_problem():
    rows = [{"question": text, "reply": text} for text in ("0", " a ", "日本", "🙂", "a" * 1_000_000, "\u200bx")]
    assert check_rows(rows, "question", "reply") == []


def test_the_message_of_the_design():
    rows = [GOOD] * 388
    rows[16] = {"question": "a", "answer": "b"}
    rows[51] = {"question": "a", "reply": ""}
    rows[89] = {"question": ["a"], "reply": "b"}
    error = bad_rows_error("support.json", check_rows(rows, "question", "reply"), len(rows))
    assert str(error).splitlines() == [
        "support.json: 3 problems in 388 rows",
        '  row 17  "reply" is missing    this row has: question, answer',
        '  row 52  "reply" is empty',
        '  row 90  "question" is a list  expected text',
        "Nothing was trained. Fix the rows, or pass --on-bad-rows skip to leave them out.",
    ]


def test_twenty_are_shown_and_all_are_counted():
    rows = [{"question": "a", "reply": None}] * 1234 + [GOOD]
    error = bad_rows_error("a.csv", check_rows(rows, "question", "reply"), len(rows))
    assert error.headline == "a.csv: 1,234 problems in 1,235 rows"
    assert len(error.details) == 21
    assert error.details[-1] == "… and 1,214 more"


def test_one_problem_and_no_good_row():
    error = bad_rows_error("a.csv", [Problem(1, "reply", "is empty")], 1)
    assert error.headline == "a.csv: 1 problem in 1 row"
    assert "No row can be used" in error.mend
    assert "skip" not in error.mend


# rows, --input-text-key, --output-text-key, parts of the message
ABSENT = [
    (
        [{"instruction": "a", "response": "b", "category": "c"}] * 3 + [{"instruction": "a", "response": "b"}],
        ("question", "reply"),
        [
            'file: no row has "question" or "reply"',
            "instruction  4 rows",
            "category     3 rows",
            "--input-text-key instruction --output-text-key response?",
        ],
    ),
    ([{"question": "a", "answer": "b", "id": "c"}], ("question", "reply"), ['no row has "reply"', "-key answer?"]),
    (
        [{"question": "a", "gpt4_replies_target": "b", "source": "c"}],
        ("question", "reply"),
        ["-key gpt4_replies_target"],
    ),
    ([{"description": "a", "command": "b"}], ("question", "reply"), ["key description --output-text-key command?"]),
    ([{"question": "a", "repyl": "b", "answer": "c"}], ("question", "reply"), ["--output-text-key repyl?"]),
    ([{"Question": "a", "reply": "c"}], ("question", "reply"), ["--input-text-key Question?"]),
    ([{"question": "a", "foo": "c"}], ("question", "reply"), ["--output-text-key foo?"]),
    ([{"question": "a", "my reply": "c"}], ("question", "answer"), ["--output-text-key 'my reply'?"]),
    ([{"question": "a", "foo": "c", "bar": "d"}], ("question", "reply"), ["foo       1 row", "Name the keys with"]),
    ([{"question": "a", "reply": 3}], ("question", "answer"), ["reply     1 row", "Name the keys with"]),
    ([{"m": {"text": "a"}, "r": {"text": "b"}}], ("m.txt", "r.text"), ["m.text  1 row", "--input-text-key m.text?"]),
    ([{"turns": [{"text": "a"}, {"text": "b"}], "n": 1}], ("x", "turns.1.text"), ["--input-text-key turns.0.text?"]),
    ([{}], ("question", "reply"), ["the rows have no keys at all"]),
]


@pytest.mark.parametrize(("rows", "keys", "parts"), ABSENT)
def test_a_key_that_no_row_has(rows, keys, parts):
    with pytest.raises(InputError) as caught:
        check_rows(rows, *keys, path="file")
    for part in parts:
        assert part in str(caught.value)


def test_many_keys_are_not_all_shown():
    with pytest.raises(InputError, match="and 30 more"):
        check_rows([{f"key{i}": 1 for i in range(50)}], "question", "reply")


def test_the_same_key_twice():
    with pytest.raises(InputError, match='the same key "text"'):
        check_rows([{"text": "a"}], "text", "text")


def test_clean_rows():
    rows = [
        {"question": " a ", "reply": "b\r\n", "tags": ["x", 1, None], "deep": {"é": {"z": 1, "a": 2}}},
        {"question": "c"},
        {"question": "d", "reply": "e", "tags": "now a string", "n": float("nan"), "bad": "\ud800"},
        {"question": "f", "reply": "g"},
    ]
    dataset = clean_rows(rows, check_rows(rows, "question", "reply"), "question", "reply")
    assert dataset.column_names == ["row", "input", "reference", "extra"]
    assert [feature.dtype for feature in dataset.features.values()] == ["int64", "string", "string", "string"]
    assert dataset["row"][:] == [1, 3, 4]
    assert dataset["input"][:] == [" a ", "d", "f"]
    assert dataset["reference"][:] == ["b\r\n", "e", "g"]
    assert dataset[0]["extra"] == '{"deep": {"é": {"a": 2, "z": 1}}, "tags": ["x", 1, null]}'
    assert json.loads(dataset[1]["extra"]) == {"tags": "now a string", "n": None, "bad": "\ud800"}
    assert dataset[2]["extra"] == "{}"


@pytest.mark.parametrize(
    ("row", "keys", "extra"),
    [
        ({"m": {"text": "a", "by": "me"}, "r": {"text": "b"}}, ("m.text", "r.text"), {"m": {"by": "me"}}),
        (
            {"turns": [{"text": "a", "id": 1}, {"text": "b"}]},
            ("turns.0.text", "turns.1.text"),
            {"turns": [{"id": 1}, {}]},
        ),
        ({"turns": ["a", "b", "c"]}, ("turns.0", "turns.1"), {"turns": [None, None, "c"]}),
        ({"q.t": "a", "q": {"t": "kept"}, "r": "b"}, ("q.t", "r"), {"q": {"t": "kept"}}),
    ],
)
def test_extra_is_all_but_the_two_texts(row, keys, extra):
    before = json.dumps(row)
    dataset = clean_rows([row], check_rows([row], *keys), *keys)
    assert (dataset[0]["input"], dataset[0]["reference"]) == ("a", "b")
    assert json.loads(dataset[0]["extra"]) == extra
    assert json.dumps(row) == before


def test_no_row_is_left():
    rows = [{"question": "", "reply": "a"}, {"question": "a", "reply": ""}]
    with pytest.raises(InputError, match="no row is left: each of the 2"):
        clean_rows(rows, check_rows(rows, "question", "reply"), "question", "reply")


def test_sample_rows():
    rows = [{"question": f"q{i}", "reply": f"r{i}", "i": i} for i in range(100)]
    dataset = clean_rows(rows, [], "question", "reply")
    backwards = clean_rows(rows[::-1], [], "question", "reply")
    sample = sample_rows(dataset, 10, 42)
    assert len(sample) == 10
    assert sample["row"][:] == sorted(sample["row"][:])
    assert sorted(sample_rows(backwards, 10, 42)["input"][:]) == sorted(sample["input"][:])
    assert sample_rows(dataset, 10, 43)["input"][:] != sample["input"][:]
    assert sample_rows(dataset, None, 42) is dataset
    assert sample_rows(dataset, 100, 42) is dataset
