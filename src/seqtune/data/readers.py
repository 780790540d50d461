"""Where the data is, what it is, and its raw rows: a file, a saved dataset folder or a dataset of the hub.

`identify` says what the data is, in a record small enough to be a cache key and to stand in a run's manifest; `read`
gives the rows. Both take every format packed with gz or xz too. Formats are told by content first, and by name where
content leaves it open.

Not covered: UTF-16 and Latin-1 (refused by name, not converted), several files at once.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import re
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from seqtune.data import formats, sets
from seqtune.errors import InputError, did_you_mean

#: What a name says of the format, where the content leaves it open.
FORMATS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
PARSERS: dict[str, Callable[[str, str], list[dict]]] = {
    "json": formats.rows_of_json,
    "jsonl": formats.rows_of_json_lines,
    "csv": formats.rows_of_csv,
    "tsv": formats.rows_of_tsv,
}
UNPACKERS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}
UNPACKED_SUFFIXES = (".gz", ".xz")
#: First bytes of what people try, and the way out.
REFUSED = {
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "Unpack it, or save the sheet as CSV (UTF-8)."),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "Save the sheet as CSV (UTF-8)."),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "Unpack it with `zstd -d`; plain, gz and xz files are read."),
    b"BZh": ("compressed with bzip2", "Unpack it with `bunzip2`; plain, gz and xz files are read."),
    b"\xff\xfe": ("UTF-16 text", "Expected UTF-8: `iconv -f UTF-16 -t UTF-8 FILE > NEW`."),
    b"\xfe\xff": ("UTF-16 text", "Expected UTF-8: `iconv -f UTF-16 -t UTF-8 FILE > NEW`."),
}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: What JSON data begins with, and a CSV header hardly ever.
JSON_START = re.compile(rb'\[\s*(\{\s*["}]|\]|$)|\{\s*"')
EXPECTED = (
    "Expected a JSON, JSON Lines, CSV, TSV or Parquet file, a saved dataset folder, or a hub dataset id (owner/name)."
)


def identify(data_path: str, dataset_split: str) -> dict[str, Any]:
    """What the data is, as a record of JSON values.

    Args:
        data_path: a file, a folder written by `datasets.save_to_disk`, or the id of a dataset on the hub.
        dataset_split: the split wanted of a folder or hub dataset; a file has none.

    Returns:
        For a file ``path`` (as given), ``kind`` "file", ``format`` (json, jsonl, csv, tsv, parquet), ``sha256`` and
        ``bytes`` of the file as it lies on disk. For a folder ``path``, ``kind`` "folder", ``split`` (None for a single
        dataset), ``sha256`` over the names and contents of the files that hold that split, ``bytes``. For the hub
        ``path``, ``kind`` "hub", ``split``, ``revision`` (commit).

    Raises:
        InputError: nothing there (with the closest name), not readable, of unknown format, a folder that is no saved
            dataset or lacks the split, no such dataset on the hub, or the hub out of reach.
    """
    path = Path(data_path)
    try:
        mode = path.stat().st_mode
    except PermissionError as error:
        raise InputError(f"{data_path}: can't be read: {error.strerror}", mend="Change its permissions.") from None
    except (OSError, ValueError):
        if HUB_ID.fullmatch(data_path) and _named_format(path) is None:
            return {"path": data_path, "kind": "hub", "split": dataset_split, "revision": sets.hub_revision(data_path)}
        raise _missing(data_path) from None
    if stat.S_ISDIR(mode):
        if not sets.is_saved(path):
            raise _plain_folder(path)
        return sets.identify_folder(path, data_path, dataset_split)
    if not stat.S_ISREG(mode):
        raise InputError(f"{data_path}: no regular file", mend=EXPECTED)
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = path.stat().st_size
        return {"path": data_path, "kind": "file", "format": _format(path), "sha256": digest, "bytes": size}
    except OSError as error:
        raise InputError(f"{data_path}: can't be read: {error.strerror or error}", mend=EXPECTED) from None


def read(source: dict[str, Any], dataset_split: str) -> list[dict]:
    """The raw rows of what `identify` found, as plain dicts in file order.

    Args:
        source: the record of `identify`.
        dataset_split: the split wanted of a folder or hub dataset.

    Raises:
        InputError: not UTF-8, not what its format asks for, or without rows; one error that names all problems.
    """
    where = source["path"]
    path = Path(where)
    if source["kind"] == "hub":
        return sets.read_hub(where, source["revision"], dataset_split)
    if source["kind"] == "folder":
        return sets.read_folder(path, where, dataset_split)
    try:
        if source["format"] == "parquet":
            return formats.rows_of_parquet(_content(path, where), where)
        text = _text(path, where)
    except OSError as error:
        raise InputError(f"{where}: can't be read: {error.strerror or error}", mend=EXPECTED) from None
    if not text.strip():
        raise InputError(f"{where}: the file is empty", mend=EXPECTED)
    return PARSERS[source["format"]](text, where)


def _opened(path: Path) -> IO[bytes]:
    """The file as a stream of bytes, unpacked where its first bytes say that it is packed.

    Raises:
        InputError: an archive, a workbook, an unknown compression or UTF-16.
    """
    with path.open("rb") as stream:
        magic = stream.read(6)
    for start, (what, mend) in REFUSED.items():
        if magic.startswith(start):
            raise InputError(f"{path}: {what}", mend=mend)
    for start, unpack in UNPACKERS.items():
        if magic.startswith(start):
            return unpack(path)
    return path.open("rb")


def _format(path: Path) -> str:
    """json, jsonl, csv, tsv or parquet: from the first line, else from the name. Raises InputError if neither tells."""
    named = _named_format(path)
    try:
        with _opened(path) as stream:
            first = next((line.strip() for line in stream if line.strip(b"\xef\xbb\xbf \t\r\n")), b"")
            more = any(line.strip() for line in stream)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _damaged(str(path), error) from None
    first = first.removeprefix(BYTE_ORDER_MARK).lstrip()
    if not first:
        raise InputError(f"{path}: the file is empty", mend=EXPECTED)
    if first.startswith(b"PAR1"):
        return "parquet"
    if first[:1] in (b"[", b"{") and (named not in ("csv", "tsv") or JSON_START.match(first)):
        if named == "jsonl" and first.startswith(b"{"):
            return "jsonl"
        # A whole value on the first line and more below it can only be JSON Lines.
        return "jsonl" if more and _is_json(first) else "json"
    guessed = "tsv" if b"\t" in first else "csv" if b"," in first or b";" in first else None
    if named or guessed:
        return str(named or guessed)
    raise InputError(f"{path}: neither its name nor its first line tells the format", mend=EXPECTED)


def _named_format(path: Path) -> str | None:
    """What the name says: "jsonl" for ``support.jsonl.xz``; None where it says nothing."""
    plain = path.with_suffix("") if path.suffix.lower() in UNPACKED_SUFFIXES else path
    return FORMATS.get(plain.suffix.lower())


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _content(path: Path, where: str) -> bytes:
    """The bytes of the whole file, unpacked. Raises InputError where it can't be unpacked."""
    try:
        with _opened(path) as stream:
            return stream.read()
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _damaged(where, error) from None


