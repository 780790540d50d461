"""A file's bytes, unpacked, and its text, decoded: what stands before every format.

Bytes that are no UTF-8 come out as surrogates (U+DC80 and up), so that the rows they stand in can be named and no text
is ever made up. Not covered: several files in one archive.
"""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from seqtune.data.problems import quoted
from seqtune.errors import InputError, did_you_mean
from seqtune.progress import advance

#: Bytes that are read at a time, and the size (bytes) from which on a file's reading is reported.
PIECE, LARGE = 2**20, 8 * 10**6
EXPECTED = (
    "Expected a JSON, JSON Lines, CSV, TSV or Parquet file, a saved dataset folder, or a hub dataset id (owner/name)."
)


def _unpack_zstd(stream: IO[bytes]) -> Any:
    import pyarrow

    return pyarrow.input_stream(stream, compression="zstd")


UNPACKERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": _unpack_zstd,
}
#: First bytes of what people try, and the way out.
REFUSED = {
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "Unpack it, or save the sheet as CSV (UTF-8)."),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "Save the sheet as CSV (UTF-8)."),
    b"BZh": ("compressed with bzip2", "Unpack it with `bunzip2`; plain, gz, xz and zst files are read."),
}
#: Byte order marks, longest first: what they say, and the codec that takes them off.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32", "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "utf-32"),
    (codecs.BOM_UTF8, "utf-8", "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16", "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "utf-16"),
)
#: Python's codecs that are no encodings of files.
_NO_FILE_HAS = {"idna", "punycode", "raw_unicode_escape", "unicode_escape", "undefined", "mbcs", "oem", "utf-7"}
_USUAL = ("utf-8", "utf-16", "latin-1", "windows-1252", "windows-1251", "shift_jis", "gb18030", "big5", "euc-kr")
_SURROGATE = re.compile("[\udc80-\udcff]")
_WORD_BEFORE, _WORD_BEHIND = re.compile(r"\w+$"), re.compile(r"^\w+")
_DAMAGES = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class DamagedError(InputError):
    """A packed file that can't be unpacked to its end."""


