"""CSV and TSV: a header row, then rows of as many fields; all values are text.

Blank lines are passed over. A row with fewer fields than the header lacks the last keys.
"""

from __future__ import annotations

import csv
from collections import Counter, deque
from collections.abc import Iterator
from typing import TextIO

from seqtune.data.opening import foreign_byte
from seqtune.data.problems import KEPT, Unreadable, excerpt
from seqtune.errors import InputError

SHAPE = (
    'Expected a header row, then rows of as many fields; a field with a comma, quote or line break in it stands in "…".'
)
#: A row over more lines than this is one whose quote was never closed.
LINES = 10_000
#: So many lines are read a second time behind quotes that are never closed; then the file is given up.
AGAIN = 1_000_000

Row = tuple[int, dict | Unreadable]


def rows_of_csv(stream: TextIO, where: str) -> Iterator[Row]:
    """Comma-separated values (or, as the header shows, separated by semicolons or tabs).

    Args:
        stream: the text, read with ``newline=""``.
        where: the file, as the user named it; begins every message.

    Raises:
        InputError: a header that can't be read, with two columns of one name, or with no rows behind it.
    """
    lines = _Lines(stream)
    header = next((line for line in lines if line.strip()), "")
    lines.back()
    # The first of the most frequent: a comma where none of them occurs.
    return _separated(lines, where, max(",;\t", key=header.count))


def rows_of_tsv(stream: TextIO, where: str) -> Iterator[Row]:
    """Tab-separated values; quoted as in CSV. Raises as `rows_of_csv` does."""
    return _separated(_Lines(stream), where, "\t")


class _Lines:
    """The lines of a stream, of which the last ones can be taken back."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.waiting: deque[str] = deque()
        self.given: list[str] = []
        self.number = 0
        self.again = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.given) >= LINES:
            raise csv.Error("a quote is never closed")
        line = self.waiting.popleft() if self.waiting else next(self.stream)
        self.given.append(line)
        self.number += 1
        return line

    def keep(self) -> None:
        """What was given is used and can't be taken back any more."""
        self.given.clear()

    def back(self, but: int = 0) -> None:
        """Take back what was given, except the first lines of it."""
        returned = self.given[but:]
        self.waiting.extendleft(reversed(returned))
        self.again += len(returned)
        self.number -= len(returned)
        self.given.clear()


def _separated(lines: _Lines, where: str, delimiter: str) -> Iterator[Row]:
    """Rows of text separated by `delimiter`."""
    csv.field_size_limit(2**31 - 1)  # the limit of 128 KiB a field guards against broken quotes; strict=True does too
    names: list[str] = []
    count = 0
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.keep()
        start = lines.number + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            reason = "a quote is never closed" if "unexpected end" in str(error) else str(error)
            last = lines.number
            if not names or lines.again > AGAIN:
                span = f"line {start}" if last <= start else f"lines {start} to {last}"
                raise InputError(f"{where}: broken row at {span}: {reason}", mend=SHAPE) from None
            text = "".join(lines.given)[:KEPT].rstrip("\r\n")
            lines.back(but=1)  # the rows that an open quote has swallowed
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            count += 1
            yield start, Unreadable(f"broken quotes: {reason}", f"found: {excerpt(text, 0)}", text, start)
            continue
        if fields is None:
            break
        if not fields:
            continue
        text = "".join(lines.given)
        foreign = None if text.isascii() else foreign_byte(text)
        if not names:
            if foreign:
                _, what, found = foreign
                raise InputError(f"{where}: {what} in the header, line {start}", [found], _ENCODINGS)
            names = _names(fields, where)
            continue
        count += 1
        yield start, _row(names, fields, text, start, foreign)
    if not count:
        raise InputError(f"{where}: a header row and no others", mend=SHAPE)


_ENCODINGS = "Name the file's encoding: --encoding windows-1252 (or latin-1, utf-16 …) converts it."


def _names(fields: list[str], where: str) -> list[str]:
    """The names of the columns. Raises InputError where two are alike."""
    names = [name.strip() or f"column {number}" for number, name in enumerate(fields, 1)]
    twice = [f"column {name!r} stands {count} times" for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{where}: columns with the same name", twice[:20], "Give each column a name of its own.")
    return names


def _row(
    names: list[str], fields: list[str], text: str, start: int, foreign: tuple[int, str, str] | None
) -> dict | Unreadable:
    if foreign:
        position, what, found = foreign
        breaks = text.count("\n", 0, position)
        column = position - text.rfind("\n", 0, position)
        return Unreadable(what, found, text[:KEPT], start + breaks, column, "not_utf8")
    # A comma too many at the end of a row loses nothing.
    if extra := next((field for field in fields[len(names) :] if field), ""):
        found = f"the header has {len(names)}; too many: {excerpt(extra, 0)}"
        return Unreadable(f"has {len(fields)} fields", found, text[:KEPT].rstrip("\r\n"), start)
    return dict(zip(names, fields, strict=False))
