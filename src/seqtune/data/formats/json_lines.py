"""JSON Lines: an object a line; blank lines are passed over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TextIO

from seqtune.data.formats.words import DEPTH, deep, hint, nested, no_json, reason
from seqtune.data.opening import foreign_byte
from seqtune.data.problems import KEPT, Unreadable, depth_of, excerpt, kind_of
from seqtune.data.scanning import DECODER


def rows_of_json_lines(stream: TextIO, where: str) -> Iterator[tuple[int, dict | Unreadable]]:
    r"""Each line with its number.

    Lines end with ``\n`` or ``\r\n`` and nothing else: U+2028 and its kin may stand inside a JSON string.

    Args:
        stream: the text, read with ``newline="\n"``.
        where: the file, as the user named it.
    """
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield number, _row(line, number)


def _row(line: str, number: int) -> dict | Unreadable:
    text = line.rstrip("\n")
    if foreign := foreign_byte(text) if not text.isascii() else None:
        position, what, found = foreign
        return Unreadable(what, found, text[:KEPT], number, position + 1, "not_utf8")
    try:
        row = DECODER.decode(text)
    except json.JSONDecodeError as error:
        if text == line and (error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")):
            found = "the file ends here: was it cut off?"
        else:
            found = f"found: {excerpt(text, error.pos)}"
        return Unreadable(
            no_json(error), f"{found}  {hint(text, error.pos)}".rstrip(), text[:KEPT], number, error.pos + 1
        )
    except (ValueError, RecursionError) as error:
        return Unreadable(reason(error), deep(error), text[:KEPT], number)
    if not isinstance(row, dict):
        return Unreadable(f"is {kind_of(row)}", "expected an object", text[:KEPT], number)
    if text.count("{") + text.count("[") > DEPTH and depth_of(row, DEPTH + 1) > DEPTH:
        return nested(text, number)
    return row
