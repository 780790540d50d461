"""What can be wrong with a row, in the one shape that readers and checks share, and how such things are listed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

#: So many problems are shown; all are counted.
SHOWN = 20
#: Of a row that can't be read so many characters are kept, for the rejects file.
KEPT = 10_000


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one row.

    Args:
        row: number of the row in the file, counted from 1.
        key: the key concerned, as the user named it; empty where the row as a whole can't be read.
        what: what was found: "is missing", "is a list".
        expected: what was expected, or what the row has instead; may be empty.
        kind: of problem, in snake case and stable: ``missing``, ``null``, ``unreadable`` …
        line: of the file, counted from 1, where the row begins or the fault is; None where the format has no lines.
        column: of the fault in its line, counted in characters from 1; None where only the row is known.
    """

    row: int
    key: str
    what: str
    expected: str = ""
    kind: str = field(default="", compare=False)
    line: int | None = field(default=None, compare=False)
    column: int | None = field(default=None, compare=False)

    @property
    def place(self) -> str:
        """``row 17``, ``row 17, line 20``, ``row 17, line 20, column 5``."""
        parts = [f"row {self.row}", f"line {self.line}" if self.line else "", f"column {self.column}"]
        return ", ".join(part for part in (parts if self.column else parts[:2]) if part)

    @property
    def finding(self) -> str:
        """What was found where: ``"reply" is missing``."""
        return f'"{self.key}" {self.what}' if self.key else self.what

    def as_dict(self) -> dict[str, Any]:
        """As the rejects file has it; what is not known is left out."""
        parts = {"key": self.key, "found": self.what, "expected": self.expected, "kind": self.kind}
        return {**{name: text for name, text in parts.items() if text}, **self._places()}

    def _places(self) -> dict[str, int]:
        return {name: number for name in ("line", "column") if (number := getattr(self, name))}


@dataclass(frozen=True)
class Unreadable:
    """What stands among the rows in the place of one that could not be read.

    Args:
        what: what was found.
        expected: what was expected, or the words at the place.
        text: the row as it stands in the file, at most `KEPT` characters of it.
        line: where the fault is; None where the format has no lines.
        column: where in that line.
        kind: as in `Problem`.
    """

    what: str
    expected: str
    text: str
    line: int | None = None
    column: int | None = None
    kind: str = "unreadable"

    def at(self, row: int) -> Problem:
        """The problem of row number ``row``."""
        return Problem(row, "", self.what, self.expected, self.kind, self.line, self.column)


class Doubled(dict):
    """An object of a file in which a key stands more than once; of each such key the last value is kept."""

    #: The keys that do.
    doubled: tuple[str, ...] = ()


def kind_of(value: Any) -> str:
    """A JSON value's type in words, with its article: "a list", "null"."""
    if value is None:
        return "null"
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    for types, name in (
        (bool, "a boolean"),
        (int | float, "a number"),
        (str, "a string"),
        (list | tuple, "a list"),
        (dict, "an object"),
        (bytes, "binary data"),
    ):
        if isinstance(value, types):
            return name
    return f"of type {type(value).__name__}"


def counted(number: int, noun: str) -> str:
    """``1 row``, ``1,000 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(lines: Iterable[tuple[str, ...]]) -> list[str]:
    """The first 20 lines with their columns aligned, and how many more there are."""
    lines = list(lines)
    shown = lines[:SHOWN]
    widths = [max(len(cell) for cell in column) for column in zip(*shown, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in shown]
    return [*text, f"… and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else text


def quoted(text: str) -> str:
    """A piece of a file between backquotes; what a terminal would not show or would obey is escaped."""
    return "`" + "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text) + "`"


def excerpt(text: str, position: int) -> str:
    """Up to 40 characters of the line from `position` on; enough to find the place."""
    rest = text[position : position + 200].split("\n", 1)[0].rstrip("\r")
    if not rest:
        return "the end of the file" if not text[position : position + 10_000].strip() else "the end of the line"
    return quoted(rest[:40]) + ("…" if len(rest) > 40 else "")


def depth_of(value: Any, limit: int) -> int:
    """How deep lists and objects are nested in a value; counting ends at ``limit``."""
    level, depth = [value], 0
    while level and depth < limit:
        level = [
            each
            for node in level
            if isinstance(node, dict | list)
            for each in (node.values() if isinstance(node, dict) else node)
            if isinstance(each, dict | list)
        ]
        depth += 1
    return depth
