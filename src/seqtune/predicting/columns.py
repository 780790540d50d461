"""What columns a file's rows have and of what kind: CSV needs their names before the first row, Parquet their types."""

from __future__ import annotations

import json
from typing import Any

_INT64 = 2**63
_TYPES: dict[str, type] = {"int": int, "float": float, "text": str}


class Columns:
    """Names and kinds of the columns of the rows seen so far: bool, int, float, text, or json for all else."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}

    def see(self, row: dict[str, Any]) -> None:
        """Take a row in."""
        for name, value in row.items():
            self.kinds[name] = _joined(self.kinds.get(name), _kind(value))

    def fitted(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with a value of its kind, or None, for every column."""
        return {name: _as(kind, row.get(name)) for name, kind in self.kinds.items()}


def _kind(value: Any) -> str | None:
    """The kind of a value; None for null."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -_INT64 <= value < _INT64 else "json"
    return "float" if isinstance(value, float) else "text" if isinstance(value, str) else "json"


def _joined(before: str | None, now: str | None) -> str:
    """A kind that holds both; a column of nulls alone is text."""
    if now is None or before == now:
        return before or "text?"
    if before in (None, "text?"):
        return now
    return "float" if {before, now} == {"int", "float"} else "json"


def _as(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "json":
        return as_json(value)
    return _TYPES[kind](value) if kind in _TYPES else value


def as_json(value: Any) -> str:
    """JSON in one line; what JSON does not have (dates of a Parquet file) as text; half characters escaped."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isprintable() or is_utf8(text) else json.dumps(value, default=str)


def is_utf8(text: str) -> bool:
    """Whether a text can be written: JSON can escape half a character."""
    return not any("\ud800" <= each <= "\udfff" for each in text)
