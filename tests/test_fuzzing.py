"""Broken files at random: the first few hundred of `benchmarks/fuzz_intake.py`, and proof that it notices."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqtune.data import formats, opening, readers

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def fuzzing() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("fuzz_intake")


def test_no_traceback_no_hang_no_mojibake(fuzzing: Any, tmp_path: Path) -> None:
    said: list[str] = []
    ends, failed = fuzzing.fuzz(range(400), tmp_path, said.append)
    assert not failed, "\n".join(said)[-3000:]
    assert sum(ends.values()) == 400
    assert min(ends["read"], ends["some rows"], ends["refused: at a line, row or byte"]) > 40, "too alike"


def test_text_that_is_made_up_would_be_noticed(fuzzing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Replacing(io.TextIOWrapper):
        def __init__(self, *args: Any, errors: str, **options: Any):
            super().__init__(*args, errors="replace", **options)

    monkeypatch.setattr(opening.io, "TextIOWrapper", Replacing)
    assert fuzzing.fuzz(range(150), tmp_path, lambda _: None)[1]


@pytest.mark.parametrize("format_", ["csv", "json", "json_lines", "parquet"])
def test_a_changed_value_would_be_noticed(
    fuzzing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    """One value in each file: the last character of a text is lost."""
    name = f"rows_of_{format_}"
    original = getattr(formats, name)

    def changed(*arguments: Any) -> Any:
        done = False
        for line, row in original(*arguments):
            if not done and isinstance(row, dict) and isinstance(row.get("reply"), str):
                row["reply"], done = row["reply"][:-1], True
            yield line, row

    monkeypatch.setattr(formats, name, changed)  # Parquet's is looked up there, the others in the table
    for known, (parser, newline) in list(readers.PARSERS.items()):
        if parser is original:
            monkeypatch.setitem(readers.PARSERS, known, (changed, newline))
    assert len(fuzzing.fuzz(range(100), tmp_path, lambda _: None)[1]) >= 2


def test_a_wrong_encoding_would_be_noticed(fuzzing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_without_mark", lambda _: "latin-1")
    assert fuzzing.fuzz(range(150), tmp_path, lambda _: None)[1]
