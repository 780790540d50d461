"""Questions to answer: from a file of any kind that we read, from a text file, from standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqtune.data import readers
from seqtune.data.keys import value_at
from seqtune.data.problems import Unreadable, listed
from seqtune.errors import InputError, did_you_mean

MEND = "Name the right key with --input-text-key."


def read(file: str, key: str) -> Iterator[str]:
    """The questions, in order.

    Args:
        file: any file of `seqtune.data.readers`; ``.txt`` with a question a line; ``-`` for standard input, where each
            line is a JSON object, a JSON string, or the question itself.
        key: of the question in an object; dots reach into nested objects.

    Raises:
        InputError: no such file, it can't be read, or a row has no text under the key. For files all of it is checked
            before the first question is returned; standard input as it comes.
    """
    if file == "-":
        return _of_standard_input(key)
    if file.endswith(".txt") and Path(file).is_file():
        return iter(_lines(file))
    found = readers.read(readers.identify(file, "train"), "train")
    rows = [row for row in found if isinstance(row, dict)]
    if len(rows) < len(found):
        unreadable = [row.at(number) for number, row in enumerate(found, 1) if isinstance(row, Unreadable)]
        lines = listed((each.place, each.what, each.expected) for each in unreadable)
        raise InputError(f"{file}: {len(unreadable):,} of {len(found):,} rows can't be read", lines, "Fix them.")
    problems = [f"row {number}" for number, row in enumerate(rows, 1) if not _is_text(value_at(row, key))]
    if problems:
        shown = ", ".join(problems[:10]) + (f" and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise InputError(
            f'{file}: {len(problems)} of {len(rows)} rows have no text under "{key}"',
            [shown, f"the first row has: {', '.join(map(str, rows[0]))}", *_hint(key, rows[0])],
            MEND,
        )
    return (value_at(row, key) for row in rows)


def _lines(file: str) -> list[str]:
    """The lines of a text file that hold anything."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise InputError(f"{file}: can't be read ({reason})", mend="Expected UTF-8 text, a question a line.") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{file}: the file is empty", mend="Expected a question a line.")
    return lines


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
