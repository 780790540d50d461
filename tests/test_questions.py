"""`seqtune.questions`: from files of every kind and from standard input."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from seqtune import questions
from seqtune.errors import InputError


def typed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


def test_standard_input_takes_objects_strings_and_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        '\ufeff{"question": "one"}',
        '{"question": "zwei Füße", "other": 1}',
        '"a \\"string\\""',
        '"Reset" does nothing',
        "plain text, {not an object}\r",
        "[3]",
        "   ",
        "42",
    ]
    typed(monkeypatch, "\n".join(lines).encode())
    found = list(questions.read("-", "question"))
    assert found == [
        "one",
        "zwei Füße",
        'a "string"',
        '"Reset" does nothing',
        "plain text, {not an object}",
        "[3]",
        "42",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"questio": "x"}', 'line 2: no text under "question"\n  this line has: questio\n  did you mean `questio`?'),
        (b'{"question": ["x"]}', 'line 2: no text under "question"'),
        (b'{"question": "\\ud800"}', 'line 2: no text under "question"'),
        (b"{}", "this line has: nothing"),
        (b'{"question": "x"', "line 2: begins like a JSON object, but is none"),
        (b"\xff", "line 2: not UTF-8"),
    ],
)
def test_refused_lines_of_standard_input(monkeypatch: pytest.MonkeyPatch, line: bytes, said: str) -> None:
    typed(monkeypatch, b"fine\n" + line + b"\n")
    with pytest.raises(InputError) as caught:
        list(questions.read("-", "question"))
    assert said in str(caught.value)


def test_files(tmp_path: Path) -> None:
    rows = [{"q": {"text": "eins"}}, {"q": {"text": "zwei"}}]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    (tmp_path / "q.csv").write_text("q,x\neins,1\nzwei,2\n")
    (tmp_path / "q.txt").write_text("\ufeffeins\n\n  \nzwei\n", encoding="utf-8")
    for name, key in (("q.json", "q.text"), ("q.csv", "q"), ("q.txt", "whatever")):
        assert list(questions.read(str(tmp_path / name), key)) == ["eins", "zwei"]


def test_a_wrong_key_names_the_keys_there_are(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text(json.dumps([{"question": "a"}] * 12))
    with pytest.raises(InputError) as caught:
        questions.read(str(path), "qestion")
    assert str(caught.value).splitlines() == [
        f'{path}: 12 of 12 rows have no text under "qestion"',
        "  row 1, row 2, row 3, row 4, row 5, row 6, row 7, row 8, row 9, row 10 and 2 more",
        "  the first row has: question",
        "  did you mean `question`?",
        "Name the right key with --input-text-key.",
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("q.txt", b"\n", "empty"), ("q.txt", b"\xff", "not UTF-8"), ("q.json", b"[]", "empty list")],
)
def test_refused_files(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        questions.read(str(tmp_path / name), "question")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("none.txt", "none.json"):
        with pytest.raises(InputError, match="no such file"):
            questions.read(str(tmp_path / name), "question")
