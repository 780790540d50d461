"""Questions to answer: from a file of any kind that we read, from a text file, from standard input.

A file is looked through once, so that all that is wrong with it is said before the first question is answered; its rows
then come one after another. Neither holds the file in memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqtune.data import readers
from seqtune.data.keys import value_at
from seqtune.data.problems import Unreadable
from seqtune.errors import InputError, did_you_mean
from seqtune.run import file_sha256

MEND = "Name the right key with --input-text-key."

#: Rows that are named where something is wrong with them.
NAMED = 10


@dataclass(frozen=True)
class File:
    """A file of questions that has been looked through.

    Attributes:
        source: what it is, with its digest (`readers.identify`).
        key: of the question in each row.
        total: rows.
    """

    source: dict[str, Any]
    key: str
    total: int

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each question with its row, in the order of the file."""
        for row in _raw_rows(self.source):
            assert isinstance(row, dict)  # it was looked through
            yield value_at(row, self.key), row


def look_through(file: str, key: str, see: Callable[[dict[str, Any]], None] = lambda row: None) -> File:
    """Read a file to its end and see whether every row has a question.

    Args:
        file: any file of `seqtune.data.readers`; ``.txt`` with a question a line, whose rows are ``{"input": …}``.
        key: of the question in an object; dots reach into nested objects.
        see: called with each row.

    Raises:
        InputError: no such file, it can't be read, or rows have no text under the key.
    """
    if file.endswith(".txt") and Path(file).is_file():
        source, key = {"path": file, "kind": "text", "sha256": file_sha256(Path(file))}, "input"
    else:
        source = readers.identify(file, "train")
    total, first = 0, None
    broken, without = _Named(), _Named()
    for total, row in enumerate(_raw_rows(source), 1):
        if isinstance(row, Unreadable):
            broken.add(f"row {total}  {row.what}  {row.expected}".rstrip())
            continue
        first = row if first is None else first
        see(row)
        if not _is_text(value_at(row, key)):
            without.add(f"row {total}")
    if not total:
        raise InputError(f"{file}: the file is empty", mend="Expected a question a line, or rows with questions.")
    if broken.count:
        raise InputError(f"{file}: {broken.count:,} of {total:,} rows can't be read", broken.lines())
    if without.count:
        shown = [" and ".join([", ".join(without.kept), *without.more()])]
        has = [f"the first row has: {', '.join(map(str, first))}", *_hint(key, first)] if first is not None else []
        raise InputError(f'{file}: {without.count:,} of {total:,} rows have no text under "{key}"', shown + has, MEND)
    return File(source, key, total)


class _Named:
    """What is wrong, the first few by name; the others are counted."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.count = 0

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.kept) < NAMED:
            self.kept.append(name)

    def more(self) -> list[str]:
        return [f"{self.count - len(self.kept):,} more"] if self.count > len(self.kept) else []

    def lines(self) -> list[str]:
        return self.kept + [f"and {each}" for each in self.more()]


def read(file: str, key: str) -> Iterator[str]:
    """The questions, in order: as `look_through` finds them, or for ``-`` from standard input, where each line is a
    JSON object, a JSON string, or the question itself.

    Raises:
        InputError: as `look_through`; what is wrong with standard input as it comes.
    """
    if file == "-":
        return _of_standard_input(key)
    found = look_through(file, key)
    return (text for text, _ in found.rows())


def _raw_rows(source: dict[str, Any]) -> Iterator[dict[str, Any] | Unreadable]:
    return _lines(source["path"]) if source["kind"] == "text" else readers.rows_of(source, "train")


def _lines(file: str) -> Iterator[dict[str, Any] | Unreadable]:
    """The lines of a text file that hold anything."""
    try:
        with Path(file).open(encoding="utf-8-sig", newline="\n") as lines:
            for line in lines:
                if line.strip():
                    yield {"input": line.rstrip("\r\n")}
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise InputError(f"{file}: can't be read ({reason})", mend="Expected UTF-8 text, a question a line.") from None


def _of_standard_input(key: str) -> Iterator[str]:
    """The question of each line that holds anything, as soon as it comes."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise InputError(f"standard input, line {number}: not UTF-8") from None
        if text.strip():
            yield _of_line(text, number, key)


def _of_line(text: str, number: int, key: str) -> str:
    where = f"standard input, line {number}"
    is_object = text.lstrip().startswith("{")
    try:
        content: Any = json.loads(text) if is_object or text.lstrip().startswith('"') else text
    except (ValueError, RecursionError):
        if not is_object:
            return text  # a question that begins with a quotation mark
        mend = "Expected a JSON object, a JSON string or plain text in each line."
        raise InputError(f"{where}: begins like a JSON object, but is none", mend=mend) from None
    found = value_at(content, key) if isinstance(content, dict) else content
    if not _is_text(found):
        has = [f"this line has: {', '.join(content) or 'nothing'}", *_hint(key, content)]
        raise InputError(f'{where}: no text under "{key}"', has, MEND)
    return found


def _is_text(value: Any) -> bool:
    """Whether it is text that can be written as UTF-8: JSON can escape half a character."""
    return isinstance(value, str) and not any("\ud800" <= each <= "\udfff" for each in value)


def _hint(key: str, row: dict[str, Any]) -> list[str]:
    hint = did_you_mean(key, map(str, row))
    return [hint] if hint else []
