"""Broken files by the thousand: each is read right, or refused with its place; no traceback, no hang, no mojibake.

    python benchmarks/fuzz_intake.py --files 10000

Good files in every format, encoding and packing are damaged at random: bytes changed, cut out, put in twice, swapped;
lines lost or doubled; ends cut off; other files' pieces put in. File number N is made from seed N alone, so that
``--seeds N`` makes it again. Every value that is read, of every format, must be what a second reading by Python's own
modules says (`fuzz_oracle.py`), and every row that these can't read must be refused by name. Files that were left as
they were must come out as they were made.

Not covered: Parquet files whose pages were damaged and have no checksum: both readings may see the same wrong values.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import lzma
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets  # noqa: F401  (here, so that no file is charged with its import)
import fuzz_oracle
import pyarrow
import pyarrow.parquet

from seqtune.data import checks, readers
from seqtune.data.problems import Unreadable
from seqtune.errors import InputError

#: Longest that a file of a few kilobytes may take: seconds of the processor, and by the clock (of a busy machine).
LIMIT, PATIENCE = 20, 600
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


@dataclass(frozen=True)
class Made:
    """A file: its name and content, and, where nothing was damaged, the rows that were written into it.

    ``told`` is whether name or content tell what it is, so that refusing it would be wrong.
    """

    name: str
    content: bytes
    rows: list[dict[str, Any]] | None
    told: bool


def good_file(rng: random.Random) -> Made:
    """Good rows in some format and encoding."""
    rows, format_ = rows_of(rng), rng.choice(("json", "json", "jsonl", "jsonl", "csv", "csv", "tsv", "parquet"))
    if format_ == "parquet":
        return Made("a.parquet", *parquet_of(rows, rng), told=True)
    if format_ == "json":
        text = json.dumps(rows, ensure_ascii=rng.random() < 0.3, indent=rng.choice((None, None, 2)))
    elif format_ == "jsonl":
        text = "\n".join(json.dumps(row, ensure_ascii=rng.random() < 0.3) for row in rows) + "\n" * rng.randint(0, 2)
    else:
        file = io.StringIO()
        writer = csv.writer(file, delimiter="\t" if format_ == "tsv" else rng.choice(",;"))
        writer.writerow(["question", "reply"])
        rows = [{name: row[name] for name in ("question", "reply")} for row in rows]
        writer.writerows(list(row.values()) for row in rows)
        text = file.getvalue()
    codec = rng.choice(("utf-8",) * 6 + ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"))
    end = rng.choice((format_, format_, format_, "json", "jsonl", "csv", "txt"))
    content = text.encode(codec, "ignore")
    whole = content.decode(codec) == text  # Windows-1252 lacks most letters
    marked = codec not in ("utf-16-le", "cp1252")
    # One object alone is a row where the name says so; else it might be anything.
    told = marked and (format_ != "jsonl" or len(rows) > 1 or end == "jsonl")
    return Made(f"a.{end}", content, rows if whole else None, told)


def parquet_of(rows: list[dict[str, Any]], rng: random.Random) -> tuple[bytes, list[dict[str, Any]]]:
    """A Parquet file of some of the many kinds, and what is in it."""
    rows = [{name: str(row[name]) for name in ("question", "reply")} for row in rows]
    for number, row in enumerate(rows):
        row["number"] = rng.choice((None, number))
        row["list"] = [{"a": str(number)}] * rng.randint(0, 2)
    table = pyarrow.Table.from_pylist(rows)
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(
        table,
        sink,
        compression=rng.choice(("snappy", "none", "zstd", "gzip")),
        row_group_size=rng.choice((2, 100)),
        use_dictionary=rng.random() < 0.5,
        write_page_checksum=rng.random() < 0.5,
        data_page_version=rng.choice(("1.0", "2.0")),
    )
    return sink.getvalue().to_pybytes(), rows


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


def made(seed: int) -> Made:
    """The file of a seed."""
    rng = random.Random(seed)
    good = good_file(rng)
    plain = damaged(good.content, rng)
    content, name = plain, good.name
    match rng.randrange(12):
        case 0:
            content, name = gzip.compress(plain, mtime=0), name + ".gz"
        case 1:
            content, name = lzma.compress(plain, preset=0), name + ".xz"
        case 2:
            content, name = pyarrow.compress(plain, codec="zstd", asbytes=True), name + ".zst"
    packed = content
    if content is not plain and rng.random() < 0.3:
        packed = damaged(content, rng)
    untouched = plain == good.content and packed == content
    return Made(name, packed, good.rows if untouched else None, good.told)


def judged(path: Path, file: Made) -> str:
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
    if file.rows is not None and (file.told or (rows and not refused and not problems)):
        assert refused is None, f"a good file was refused: {refused}"
        assert not problems, f"a good row was refused: {problems}"
        assert [dict(row) for row in rows] == file.rows, f"{rows} is not what was written: {file.rows}"
    if not rows:
        return f"refused: {kind_of(refused)}"
    for problem in [row.at(number) for number, row in enumerate(rows, 1) if isinstance(row, Unreadable)]:
        assert problem.row
        assert source["format"] == "parquet" or problem.line, f"no line: {problem}"
        assert problem.what
    if refused is None and len({problem.row for problem in problems}) < len(rows):
        clean = checks.clean_rows(rows, problems, "question", "reply")
        for text in (*clean["input"][:], *clean["reference"][:]):
            assert "\0" not in text
            text.encode()
    fuzz_oracle.compare(source, list(rows), file.content)
    return f"refused: {kind_of(refused)}" if refused else "some rows" if problems else "read"


def kind_of(refusal: Exception | None) -> str:
    """Whether a refusal names a line, a row or a byte, or concerns the file as a whole; and then which."""
    text = str(refusal).split(": ", 1)[-1].split("\n")[0]
    if re.search(r"\b(lines?|row|byte offset) \d", text):
        return "at a line, row or byte"
    return re.sub(r"\d+|0x\w\w", "N", text.split(": ")[0])[:60]


def fuzz(seeds: Iterable[int], folder: Path, say: Callable[[str], None]) -> tuple[Counter[str], list[int]]:
    """Try the files of these seeds; how they ended, and the seeds of those that ended badly."""
    ends: Counter[str] = Counter()
    failed: list[int] = []
    for each in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(each, _hang)
    for seed in seeds:
        file = made(seed)
        path = folder / file.name
        path.write_bytes(file.content)
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        signal.alarm(PATIENCE)
        try:
            ends[judged(path, file)] += 1
        except (Exception, TimeoutError):
            ends["failed"] += 1
            failed.append(seed)
            say(f"seed {seed} ({file.name}): {traceback.format_exc()}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            path.unlink()
    return ends, failed


def _hang(*_: Any) -> None:
    raise TimeoutError(f"more than {LIMIT} seconds of the processor, or {PATIENCE} by the clock")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, nargs="*", help="only the files of these seeds")
    given = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        seeds = given.seeds or range(given.start, given.start + given.files)
        ends, failed = fuzz(seeds, Path(folder), lambda text: print(text, file=sys.stderr))
    refused = sum(count for end, count in ends.items() if end.startswith("refused"))
    print(f"{sum(ends.values()):,} files in {time.perf_counter() - start:.0f} s, seeds from {given.start:,}:")
    print(f"{ends['read']:,} read, {ends['some rows']:,} read but for rows that are named, {refused:,} refused")
    for end, count in ends.most_common():
        if end.startswith("refused"):
            print(f"  {count:6,} {end}")
    if failed:
        sys.exit(f"failed: --seeds {' '.join(map(str, failed))}")


if __name__ == "__main__":
    main()
