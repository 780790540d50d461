"""Broken files by the thousand: each is read right, or refused with its place; no traceback, no hang, no mojibake.

    python benchmarks/fuzz_intake.py --files 10000

Good files in every format, encoding and packing are damaged at random: bytes changed, cut out, put in twice, swapped;
lines lost or doubled; ends cut off; other files' pieces put in. File number N is made from seed N alone, so that
``--seeds N`` makes it again. JSON and JSON Lines are compared row by row with what Python's own `json` reads of the
same bytes, strictly decoded; of CSV and TSV no value may be read that is not in the text.

Not covered: values of Parquet; CSV fields divided in another place; damage inside packed files beyond their being
refused or, by chance, unharmed.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import lzma
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from seqtune.data import checks, readers
from seqtune.data.problems import Unreadable
from seqtune.errors import InputError

#: Longest that a file of a few kilobytes may take, in seconds.
LIMIT = 20
# fmt: off
WORDS = (
    "How do I reset the lamp?", "Hold the button for 5 seconds.", "café", "naïve", "日本語", "Grüße, 2,5 m", 'a "b"; c',
    "line\nbreak", "tab\there", "🙂", "नमस्ते", "\u2028", '{"x": [1]}', "back\\slash", "<b>x</b>", " ", "",
)
# fmt: on
PIECES = (
    b'"',
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xe9",
    b"\xff",
    b"\xc3",
    b"NaN",
    b"null",
    b"\\",
    b"\\ud800",
    b"\\u0000",
    b"\xef\xbb\xbf",
    b"\t",
    b";",
    b"[" * 400,
    b'{"a":' * 200,
    b"9" * 5000,
    b'"question": 1, ',
    b"},{",
    b"\xff\xfe",
    b" ",
    b"-",
    b"1e999",
)  # fmt: skip
BREAKS = b"\n"


def rows_of(rng: random.Random) -> list[dict[str, Any]]:
    """A few good rows."""
    others = (1, 2.5, None, True, ["a", {"b": "c"}], {"d": "e"})
    rows = []
    for number in range(rng.randint(1, 12)):
        row: dict[str, Any] = {"question": f"{rng.choice(WORDS)} {number}", "reply": rng.choice(WORDS) + " x"}
        if rng.random() < 0.3:
            row["more"] = rng.choice(others)
        rows.append(row)
    return rows


def good_file(rng: random.Random) -> tuple[str, bytes]:
    """Name and content of a good file."""
    rows, format_ = rows_of(rng), rng.choice(("json", "json", "jsonl", "jsonl", "csv", "csv", "tsv", "parquet"))
    if format_ == "parquet":
        sink = pyarrow.BufferOutputStream()
        table = pyarrow.Table.from_pylist([{name: str(row[name]) for name in ("question", "reply")} for row in rows])
        pyarrow.parquet.write_table(table, sink)
        return "a.parquet", sink.getvalue().to_pybytes()
    if format_ == "json":
        text = json.dumps(rows, ensure_ascii=rng.random() < 0.3, indent=rng.choice((None, None, 2)))
    elif format_ == "jsonl":
        text = "\n".join(json.dumps(row, ensure_ascii=rng.random() < 0.3) for row in rows) + "\n" * rng.randint(0, 2)
    else:
        file = io.StringIO()
        writer = csv.writer(file, delimiter="\t" if format_ == "tsv" else rng.choice(",;"))
        writer.writerow(["question", "reply"])
        writer.writerows([row["question"], row["reply"]] for row in rows)
        text = file.getvalue()
    codec = rng.choice(("utf-8",) * 6 + ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"))
    name = f"a.{rng.choice((format_, format_, format_, 'json', 'jsonl', 'csv', 'txt'))}"
    return name, text.encode(codec, "ignore")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The same, damaged up to four times."""
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        at, length = rng.randrange(len(content) + 1), rng.choice((1, 1, 2, 5, 40))
        match rng.randrange(9):
            case 0:
                content = content[:at] + bytes(rng.randrange(256) for _ in range(length)) + content[at + length :]
            case 1:
                content = content[:at] + content[at + length :]
            case 2:
                content = content[:at] + rng.choice(PIECES) + content[at:]
            case 3:
                content = content[:at] + rng.choice(PIECES) + content[at + length :]
            case 4:
                content = content[:at]
            case 5:
                content = content[:at] + content[max(0, at - length) : at] + content[at:]
            case 6:
                lines = content.split(BREAKS)
                lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
                content = BREAKS.join(lines)
            case 7:
                lines = content.split(BREAKS)
                rng.shuffle(lines)
                content = BREAKS.join(lines)
            case 8:
                content = content[at:] + content[:at]
        content = content[:100_000]
    return content


def made(seed: int) -> tuple[str, bytes]:
    """Name and content."""
    rng = random.Random(seed)
    name, plain = good_file(rng)
    plain = damaged(plain, rng)
    match rng.randrange(12):
        case 0:
            packed, name = gzip.compress(plain, mtime=0), name + ".gz"
        case 1:
            packed, name = lzma.compress(plain, preset=0), name + ".xz"
        case 2:
            packed, name = pyarrow.compress(plain, codec="zstd", asbytes=True), name + ".zst"
        case _:
            return name, plain
    return name, damaged(packed, rng) if rng.random() < 0.3 else packed


