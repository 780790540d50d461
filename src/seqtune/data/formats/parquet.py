"""Parquet: read a few thousand rows at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, Any

from seqtune.data.problems import KEPT, Unreadable
from seqtune.errors import InputError
from seqtune.progress import MANY, advance

#: Rows turned into Python's values at a time.
BATCH = 2000


def rows_of_parquet(stream: IO[bytes], where: str, stage: str = "") -> Iterator[tuple[int, dict | Unreadable]]:
    """Each row; a Parquet file has no lines, so that their numbers are 0.

    Args:
        stream: the file, at a place that can be sought in.
        where: the file, as the user named it.
        stage: what to call this in the progress display; nothing is reported without.

    Raises:
        InputError: it can't be read as Parquet, has two columns of one name, or no rows.
    """
    import pyarrow
    import pyarrow.parquet

    count = 0
    try:
        # Files with checksums are rare, but where there are any, changed bytes are refused rather than read.
        with pyarrow.parquet.ParquetFile(stream, page_checksum_verification=True) as file:
            check_columns(file.schema_arrow.names, where)
            total = file.metadata.num_rows
            for batch in file.iter_batches(batch_size=BATCH):
                for row in rows_of_batch(batch):
                    count += 1
                    yield 0, row
                if stage and total >= MANY:
                    advance(stage, count, total, "rows")
    except (pyarrow.ArrowException, OSError, ValueError, ArithmeticError, MemoryError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        mend = "Is it whole? Write it again, or give the rows as JSON Lines or CSV."
        raise InputError(f"{where}: can't be read as Parquet behind row {count}: {reason}", mend=mend) from None
    if not count:
        raise InputError(f"{where}: a Parquet file without rows", mend="Give a file with question–answer rows.")


def check_columns(names: Sequence[str], where: str) -> None:
    """Refuse columns of one name: a row could hold only one of them. Raises InputError naming them."""
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        found = [f"column {name!r} stands more than once" for name in twice[:20]]
        raise InputError(f"{where}: columns with the same name", found, "Give each column a name of its own.")


def rows_of_batch(batch: Any) -> list[dict | Unreadable]:
    """The rows of a batch; where a value can't be had (text that is no UTF-8), row by row."""
    try:
        return batch.to_pylist()
    except (ValueError, ArithmeticError):
        return [_row(batch.slice(number, 1)) for number in range(batch.num_rows)]


def _row(batch: Any) -> dict | Unreadable:
    row: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[0].as_py()
        except UnicodeDecodeError as error:
            text = error.object.decode("utf-8", "backslashreplace")
            found = f"byte 0x{error.object[error.start]:02x} is no UTF-8"
            return Unreadable(f'"{name}" is no text: {found}', "expected UTF-8", text[:KEPT], kind="not_utf8")
        except (ValueError, ArithmeticError) as error:
            return Unreadable(f'"{name}" can\'t be read: {error}', "", "", kind="unreadable")
    return row