def _text(path: Path, where: str) -> str:
    """The whole file as text, without byte order mark. Raises InputError where it is not UTF-8 or can't be unpacked."""
    content = _content(path, where)
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        start_of_line = content.rfind(b"\n", 0, error.start) + 1
        before = content[max(start_of_line, error.start - 30) : error.start].decode("utf-8", "ignore")
        found = f"found: byte 0x{content[error.start]:02x} after {formats.quoted(before)}"
        mend = "Expected UTF-8. If it is Latin-1 or Windows-1252: `iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW`."
        raise InputError(f"{where}: not UTF-8 at byte offset {error.start}, line {line}", [found], mend) from None


def _damaged(where: str, error: Exception) -> InputError:
    return InputError(f"{where}: can't be unpacked: {error}", mend="Was it cut off? Copy or download it again.")


def _missing(data_path: str) -> InputError:
    """The error for a path where nothing is, with the closest name in its folder."""
    path = Path(data_path)
    hint = ""
    try:
        if path.parent.is_dir():
            hint = did_you_mean(path.name, sorted(each.name for each in path.parent.iterdir()))
        else:
            hint = f"there is no folder {path.parent}"
    except (OSError, ValueError):
        pass  # a folder that can't be listed, a name no file can have: no hint then
    return InputError(f"{data_path or '(empty path)'}: no such file" + (f"; {hint}" if hint else ""), mend=EXPECTED)


def _plain_folder(path: Path) -> InputError:
    """The error for a folder that is no saved dataset, with the data files in it."""
    files = sorted(each.name for each in path.iterdir() if _named_format(each))
    found = [f"it holds: {', '.join(files[:10])}{', …' if len(files) > 10 else ''}"] if files else []
    mend = f"Give a file: {path / files[0]}" if files else EXPECTED
    return InputError(f"{path}: a directory, but no dataset saved by datasets.save_to_disk", found, mend)
