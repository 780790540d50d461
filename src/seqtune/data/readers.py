"""Where the data is, what it is, and its raw rows: a file, a saved dataset folder or a dataset of the hub.

`identify` says what the data is, in a record small enough to be a cache key and to stand in a run's manifest; `read`
gives the rows, `rows_of` one after another. Every format may be packed with gz, xz or zst. Formats are told by content
first, and by name where content leaves it open. `opening` does unpacking and encodings, `formats` the rest.

Not covered: several files at once.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from seqtune.data import formats, opening, packed, sets
from seqtune.data.opening import EXPECTED
from seqtune.data.problems import Unreadable
from seqtune.errors import InputError, did_you_mean
from seqtune.progress import along

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
#: For each format of text the function that reads it, and which line ends it takes for such.
PARSERS = {
    "json": (formats.rows_of_json, ""),
    "jsonl": (formats.rows_of_json_lines, "\n"),
    "csv": (formats.rows_of_csv, ""),
    "tsv": (formats.rows_of_tsv, ""),
}
UNPACKED_SUFFIXES = (".gz", ".xz", ".zst")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: What JSON data begins with, and a CSV header hardly ever.
JSON_START = re.compile(r'\[\s*(\{\s*["}]|\]|$)|\{\s*"')

#: Names of columns, and nothing that a line of JSON might be.
HEADER = re.compile(r'"?[^\W\d][\w .-]*"?([,;\t]"?[^\W\d][\w .-]*"?)+$')


def identify(data_path: str, dataset_split: str, encoding: str = "auto") -> dict[str, Any]:
    """What the data is, as a record of JSON values.

    Args:
        data_path: a file, a folder written by `datasets.save_to_disk`, or the id of a dataset on the hub.
        dataset_split: the split wanted of a folder or hub dataset; a file has none.
        encoding: of a file of text; ``auto`` is UTF-8, or what the file shows.

    Returns:
        For a file ``path`` (as given), ``kind`` "file", ``format`` (json, jsonl, csv, tsv, parquet), ``encoding`` (the
        codec of its text; None for Parquet), ``sha256`` and ``bytes`` of the file as it lies on disk. For a folder
        ``path``, ``kind`` "folder", ``split`` (None for a single dataset), ``sha256`` over the names and contents of
        the files that hold that split, ``bytes``. For the hub ``path``, ``kind`` "hub", ``split``, ``revision``
        (commit).

    Raises:
        InputError: nothing there (with the closest name), not readable, of unknown format or another encoding, a
            folder that is no saved dataset or lacks the split, no such dataset on the hub, or the hub out of reach.
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
        format_, codec = _format(path, encoding)
        told = {"path": data_path, "kind": "file", "format": format_, "encoding": codec}
        return {**told, "sha256": digest, "bytes": size}
    except OSError as error:
        raise InputError(f"{data_path}: can't be read: {error.strerror or error}", mend=EXPECTED) from None


def read(source: dict[str, Any], dataset_split: str) -> Sequence[dict | Unreadable]:
    """The raw rows of what `identify` found, as plain dicts in file order (of large files `packed`).

    Args:
        source: the record of `identify`.
        dataset_split: the split wanted of a folder or hub dataset.

    Returns:
        The rows. In the place of one that can't be read stands an `Unreadable` that says why; `checks.check_rows`
        makes a problem of it.

    Raises:
        InputError: the file as a whole is not what its format asks for, or it has no rows.
    """
    return packed.kept(_rows_of(source, dataset_split, "reading"))


def rows_of(source: dict[str, Any], dataset_split: str) -> Iterator[dict | Unreadable]:
    """The same rows one after another, for files that are larger than memory. Raises as `read` does, on the way."""
    return _rows_of(source, dataset_split, "")


def _rows_of(source: dict[str, Any], dataset_split: str, stage: str) -> Iterator[dict | Unreadable]:
    where = source["path"]
    if source["kind"] == "hub":
        yield from sets.read_hub(where, source["revision"], dataset_split)
    elif source["kind"] == "folder":
        yield from sets.read_folder(Path(where), where, dataset_split)
    else:
        for _, row in _numbered(source, stage):
            yield row


def lines_of(source: dict[str, Any], rows: Collection[int]) -> dict[int, int]:
    """The lines in which rows begin, by their numbers; none where the data has no lines (Parquet, a folder, the hub).

    Costs a second reading: it is for rows that are complained about.
    """
    if source.get("kind") != "file" or source["format"] == "parquet" or not rows:
        return {}
    wanted, last = set(rows), max(rows)
    found = {}
    for number, (line, _) in enumerate(along(_numbered(source, ""), "looking up lines", last), 1):
        if number in wanted:
            found[number] = line
        if number >= last:
            break
    # A list in a single line: its number says nothing.
    return found if any(line > 1 for line in found.values()) or source["format"] != "json" else {}


def _numbered(source: dict[str, Any], stage: str) -> Iterator[tuple[int, dict | Unreadable]]:
    """Line and row of a file; a stage that is named is reported."""
    where, path, count = source["path"], Path(source["path"]), 0
    try:
        if source["format"] == "parquet":
            with opening.unpacked(path) as stream:
                # Parquet is read from its end, which a packed file does not have at hand.
                whole = stream if isinstance(stream, io.BufferedReader) else io.BytesIO(stream.read())
                yield from formats.rows_of_parquet(whole, where, stage)
            return
        parser, newline = PARSERS[source["format"]]
        with opening.decoded(path, source["encoding"], newline, stage) as text:
            for each in parser(text, where):
                yield each
                count += 1
    except opening.DamagedError as error:
        raise InputError(f"{error.headline}, behind row {count:,}", mend=error.mend) from None
    except OSError as error:
        raise InputError(f"{where}: can't be read: {error.strerror or error}", mend=EXPECTED) from None


def _format(path: Path, encoding: str) -> tuple[str, str | None]:
    """json, jsonl, csv, tsv or parquet, and the codec of its text: from the first line, else from the name.

    Raises:
        InputError: neither tells, the file is empty, or as `opening.codec_of`.
    """
    named = _named_format(path)
    with opening.unpacked(path) as stream:
        if stream.read(4) == b"PAR1":
            return "parquet", None
    if named == "parquet":
        raise InputError(f"{path}: no Parquet file: it does not begin with PAR1", mend=EXPECTED)
    codec = opening.codec_of(path, encoding)
    with opening.decoded(path, codec, "\n") as text:
        first = next((line.strip() for line in text if line.strip()), "")
        second = next((line.strip() for line in text if line.strip()), "")
    if not first:
        raise InputError(f"{path}: the file is empty", mend=EXPECTED)
    if first[0] in "[{" and (named not in ("csv", "tsv") or JSON_START.match(first)):
        lines = first[0] == "{" and (named == "jsonl" or (first[-1] == "}" and second[:1] == "{"))
        # A whole value on the first line and more below it can only be JSON Lines.
        return "jsonl" if lines or (second and _is_json(first)) else "json", codec
    if named in ("json", "jsonl") and HEADER.match(first):
        named = None  # no row of JSON begins like that
    guessed = "tsv" if "\t" in first else "csv" if "," in first or ";" in first else None
    if named or guessed:
        return str(named or guessed), codec
    raise InputError(f"{path}: neither its name nor its first line tells the format", mend=EXPECTED)


def _named_format(path: Path) -> str | None:
    """What the name says: "jsonl" for ``support.jsonl.xz``; None where it says nothing."""
    plain = path.with_suffix("") if path.suffix.lower() in UNPACKED_SUFFIXES else path
    return FORMATS.get(plain.suffix.lower())


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


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
