"""A window on a text that is read piece by piece: JSON values are taken out of it one after another.

Memory is that of the longest value, not that of the file.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any, TextIO

from seqtune.data.problems import Doubled

#: Characters read at a time.
PIECE = 2**20
_SPACE = re.compile(r"[ \t\n\r]*")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; keys are shared between rows, and those that stand twice are noted."""
    content = {sys.intern(name): value for name, value in pairs}
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        content = Doubled(content)
        content.doubled = tuple(dict.fromkeys(name for name in names if names.count(name) > 1))
    return content


DECODER = json.JSONDecoder(object_pairs_hook=_object)


class Window:
    """The part of a text that has been read and not yet been used.

    Args:
        stream: the text.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.text = ""
        self.ended = False
        self.lines = 0
        self.column = 0

    def more(self) -> bool:
        """Read on, as much again as there is; False at the end."""
        piece = "" if self.ended else self.stream.read(max(PIECE, len(self.text)))
        self.ended = not piece
        self.text += piece
        return bool(piece)

    def drop(self, position: int) -> None:
        """Forget what stands before a position, which becomes 0."""
        breaks = self.text.count("\n", 0, position)
        self.lines += breaks
        self.column = position - self.text.rfind("\n", 0, position) - 1 if breaks else self.column + position
        self.text = self.text[position:]

    def place(self, position: int) -> tuple[int, int]:
        """Line and column of a position in the file, counted from 1."""
        breaks = self.text.count("\n", 0, position)
        if not breaks:
            return self.lines + 1, self.column + position + 1
        return self.lines + breaks + 1, position - self.text.rfind("\n", 0, position)

    def skip_space(self, position: int) -> int:
        """The position of the next thing that is no white space; the end of the text where there is none."""
        while True:
            found = _SPACE.match(self.text, position)
            position = found.end() if found else position
            if position < len(self.text) or not self.more():
                return position

    def value(self, position: int) -> tuple[Any, int]:
        """The JSON value at a position, and where it ends.

        Raises:
            json.JSONDecodeError: there is none.
            RecursionError: it is nested too deeply.
            ValueError: a number with more digits than Python takes.
        """
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, position)
                if end < len(self.text) or not self.more():
                    return value, end
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - 16
                if not unfinished or not self.more():
                    raise
