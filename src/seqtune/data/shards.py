"""A folder of Parquet or JSON Lines files, too large to be read at once: what is in it, piece by piece.

A piece is a row group of a Parquet file, or `LINES` lines of JSON Lines. Where they begin is found in a pass over the
files; it is a few numbers for each piece, so that ten million rows are a megabyte.

Not covered: packed JSON Lines (nobody can begin to read in the middle of them), CSV, folders in folders.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seqtune.data import formats
from seqtune.data.problems import Unreadable
from seqtune.errors import InputError

#: Lines of a piece of JSON Lines.
LINES = 1000

SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}

#: What packed shards end with: nobody can begin to read in their middle.
PACKED = (".gz", ".xz", ".zst", ".bz2")


@dataclass(frozen=True)
class Piece:
    """Rows that are read together.

    Attributes:
        path: of the file.
        first: number of its first row among all rows of the folder, from 0.
        before: rows of its file before it.
        rows: how many.
        at: the row group; or the byte at which the lines begin.
        size: bytes of the lines; 0 for a row group.
    """

    path: str
    first: int
    before: int
    rows: int
    at: int
    size: int = 0


def files_of(folder: str | Path) -> list[Path]:
    """The shards of a folder, by name.

    Raises:
        InputError: no folder, no shard in it, of both kinds, or packed.
    """
    folder = Path(folder)
    expected = "Expected a folder of Parquet (.parquet) or JSON Lines (.jsonl) files."
    if not folder.is_dir():
        raise InputError(f"{folder}: no folder of shards", mend=f"{expected} One file is read without --streaming.")
    if packed := sorted(path.name for path in folder.iterdir() if _is_packed(path)):
        raise InputError(
            f"{folder}: packed shards can't be streamed", [f"found: {', '.join(packed[:5])}"], "Unpack them."
        )
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    kinds = {SUFFIXES[path.suffix.lower()] for path in found}
    if len(kinds) != 1:
        what = "files of both kinds" if kinds else "no shard"
        names = [path.name for path in sorted(folder.iterdir())[:5]]
        raise InputError(f"{folder}: {what}", [f"found: {', '.join(names) or 'nothing'}"], expected)
    return found


def check(settings: Mapping[str, Any], planning: bool = False) -> None:
    """Refuse `streaming` together with what would look at the sample, or read files otherwise.

    Args:
        settings: of a run; knobs that are missing are at their defaults.
        planning: whether the run is only planned.

    Raises:
        InputError: naming all of them.
    """
    if not settings.get("streaming"):
        return
    problems = []
    if planning:
        problems.append("plan   the rehearsal knows how long the rows of the sample take, and not how many there are")
    if settings.get("max_samples") is not None:
        problems.append(f"max_samples = {settings['max_samples']}   rows are not chosen; max_steps ends it sooner")
    if settings.get("minutes") is not None:
        problems.append(f"minutes = {settings['minutes']:g}   the rehearsal counts the rows of the sample alone")
    if settings.get("seeds", 1) > 1:
        problems.append(f"seeds = {settings['seeds']}   trainings after the first would be of the sample alone")
    if settings.get("group_by_length"):
        problems.append("group_by_length = yes   it sorts rows that are all at hand")
    own = settings.get("validation_path") or settings.get("hold_out_path")  # whose encoding it may be
    if settings.get("encoding", "auto") != "auto" and not own:
        problems.append(f"encoding = {settings['encoding']}   shards of text are UTF-8")
    if problems:
        raise InputError("streaming = yes can't be had with this", problems, "Leave out what is named here.")


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() in PACKED and Path(path.stem).suffix.lower() in SUFFIXES and path.is_file()


def identify(folder: str) -> dict[str, Any]:
    """What the folder holds, as a record of JSON values.

    Returns:
        ``path``, ``kind`` "shards", ``format``, ``files``, ``rows``, ``bytes`` and ``sha256`` over names and contents.

    Raises:
        InputError: as `files_of`; or a file can't be read.
    """
    files, digest, size = files_of(folder), hashlib.sha256(), 0
    for path in files:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
        size += path.stat().st_size
    rows = sum(piece.rows for piece in pieces(folder))
    if not rows:
        raise InputError(f"{folder}: no rows in {len(files)} files")
    return {
        "path": folder,
        "kind": "shards",
        "format": SUFFIXES[files[0].suffix.lower()],
        "files": len(files),
        "rows": rows,
        "bytes": size,
        "sha256": digest.hexdigest(),
    }


def pieces(folder: str) -> list[Piece]:
    """All pieces of the folder, in order.

    Raises:
        InputError: a file is no Parquet.
    """
    found: list[Piece] = []
    first = 0
    for path in files_of(folder):
        cut = _row_groups(path) if SUFFIXES[path.suffix.lower()] == "parquet" else _lines(path)
        before = 0
        for at, size, rows in cut:
            if rows:
                found.append(Piece(str(path), first + before, before, rows, at, size))
                before += rows
        first += before
    return found


def read(piece: Piece) -> list[dict | Unreadable]:
    """The rows of one piece, read as a file's are without streaming.

    Raises:
        InputError: the file has changed meanwhile, or can't be read any more.
    """
    import pyarrow as pa

    try:
        rows = _row_group(piece) if piece.size == 0 else _rows_of_lines(piece)
    except (pa.ArrowException, OSError, ValueError, ArithmeticError, MemoryError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"{piece.path}: can't be read behind row {piece.before:,}: {reason}") from None
    if len(rows) != piece.rows:
        raise InputError(f"{piece.path}: changed since it was first looked at", mend="Start again.")
    return rows


def sample(folder: str, rows: int, seed: int) -> list[Piece]:
    """Pieces drawn from all over the folder, of so many rows together or a little more."""
    return next(windows(shuffled(pieces(folder), seed, -1), rows))


def shuffled(all_pieces: list[Piece], seed: int, epoch: int) -> list[Piece]:
    """The pieces in the order of this epoch."""
    order = list(all_pieces)
    random.Random(f"{seed} {epoch}").shuffle(order)
    return order


def windows(order: list[Piece], rows: int) -> Iterator[list[Piece]]:
    """The pieces that are held and shuffled together: as many as have so many rows, one at least."""
    window: list[Piece] = []
    for piece in order:
        window.append(piece)
        if sum(each.rows for each in window) >= rows:
            yield window
            window = []
    if window:
        yield window


def _row_group(piece: Piece) -> list[dict | Unreadable]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(piece.path, page_checksum_verification=True) as file:
        if piece.at >= file.num_row_groups:
            return []
        return [row for batch in file.read_row_group(piece.at).to_batches() for row in formats.rows_of_batch(batch)]


def _rows_of_lines(piece: Piece) -> list[dict | Unreadable]:
    with Path(piece.path).open("rb") as file:
        file.seek(piece.at)
        content = file.read(piece.size)
    # As `opening.decoded`: a mark of the byte order may begin a file, and bytes that are no UTF-8 are for the parser.
    text = io.StringIO(content.decode("utf-8-sig" if piece.at == 0 else "utf-8", "surrogateescape"), newline="\n")
    # Lines are counted within the piece, and say nothing to whoever looks into the file.
    rows = (row for _, row in formats.rows_of_json_lines(text, piece.path))
    return [replace(row, line=None) if isinstance(row, Unreadable) else row for row in rows]


def _row_groups(path: Path) -> Iterator[tuple[int, int, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: can't be read as Parquet", [str(error).splitlines()[0][:200]]) from None
    formats.check_columns(metadata.schema.to_arrow_schema().names, str(path))
    for index in range(metadata.num_row_groups):
        yield index, 0, metadata.row_group(index).num_rows


def _lines(path: Path) -> Iterator[tuple[int, int, int]]:
    """(byte, bytes, rows) of each `LINES` lines; blank lines are no rows."""
    begin = place = lines = rows = 0
    with path.open("rb") as file:
        for line in file:
            # As `_rows_of_lines` reads it: blank is what has no character but white space.
            text = line.decode("utf-8-sig" if place == 0 else "utf-8", "surrogateescape")
            place += len(line)
            lines += 1
            rows += bool(text.strip())
            if lines == LINES:
                yield begin, place - begin, rows
                begin, lines, rows = place, 0, 0
    if lines:
        yield begin, place - begin, rows