def unpacked(content: bytes) -> bytes:
    """What the packers' own modules make of the bytes, as far as their first bytes say that they are packed."""
    if content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    if content.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(content)
    if content.startswith(b"\x28\xb5\x2f\xfd"):
        return pyarrow.input_stream(pyarrow.py_buffer(content), compression="zstd").read()
    return content


def decoded(content: bytes) -> str:
    """Text by Python's strict codecs; of the byte order marks, and NULs where UTF-16 has none. Raises ValueError."""
    marks = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
    for mark, codec in marks:
        if content.startswith(mark):
            return content.decode(codec)
    return content.decode("utf-8-sig")


def expected(format_: str, text: str) -> list[Any] | None:
    """What Python's own modules read; a row that they refuse is None; None instead of rows: the file as a whole."""
    if format_ == "json":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return content if isinstance(content, list) else None
    if format_ == "jsonl":
        rows: list[Any] = []
        for line in text.split("\n"):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except (ValueError, RecursionError):
                    rows.append(None)
        return rows
    return None


def same(ours: Any, theirs: Any) -> bool:
    """Equal, NaN to itself too."""
    return repr(ours) == repr(theirs) or json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)


def judged(path: Path) -> str:
    """How a file ended: ``refused``, ``read``, ``some rows``. Raises AssertionError where it is not as it should be."""
    refused, rows, problems, source = None, [], [], {}
    try:
        source = readers.identify(str(path), "train")
        rows = readers.read(source, "train")
        problems = checks.check_rows(rows, "question", "reply", str(path))
    except InputError as error:
        refused = error
    if refused is not None:
        assert str(refused).startswith(str(path)), f"no file named: {refused}"
        assert refused.mend, f"no mend: {refused}"
    if not rows:
        return "refused"
    unreadable = [row.at(number) for number, row in enumerate(rows, 1) if isinstance(row, Unreadable)]
    for problem in unreadable:
        assert source["format"] == "parquet" or problem.line, f"no line: {problem}"
    if refused is None and len({problem.row for problem in problems}) < len(rows):
        clean = checks.clean_rows(rows, problems, "question", "reply")
        for text in (*clean["input"][:], *clean["reference"][:]):
            assert "\0" not in text
            text.encode()
    compare(source, rows, unpacked(path.read_bytes()))
    return "refused" if refused else "some rows" if problems else "read"


def compare(source: dict[str, Any], rows: list[Any], plain: bytes) -> None:
    """Nothing is read that is not there: each row is what Python's own modules make of the same text."""
    if source["format"] == "parquet":
        return
    codec = source["encoding"]
    if codec in ("utf-16-le", "utf-16-be"):  # told without a mark
        assert plain[:4096].count(0) > len(plain[:4096]) / 5, f"taken for {codec}"
    else:
        assert codec in ("utf-8-sig", "utf-16", "utf-32"), f"guessed: {codec}"
    try:
        text = plain.decode(codec) if codec in ("utf-16-le", "utf-16-be") else decoded(plain)
    except ValueError:
        assert codec == "utf-8-sig", "text where there are bytes that are none"
        assert any(isinstance(row, Unreadable) for row in rows), "bytes that are no text were read"
        text = plain.decode("utf-8-sig", "surrogateescape")
        for row in rows:
            if not isinstance(row, Unreadable):
                assert not any("\udc80" <= c <= "\udcff" for c in json.dumps(row, ensure_ascii=False)) or "\\ud" in text
    if source["format"] in ("csv", "tsv"):
        for row in rows:
            if not isinstance(row, Unreadable):
                for value in row.values():
                    assert value.replace('"', "") in text.replace('"', ""), f"made up: {value!r}"
        return
    theirs = expected(source["format"], text)
    if theirs is None:
        assert any(isinstance(row, Unreadable) for row in rows), "read, though it is no JSON"
        return
    assert len(theirs) == len(rows), f"{len(rows)} rows, expected {len(theirs)}"
    for number, (ours, row) in enumerate(zip(rows, theirs, strict=True), 1):
        if isinstance(ours, Unreadable):
            assert not isinstance(row, dict) or ours.kind == "not_utf8" or "nested" in ours.what, (
                f"row {number}: {ours}"
            )
        else:
            assert same(dict(ours), row), f"row {number}: {ours!r}, expected {row!r}"


def fuzz(seeds: Iterator[int] | range, folder: Path, say: Callable[[str], None]) -> tuple[Counter[str], list[int]]:
    """Try the files of these seeds; how they ended, and the seeds of those that ended badly."""
    ends: Counter[str] = Counter()
    failed: list[int] = []
    signal.signal(signal.SIGALRM, _hang)
    for seed in seeds:
        name, content = made(seed)
        path = folder / name
        path.write_bytes(content)
        signal.alarm(LIMIT)
        try:
            ends[judged(path)] += 1
        except (Exception, TimeoutError):
            ends["failed"] += 1
            failed.append(seed)
            say(f"seed {seed} ({name}): {traceback.format_exc()}")
        finally:
            signal.alarm(0)
            path.unlink()
    return ends, failed


def _hang(*_: Any) -> None:
    raise TimeoutError(f"more than {LIMIT} seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="*", help="only the files of these seeds")
    given = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        seeds = iter(given.seeds) if given.seeds else range(given.files)
        ends, failed = fuzz(seeds, Path(folder), lambda text: print(text, file=sys.stderr))
    print(f"{sum(ends.values()):,} files in {time.perf_counter() - start:.0f} s: {dict(ends)}")
    if failed:
        sys.exit(f"failed: --seeds {' '.join(map(str, failed))}")


if __name__ == "__main__":
    main()
