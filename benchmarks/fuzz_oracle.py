"""The second reading that `fuzz_intake.py` holds every value against: what Python's own modules make of the same bytes.

Text is decoded by Python's strict codecs; JSON is read by `json`, CSV and TSV by `csv` with the same delimiter, Parquet
by `pyarrow.parquet.read_table`. Where such a module gives up, reading is said to go on: in JSON Lines and CSV with the
next line; in a list every object that `json` finds anywhere counts, and what we read must be some of them, in order and
none inside another.

Not covered: whether a row that we take out of a broken list is one that its writer meant as such.
"""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import re
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet

from seqtune.data.problems import Unreadable

#: A line with its end, as the `csv` module wants it: U+2028 and its kin end none.
_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
#: Bytes that are no UTF-8, as ``surrogateescape`` writes them.
_FOREIGN = re.compile("[\udc80-\udcff]")
#: The same as JSON may write them, which is another fault.
_ESCAPED = re.compile(r"\\ud[c-f]", re.I)


def compare(source: dict[str, Any], rows: list[Any], packed: bytes) -> None:
    """Each row that was read is what the second reading says; each that it can't read was refused.

    Args:
        source: what `readers.identify` says of the file.
        rows: what `readers.read` gave.
        packed: the file's bytes.

    Raises:
        AssertionError: it is not so.
    """
    plain = unpacked(packed)
    if source["format"] == "parquet":
        _compare_all(rows, list(_rows_of_parquet(plain)))
        return
    text, whole = _text_of(source["encoding"], plain)
    assert whole or any(isinstance(row, Unreadable) for row in rows), "bytes that are no text were read"
    assert not whole or not any(isinstance(row, Unreadable) and row.kind == "not_utf8" for row in rows), "it is text"
    if source["format"] in ("csv", "tsv"):
        _compare_all(rows, list(_rows_of_csv(text, source["format"])))
    elif source["format"] == "jsonl":
        _compare_all(rows, [_json_of(line) for line in text.split("\n") if line.strip()])
    else:
        content = _json_of(text)
        if isinstance(content, list):
            _compare_all(rows, content)
        else:
            _compare_some(rows, text)
    if not whole and not _ESCAPED.search(text):
        for number, row in enumerate(rows, 1):
            foreign = not isinstance(row, Unreadable) and _FOREIGN.search(json.dumps(row, ensure_ascii=False))
            assert not foreign, f"row {number}: bytes that are no UTF-8 were read: {row!r}"


def unpacked(content: bytes) -> bytes:
    """What the packers' own modules make of the bytes, as far as their first bytes say that they are packed."""
    if content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    if content.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(content)
    if content.startswith(b"\x28\xb5\x2f\xfd"):
        return pyarrow.input_stream(pyarrow.py_buffer(content), compression="zstd").read()
    return content


def _compare_all(ours: list[Any], theirs: list[Any]) -> None:
    """Row by row; None among theirs is a row that can't be read."""
    assert len(theirs) == len(ours), f"{len(ours)} rows, expected {len(theirs)}"
    for number, (row, other) in enumerate(zip(ours, theirs, strict=True), 1):
        if isinstance(row, Unreadable):
            refusable = not isinstance(other, dict) or "nested" in row.what or row.kind == "not_utf8"
            assert refusable, f"row {number}: {row}, but it can be read: {other!r}"
        else:
            assert isinstance(other, dict), f"row {number}: {row!r} was read, though it can't be"
            assert _same(dict(row), other), f"row {number}: {row!r}, expected {other!r}"


def _compare_some(ours: list[Any], text: str) -> None:
    """Of a list that is no JSON: what was read stands there, in this order, none inside another."""
    assert any(isinstance(row, Unreadable) for row in ours), "read, though it is no JSON"
    there = _objects_in(text)
    begin, end, value = next(there, (len(text), 0, None))
    behind = 0
    for number, row in enumerate(ours, 1):
        if isinstance(row, Unreadable):
            continue
        while value is not None and not (begin >= behind and _same(dict(row), value)):
            begin, end, value = next(there, (len(text), 0, None))
        assert value is not None, f"row {number}: {row!r} is not there, or not in this place"
        behind = end


def _objects_in(text: str) -> Iterator[tuple[int, int, Any]]:
    """Where each object of the text begins and ends, and what it is; those inside others too."""
    decoder = json.JSONDecoder()
    for found in re.finditer(r"\{", text):
        try:
            value, end = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        yield found.start(), end, value


def _json_of(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _rows_of_csv(text: str, format_: str) -> Iterator[dict[str, str] | None]:
    """What `csv` reads; None for a row that it refuses, of which only the first line is given up."""
    lines = [found[0] for found in _LINES.finditer(text)]
    header = next((line for line in lines if line.strip()), "")
    delimiter = "\t" if format_ == "tsv" else max(",;\t", key=header.count)
    begun, names = 0, None
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        at = begun + reader.line_num
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            assert names is not None, "a header that can't be read was read"
            yield None
            begun = at + 1
            reader = csv.reader(lines[begun:], delimiter=delimiter, strict=True)
            continue
        if not fields:
            continue
        if names is None:
            names = [name.strip() or f"column {number}" for number, name in enumerate(fields, 1)]
            continue
        foreign = _FOREIGN.search("".join(lines[at : begun + reader.line_num]))
        yield None if foreign or any(fields[len(names) :]) else dict(zip(names, fields, strict=False))


def _rows_of_parquet(plain: bytes) -> Iterator[dict[str, Any] | None]:
    """What pyarrow reads of the whole file at once; None for a row with text that is no UTF-8."""
    table = pyarrow.parquet.read_table(pyarrow.BufferReader(plain))
    for number in range(table.num_rows):
        try:
            yield {name: table.column(name)[number].as_py() for name in table.column_names}
        except ValueError:
            yield None


def _text_of(codec: str, plain: bytes) -> tuple[str, bool]:
    """The text, and whether all of it is text; a codec that the bytes do not show themselves is no good.

    With the marks of UTF-16 and UTF-32 the text must be whole. Without a mark it is UTF-8, or UTF-16 by its NULs.
    """
    marks = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
    marked = next((name for mark, name in marks if plain.startswith(mark)), None)
    if marked:
        assert codec == marked, f"marked as {marked}, taken for {codec}"
        return plain.decode(marked), True
    if codec in ("utf-16-le", "utf-16-be"):
        assert plain[:4096].count(0) > len(plain[:4096]) / 5, f"taken for {codec}"
        return plain.decode(codec), True
    assert codec == "utf-8-sig", f"guessed: {codec}"
    try:
        return plain.decode("utf-8-sig"), True
    except UnicodeDecodeError:
        return plain.decode("utf-8-sig", "surrogateescape"), False


def _same(ours: Any, theirs: Any) -> bool:
    """Equal, NaN to itself too."""
    return repr(ours) == repr(theirs)
