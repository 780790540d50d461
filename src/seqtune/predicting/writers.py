"""Rows into a file: JSON Lines, CSV, TSV, Parquet, told by its name."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from seqtune.data import opening
from seqtune.errors import InputError
from seqtune.predicting.columns import Columns, as_json, is_utf8

#: Rows of a Parquet row group.
GROUP = 8192


class Writer(Protocol):
    """A file that rows are put into."""

    def write(self, row: dict[str, Any]) -> None:
        """Put a row in."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


def kind_of(path: str) -> str:
    """jsonl, csv, tsv or parquet. Raises InputError where the name says none of them."""
    known = {
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
        ".csv": "csv",
        ".tsv": "tsv",
        ".parquet": "parquet",
        ".pq": "parquet",
    }
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise InputError(
            f"{path}: its name does not say what to write", mend="Expected .jsonl, .csv, .tsv or .parquet."
        )
    return known[suffix]


def check(path: str, overwrite: bool) -> None:
    """Refuse a file that can't be written, before any work is done; beside a journal `filling.to_file` looks again.

    Raises:
        InputError: its name says no format, something is there, or there is no such folder.
    """
    kind_of(path)
    place = Path(path)
    if place.is_dir() or (place.exists() and not overwrite and not Path(f"{path}.partial").exists()):
        raise already_there(path)
    if not os.access(place.absolute().parent, os.W_OK):
        why = "can't be written" if place.absolute().parent.is_dir() else f"there is no folder {place.parent}"
        raise InputError(f"{path}: {why}", mend="Choose another --output.")


def already_there(path: str) -> InputError:
    """The error where something is there that is not to be replaced."""
    return InputError(f"{path}: already there", mend="Choose another --output, or pass --overwrite to replace it.")


class Lines:
    """JSON Lines."""

    def __init__(self, stream: IO[bytes], columns: Columns, schema: Any):
        self.stream = stream

    def write(self, row: dict[str, Any]) -> None:
        """Put a row in."""
        self.stream.write(as_json(row).encode() + b"\n")

    def close(self) -> None:
        """Nothing is kept back."""


class Separated:
    """CSV with commas; objects and lists as JSON, nulls as nothing."""

    delimiter = ","

    def __init__(self, stream: IO[bytes], columns: Columns, schema: Any):
        self.columns = columns
        self.writer = csv.writer(_Encoded(stream), delimiter=self.delimiter, lineterminator="\r\n")
        self.writer.writerow([_writable(name) for name in columns.kinds])

    def write(self, row: dict[str, Any]) -> None:
        """Put a row in."""
        cells = (row.get(name) for name in self.columns.kinds)
        self.writer.writerow([_writable(each if isinstance(each, str) else _cell(each)) for each in cells])

    def close(self) -> None:
        """Nothing is kept back."""


class Tabbed(Separated):
    """The same with tabs."""

    delimiter = "\t"


class Parquet:
    """Parquet: types of the source where that is Parquet, else those that all values of a column have."""

    def __init__(self, stream: IO[bytes], columns: Columns, schema: Any):
        import pyarrow
        import pyarrow.parquet

        self.columns, self.own = columns, schema is None
        names = {"bool": pyarrow.bool_(), "int": pyarrow.int64(), "float": pyarrow.float64()}
        if schema is None:
            fields = [(_writable(name), names.get(kind, pyarrow.string())) for name, kind in columns.kinds.items()]
            schema = pyarrow.schema(fields)
        self.table, self.schema = pyarrow.Table, schema
        self.file = pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd")
        self.rows: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        """Put a row in."""
        if self.own:
            row = {
                _writable(name): _writable(value) if isinstance(value, str) else value
                for name, value in self.columns.fitted(row).items()
            }
        self.rows.append(row)
        if len(self.rows) >= GROUP:
            self._flush()

    def close(self) -> None:
        """Write the last rows and the footer."""
        self._flush()
        self.file.close()

    def _flush(self) -> None:
        if self.rows:
            self.file.write_table(self.table.from_pylist(self.rows, schema=self.schema))
            self.rows = []


WRITERS: dict[str, Callable[[IO[bytes], Columns, Any], Writer]] = {
    "jsonl": Lines,
    "csv": Separated,
    "tsv": Tabbed,
    "parquet": Parquet,
}


class _Encoded:
    """A stream of bytes that csv can write text to."""

    def __init__(self, stream: IO[bytes]):
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(text.encode())


def _cell(value: Any) -> str:
    return "" if value is None else str(value) if isinstance(value, int | float) else as_json(value)


def _writable(text: str) -> str:
    """A text as UTF-8 can have it; half characters as escapes."""
    return text if is_utf8(text) else text.encode("utf-8", "backslashreplace").decode()


def schema_with(source: dict[str, Any], answer_key: str, output: str) -> Any:
    """From Parquet to Parquet: the schema of the source with a column of text more; else None."""
    if source.get("format") != "parquet" or kind_of(output) != "parquet":
        return None
    import pyarrow
    import pyarrow.parquet

    with opening.unpacked(Path(source["path"])) as stream:
        schema = pyarrow.parquet.read_schema(stream if stream.seekable() else io.BytesIO(stream.read()))
    return schema.append(pyarrow.field(answer_key, pyarrow.string()))
