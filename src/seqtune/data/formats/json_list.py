"""A JSON list of objects, read row by row: a row that is no JSON does not hide those behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from seqtune.data.formats.words import DEPTH, SHAPE, deep, hint, nested, no_json, reason
from seqtune.data.opening import foreign_byte
from seqtune.data.problems import KEPT, Unreadable, depth_of, excerpt, kind_of
from seqtune.data.scanning import PIECE, Window
from seqtune.errors import InputError

Row = tuple[int, dict | Unreadable]
#: Where a row may begin.
_START = re.compile(r'\{\s*["}]')
#: Behind a broken row so many places are tried; where none of them is a row, the rest of the file is given up.
TRIES = 2000


def rows_of_json(stream: TextIO, where: str) -> Iterator[Row]:
    """Each row with the line it begins in.

    Behind a row that is no JSON, reading goes on at the next object that has a key in common with those before.

    Args:
        stream: the text, read with ``newline=""``.
        where: the file, as the user named it; begins every message.

    Raises:
        InputError: something else than a list, or an empty list.
    """
    window = Window(stream)
    position = window.skip_space(0)
    if window.text[position : position + 1] != "[":
        raise _no_list(window, where)
    rows = _Rows(window, position + 1)
    yield from rows
    if not rows.count:
        raise InputError(f"{where}: an empty list, no rows", mend=SHAPE)


class _Rows:
    """The rows of the list whose first element stands at ``position``."""

    def __init__(self, window: Window, position: int):
        self.window = window
        self.position = position
        self.count = 0
        self.keys: set[str] = set()

    def __iter__(self) -> Iterator[Row]:
        window, behind_comma, line, counted = self.window, False, 1, 0
        while True:
            if self.position > PIECE:
                line += window.text.count("\n", counted, self.position)
                window.drop(self.position)
                self.position = counted = 0
            start = window.skip_space(self.position)
            line += window.text.count("\n", counted, start)
            counted = start
            mark = window.text[start : start + 1]
            if mark == "]" and not behind_comma:
                yield from self._after_the_list(start + 1)
                return
            self.count += 1
            row, behind_comma = self._row(start)
            yield line, row
            if not behind_comma and not window.text[self.position : self.position + 1]:
                return

    def _row(self, start: int) -> tuple[dict | Unreadable, bool]:
        """The row at ``start``, and whether a comma stands behind it; moves on to what follows."""
        window = self.window
        try:
            value, end = window.value(start)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated") and window.ended
            return self._broken(start, len(window.text) if cut else error.pos, no_json(error))
        except (ValueError, RecursionError) as error:
            return self._broken(start, start, reason(error), deep(error))
        text = window.text[start:end]
        behind = window.skip_space(end)
        mark = window.text[behind : behind + 1]
        if mark not in (",", "]"):
            return self._broken(start, behind, "no comma behind the row" if mark else "the list is not closed")
        self.position = behind + (mark == ",")
        return self._as_row(value, text, start), mark == ","

    def _as_row(self, value: Any, text: str, start: int) -> dict | Unreadable:
        if foreign := foreign_byte(text) if not text.isascii() else None:
            position, what, found = foreign
            return Unreadable(what, found, text[:KEPT], *self.window.place(start + position), "not_utf8")
        line = self.window.place(start)[0] if not isinstance(value, dict) else 0
        if not isinstance(value, dict):
            return Unreadable(f"is {kind_of(value)}", "expected an object", text[:KEPT], line)
        if text.count("{") + text.count("[") > DEPTH and depth_of(value, DEPTH + 1) > DEPTH:
            return nested(text, self.window.place(start)[0])
        if len(self.keys) < 100:
            self.keys.update(value)
        return value

    def _broken(self, start: int, fault: int, what: str, expected: str = "") -> tuple[Unreadable, bool]:
        """What stands in the place of a row that is no JSON; moves on to the next row, or to the end."""
        window = self.window
        line, column = window.place(fault)
        ends = window.skip_space(fault) >= len(window.text)
        found = "the file ends here: was it cut off?" if ends else f"found: {excerpt(window.text, fault)}"
        found = f"{expected}  {found}  {hint(window.text, fault)}".strip()
        text = window.text[start : start + KEPT]
        self.position = len(window.text) if ends else self._next_row(fault)
        if self.position < len(window.text):
            text = window.text[start : min(start + KEPT, self.position)].rstrip().rstrip(",")
        return Unreadable(what, found, text, line, column), self.position < len(window.text)

    def _next_row(self, position: int) -> int:
        """Where the next row begins that is whole; the end of the text where none is."""
        window, tries = self.window, 0
        while True:
            text = window.text
            for found in _START.finditer(text, position):
                tries += 1
                if tries > TRIES:
                    return self._end()
                try:
                    value, end = window.value(found.start())
                except (ValueError, RecursionError):
                    continue
                behind = window.skip_space(end)
                alike = not self.keys or not self.keys.isdisjoint(value)
                if alike and window.text[behind : behind + 1] in (",", "]", ""):
                    return found.start()
            brace = text.rfind("{", position)
            position = brace if brace >= 0 else len(text)
            if len(window.text) == len(text) and not window.more():
                return self._end()

    def _end(self) -> int:
        """The end of the file; what stands before it is passed over."""
        while self.window.more():
            self.window.drop(len(self.window.text) - 1)
        return len(self.window.text)

    def _after_the_list(self, position: int) -> Iterator[Row]:
        """Nothing may stand behind the list."""
        rest = self.window.skip_space(position)
        if rest < len(self.window.text):
            line, column = self.window.place(rest)
            found = f"found: {excerpt(self.window.text, rest)}"
            self.count += 1
            text = self.window.text[rest : rest + KEPT]
            yield line, Unreadable("text behind the end of the list", found, text, line, column)


def _no_list(window: Window, where: str) -> InputError:
    """The error for a file that does not begin with a list."""
    while window.more():
        pass
    text = window.text
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        found = [f"found: {excerpt(text, error.pos)}"]
        place = f"line {error.lineno}, column {error.colno}"
        advice = hint(text, error.pos)
        if error.msg == "Extra data" and text[error.pos : error.pos + 1] == "{":
            found = ["it holds objects one after another, over several lines each"]
            advice = "Write each of them in one line: `jq -c . FILE > NEW.jsonl`."
        if error.pos >= len(text.rstrip()):
            advice = "The file ends too early: was it cut off?"
        return InputError(f"{where}: not JSON at {place}: {error.msg}", found, f"{advice} {SHAPE}".strip())
    except (ValueError, RecursionError) as error:
        return InputError(f"{where}: not usable as JSON: {reason(error)}", mend=SHAPE)
    if isinstance(content, dict):
        return _object_instead_of_list(content, where)
    return InputError(f"{where}: {kind_of(content)} instead of a list of rows", mend=SHAPE)


def _object_instead_of_list(content: dict[str, Any], where: str) -> InputError:
    """The error for a JSON object at the top of a file, with the list inside it where there is one."""
    details = []
    for key, value in content.items():
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            details.append(
                f'its key "{key}" holds a list of {len(value):,} objects: save that list as a file of its own'
            )
    if not details:
        names = list(content)
        details.append(
            f"its keys: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}" if names else "it has no keys"
        )
        if names and all(isinstance(value, list | dict) for value in content.values()):
            details.append('it looks like columns: with pandas, write rows with to_json(…, orient="records")')
    return InputError(f"{where}: a JSON object instead of a list", details, SHAPE)
