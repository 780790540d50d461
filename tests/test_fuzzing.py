"""Broken files at random: the first few hundred of `benchmarks/fuzz_intake.py`, and proof that it notices."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import pytest

from seqtune.data import opening

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "fuzz_intake.py"


@pytest.fixture(scope="module")
def fuzzing() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz_intake", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_traceback_no_hang_no_mojibake(fuzzing: Any, tmp_path: Path) -> None:
    said: list[str] = []
    ends, failed = fuzzing.fuzz(range(400), tmp_path, said.append)
    assert not failed, "\n".join(said)[-3000:]
    assert sum(ends.values()) == 400
    assert min(ends["read"], ends["some rows"], ends["refused"]) > 40, "the files are too alike"


def test_text_that_is_made_up_would_be_noticed(fuzzing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Replacing(io.TextIOWrapper):
        def __init__(self, *args: Any, errors: str, **options: Any):
            super().__init__(*args, errors="replace", **options)

    monkeypatch.setattr(opening.io, "TextIOWrapper", Replacing)
    assert fuzzing.fuzz(range(150), tmp_path, lambda _: None)[1]


def test_a_wrong_encoding_would_be_noticed(fuzzing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_without_mark", lambda _: "latin-1")
    assert fuzzing.fuzz(range(150), tmp_path, lambda _: None)[1]