class _Reported(io.FileIO):
    """A file that reports how many megabytes of it have been read; a small one nothing."""

    def __init__(self, path: Path, stage: str):
        super().__init__(path)
        size = path.stat().st_size
        self.stage, self.done, self.total = stage, 0, size if stage and size >= LARGE else 0

    def readinto(self, buffer: Any, /) -> int:
        """Read, and report."""
        count = super().readinto(buffer) or 0
        self.done += count
        if self.total:
            advance(self.stage, min(self.done, self.total) // 10**6, self.total // 10**6, "MB")
        return count


@contextmanager
def unpacked(path: Path, stage: str = "") -> Iterator[IO[bytes]]:
    """The file as a stream of bytes, unpacked where its first bytes say that it is packed.

    Args:
        path: packed or not.
        stage: what to call the reading in the progress display; nothing is reported without.

    Raises:
        InputError: an archive, a workbook, an unknown compression.
        DamagedError: while it is read.
    """
    with path.open("rb") as stream:
        magic = stream.read(6)
    for start, (what, mend) in REFUSED.items():
        if magic.startswith(start):
            raise InputError(f"{path}: {what}", mend=mend)
    unpack = next((unpack for start, unpack in UNPACKERS.items() if magic.startswith(start)), None)
    try:
        with io.BufferedReader(_Reported(path, stage), PIECE) as packed:
            if unpack is None:
                yield packed
            else:
                with unpack(packed) as stream:
                    yield stream
    except _DAMAGES as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if unpack is not None and error.errno is None:  # pyarrow's, for what is no whole zstd stream
            raise _damaged(path, error) from None
        raise


@contextmanager
def decoded(path: Path, codec: str, newline: str, stage: str = "") -> Iterator[io.TextIOWrapper]:
    r"""The file as a stream of text, without a byte order mark.

    Args:
        path: packed or not.
        codec: what `codec_of` found.
        newline: as for `open`: ``"\n"`` for lines that end with nothing else, ``""`` for CSV.
        stage: as for `unpacked`.

    Raises:
        InputError: as `unpacked`; or, in any encoding but UTF-8, bytes that it does not have, with offset and line.
    """
    errors = "surrogateescape" if codec == "utf-8-sig" else "strict"
    try:
        with (
            unpacked(path, stage) as stream,
            io.TextIOWrapper(stream, encoding=codec, errors=errors, newline=newline) as text,
        ):
            yield text
    except UnicodeError as error:
        raise _undecodable(path, codec) or error from None


def codec_of(path: Path, encoding: str) -> str:
    """The codec for the file's text: as given; else UTF-8, or UTF-16 and UTF-32 where the file shows them.

    Raises:
        InputError: no such encoding, or the file shows that it is in another one.
    """
    with unpacked(path) as stream:
        readable: Any = stream
        head: bytes = readable.read1(4096)  # of a packed file that is cut off soon, what there is
    shown = next(((name, codec) for mark, name, codec in MARKS if head.startswith(mark)), None)
    if encoding == "auto":
        return shown[1] if shown else _without_mark(head)
    wanted = known(encoding)
    if shown and wanted != codecs.lookup(shown[0]).name:
        raise InputError(
            f"{path}: begins with the mark of {shown[0].upper()}, but encoding is {encoding}",
            mend="Leave --encoding out: it is recognised.",
        )
    if wanted == "utf-8":
        return "utf-8-sig"
    if shown:
        return shown[1]
    if not wanted.startswith("utf") and _is_utf8(path):
        raise InputError(
            f"{path}: is UTF-8, but encoding is {encoding}: its letters would be garbled",
            mend="Leave --encoding out: it is recognised.",
        )
    return wanted


def known(encoding: str) -> str:
    """The name by which Python knows an encoding. Raises InputError where it knows none, or no file has it."""
    try:
        info = codecs.lookup(encoding)
        if info._is_text_encoding and info.name not in _NO_FILE_HAS:
            return info.name
    except (LookupError, ValueError):
        pass
    hint = did_you_mean(encoding, _USUAL)
    usual = f"Usual ones: {', '.join(_USUAL)}."
    raise InputError(f"encoding = {encoding!r} is no encoding of text{'; ' + hint if hint else ''}", mend=usual)


def foreign_byte(text: str) -> tuple[int, str, str] | None:
    """Of the first byte in a text that is no UTF-8: its position, what it is, what stands around it; else None."""
    found = _SURROGATE.search(text)
    if found is None:
        return None
    byte = ord(found[0]) - 0xDC00
    before = text[max(0, found.start() - 20) : found.start()].split("\n")[-1]
    return found.start(), f"byte 0x{byte:02x} is no UTF-8", after(before, byte, text[found.end() : found.end() + 20])


def after(before: str, byte: int, rest: str) -> str:
    """Where the byte stands, and the word that it would make in Windows-1252, where it would make one."""
    letter = bytes([byte]).decode("cp1252", "replace")
    if letter.isalpha() or letter in "‘’“”–—…€":
        word = "".join([*_WORD_BEFORE.findall(before), letter, *_WORD_BEHIND.findall(rest)])
        return f"found after {quoted(before)}; read as Windows-1252: {quoted(word)}"
    return f"found after {quoted(before)}"


#: Said wherever there are such bytes.
FOREIGN_MEND = (
    "Where the whole file is in another encoding, name it: --encoding windows-1252 (or latin-1 …) converts it."
)


def _without_mark(head: bytes) -> str:
    """UTF-16 shows itself without a mark too: every other byte of ASCII is NUL. Else UTF-8."""
    if len(head) >= 4:
        pairs = len(head) // 2
        even, odd = (head[start : pairs * 2 : 2].count(0) / pairs for start in (0, 1))
        if odd > 0.4 and even < 0.05:
            return "utf-16-le"
        if even > 0.4 and odd < 0.05:
            return "utf-16-be"
    return "utf-8-sig"


def _is_utf8(path: Path) -> bool:
    """Whether the whole file is UTF-8 and has more than ASCII: then it is nothing else."""
    decoder, foreign = codecs.getincrementaldecoder("utf-8")(), False
    with unpacked(path) as stream:
        while part := stream.read(2**20):
            try:
                decoder.decode(part)
            except UnicodeDecodeError:
                return False
            foreign = foreign or not part.isascii()
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return foreign


def _undecodable(path: Path, codec: str) -> InputError | None:
    """The error for bytes that an encoding does not have, with their place; the file is read once more for it."""
    with unpacked(path) as stream:
        content = stream.read()
    try:
        content.decode(codec)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(codec, "ignore")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        name = codec.upper().removesuffix("-SIG")
        found = f"found: bytes {error.object[error.start : error.end][:4].hex(' ')} after {quoted(before[-20:])}"
        return InputError(
            f"{path}: not {name} at byte offset {error.start}, line {line}, column {column}",
            [found],
            "Is it cut off, or in another encoding? --encoding names one.",
        )
    except UnicodeError as error:
        return InputError(f"{path}: not {codec.upper()}: {error}", mend="--encoding names another encoding.")
    return None


def _damaged(path: Path, error: Exception) -> DamagedError:
    return DamagedError(f"{path}: can't be unpacked: {error}", mend="Was it cut off? Copy or download it again.")
