"""Rows of large files packed: the same rows, in less memory."""

from __future__ import annotations

import datetime
import json
import math

import pytest

from seqtune.data import checks, packed, readers
from seqtune.data.problems import Doubled


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(packed, "FROM", 10)
    monkeypatch.setattr(packed, "BATCH", 4)
    monkeypatch.setattr(checks, "PART", 4)


ROWS = [
    {"question": f"q {n} é\ud800\0", "reply": n if n % 3 else [None, {"a": 1.5}], "n": {"deep": True}}
    for n in range(23)
]


def test_the_rows_are_those_that_came():
    kept = packed.kept(iter(ROWS))
    assert isinstance(kept, packed.PackedRows)
    assert (len(kept), list(kept), kept[22], kept[-1], kept[3:9]) == (23, ROWS, ROWS[22], ROWS[22], ROWS[3:9])
    assert [kept[place] for place in (20, 0, 13)] == [ROWS[20], ROWS[0], ROWS[13]]
    with pytest.raises(IndexError):
        kept[23]
    assert packed.kept(iter(ROWS[:9])) == ROWS[:9]
    assert list(packed.kept(iter(ROWS[:10]))) == ROWS[:10]


def test_what_json_does_not_have_is_kept_as_it_is():
    doubled = Doubled(question="a")
    doubled.doubled = ("question",)
    rows = [*ROWS[:9], doubled, {"question": datetime.date(2026, 1, 1)}, {"question": b"x"}, {"question": math.inf}]
    kept = list(packed.kept(iter(rows)))
    assert kept == rows
    assert kept[9].doubled == ("question",)


def test_a_packed_file_is_read_checked_and_cleaned_as_any_other(tmp_path):
    rows = [{"question": f"q {n}", "reply": f"r {n}", "n": n} for n in range(23)]
    rows[11]["reply"] = ""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = readers.read(readers.identify(str(path), "train"), "train")
    assert isinstance(read, packed.PackedRows)
    problems = checks.check_rows(read, "question", "reply")
    assert [problem.row for problem in problems] == [12]
    clean = checks.clean_rows(read, problems, "question", "reply")
    assert clean["row"][:] == [*range(1, 12), *range(13, 24)]
    assert clean["input"][:] == [f"q {number - 1}" for number in clean["row"][:]]
    assert clean["extra"][0] == '{"n": 0}'
