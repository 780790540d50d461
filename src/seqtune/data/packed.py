"""The rows of a large file without as many Python objects: in chunks of compressed JSON, unpacked when they are read.

A million rows as dicts take a gigabyte; so packed, less than a tenth of it. Small files stay plain lists.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, TypeVar, overload

from seqtune.data.columns import BATCH

Row = TypeVar("Row")

#: Files of so many rows and more are packed.
FROM = 50_000


def kept(rows: Iterable[Row]) -> Sequence[Row]:
    """The rows as a list, or, if they are many, packed."""
    remaining = iter(rows)
    first = list(islice(remaining, FROM))
    return first if len(first) < FROM else PackedRows(chain(_taken(first), remaining))


class PackedRows(Sequence[Row]):
    """A sequence of rows, read best from beginning to end.

    Args:
        rows: dicts of what JSON has; chunks with others in them are kept as they are.
    """

    def __init__(self, rows: Iterable[Row]):
        self._chunks: list[bytes | list[Row]] = []
        self._length = 0
        self._last: tuple[int, list[Row]] = (-1, [])
        remaining = iter(rows)
        while chunk := list(islice(remaining, BATCH)):
            self._chunks.append(_packed(chunk))
            self._length += len(chunk)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Row]:
        for number in range(len(self._chunks)):
            yield from self._unpacked(number)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        number = place // BATCH
        if self._last[0] != number:
            self._last = (number, self._unpacked(number))
        return self._last[1][place % BATCH]

    def _unpacked(self, number: int) -> list[Row]:
        chunk = self._chunks[number]
        return json.loads(zlib.decompress(chunk)) if isinstance(chunk, bytes) else chunk


def _packed(chunk: list[Any]) -> bytes | list[Any]:
    try:
        return zlib.compress(json.dumps(chunk).encode(), level=1) if _plain(chunk) else chunk
    except RecursionError:
        return chunk


def _plain(value: Any) -> bool:
    """Whether JSON gives it back as it is: no dates, bytes, rows that could not be read, objects with doubled keys."""
    kind = type(value)
    if kind is list:
        return all(map(_plain, value))
    if kind is dict:
        return all(type(name) is str for name in value) and all(map(_plain, value.values()))
    return value is None or kind in (str, int, float, bool)


def _taken(rows: list[Row]) -> Iterator[Row]:
    """The rows, each forgotten when it is taken."""
    rows.reverse()
    while rows:
        yield rows.pop()
