"""Files as users bring them: read as what they are, or refused with place, finding, expectation and mend."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from seqtune import progress
from seqtune.data import opening, readers
from seqtune.data.checks import bad_rows_error
from seqtune.data.formats import parquet
from seqtune.data.problems import Unreadable
from seqtune.errors import InputError

ROWS = [{"question": "Wie groß?", "reply": "2,5 m\n\u2028hoch"}, {"question": 'a "b"; c', "reply": "日本\t語 🙂"}]
SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def as_json(rows) -> bytes:
    return json.dumps(rows, ensure_ascii=False).encode()


def as_lines(rows) -> bytes:
    return b"\n".join(as_json(row) for row in rows) + b"\n"


def as_table(rows, delimiter=",", end="\r\n") -> bytes:
    def cell(text):
        return '"' + text.replace('"', '""') + '"'

    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    return end.join(delimiter.join(cell(text) for text in line) for line in lines).encode()


def as_zst(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


def as_parquet(rows) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def read(path, split="train", encoding="auto"):
    """The rows; those that can't be read as the error of a run."""
    rows = readers.read(readers.identify(str(path), split, encoding), split)
    problems = [row.at(number) for number, row in enumerate(rows, 1) if isinstance(row, Unreadable)]
    if problems:
        raise bad_rows_error(str(path), problems, len(rows))
    return rows


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: bytes | str) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture(scope="module")
def shared():
    if not SHARED.is_dir():
        pytest.skip("the shared data is not here")
    return SHARED


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "content", "format_"),
    [
        ("a.json", as_json(ROWS), "json"),
        ("a.json", BOM + as_json(ROWS), "json"),
        ("a.json", b"\n \n" + json.dumps(ROWS, indent=2).encode().replace(b"\n", b"\r\n"), "json"),
        ("array.jsonl", as_json(ROWS), "json"),
        ("array.jsonl", json.dumps(ROWS, indent=1).encode(), "json"),
        ("array.txt", as_json(ROWS), "json"),
        ("array.csv", as_json(ROWS), "json"),
        ("a.jsonl", as_lines(ROWS), "jsonl"),
        ("a.ndjson", BOM + as_lines(ROWS).replace(b"\n", b"\r\n\r\n"), "jsonl"),
        ("lines.json", as_lines(ROWS), "jsonl"),
        ("lines", as_lines(ROWS), "jsonl"),
        ("a.csv", as_table(ROWS), "csv"),
        ("a.csv", BOM + as_table(ROWS, end="\n") + b"\n\n", "csv"),
        ("a.csv", as_table(ROWS, delimiter=";"), "csv"),
        ("a.csv", as_table(ROWS, delimiter="\t"), "csv"),
        ("comma", as_table(ROWS), "csv"),
        ("a.jsonl", as_table(ROWS), "csv"),
        ("a.json", as_table(ROWS, delimiter="\t"), "tsv"),
        ("a.tsv", as_table(ROWS, delimiter="\t"), "tsv"),
        ("tabs", as_table(ROWS, delimiter="\t"), "tsv"),
        ("a.parquet", as_parquet(ROWS), "parquet"),
        ("parquet.json", as_parquet(ROWS), "parquet"),
        ("a.json.gz", gzip.compress(as_json(ROWS), mtime=0), "json"),
        ("a.jsonl.xz", lzma.compress(as_lines(ROWS)), "jsonl"),
        ("a.parquet.gz", gzip.compress(as_parquet(ROWS), mtime=0), "parquet"),
        ("a.parquet.xz", lzma.compress(as_parquet(ROWS)), "parquet"),
        ("a.jsonl.zst", as_zst(as_lines(ROWS)), "jsonl"),
        ("a.parquet.zst", as_zst(as_parquet(ROWS)), "parquet"),
        ("a.json", as_json(ROWS).decode().encode("utf-16"), "json"),
        ("a.jsonl", as_lines(ROWS).decode().encode("utf-16-be"), "jsonl"),
        ("a.jsonl", as_lines(ROWS).decode().encode("utf-16-le"), "jsonl"),
        ("a.csv", as_table(ROWS).decode().encode("utf-16"), "csv"),
        ("a.tsv.gz", gzip.compress(as_table(ROWS, delimiter="\t").decode().encode("utf-32"), mtime=0), "tsv"),
        ("packed.csv", gzip.compress(as_table(ROWS), mtime=0), "csv"),
    ],
)
def test_read_by_content(write, name, content, format_):
    path = write(name, content)
    source = readers.identify(str(path), "train")
    assert json.loads(json.dumps(source)) == source
    assert (source["kind"], source["format"], source["path"]) == ("file", format_, str(path))
    assert source["bytes"] == len(content)
    assert len(source["sha256"]) == 64
    assert readers.read(source, "train") == ROWS


def test_values_keep_their_types_and_nesting(write):
    rows = [{"q": {"text": "a"}, "n": [1, None, True]}, {"q": "b"}]
    assert read(write("a.json", as_json(rows))) == rows


def test_one_object_is_a_row_in_json_lines_only(write):
    assert read(write("a.jsonl", as_json(ROWS[0]))) == ROWS[:1]
    with pytest.raises(InputError, match="a JSON object instead of a list"):
        read(write("a.json", as_json(ROWS[0])))


def test_short_csv_rows_lack_keys_and_long_ones_may_end_in_commas(write):
    assert read(write("a.csv", "q,r,\na,b,,,\nc\n")) == [{"q": "a", "r": "b", "column 3": ""}, {"q": "c"}]


def test_large_csv_field(write):
    assert len(read(write("a.csv", "q,r\na," + "x" * 300_000))[0]["r"]) == 300_000


def test_folder_names_are_no_parquet_columns(tmp_path):
    (tmp_path / "year=2024").mkdir()
    path = tmp_path / "year=2024" / "a.parquet"
    path.write_bytes(as_parquet(ROWS))
    assert read(path) == ROWS


# name, content, parts of the message
REFUSED = [
    (
        "a.json",
        '[{"q": "a"},\n {"q": b}]',
        ["1 problem in 2 rows", "row 2, line 2, column 8  is no JSON: expecting value", "found: `b}]`"],
    ),
    ("a.json", '[{"q": "a"},\n]', ["row 2, line 2, column 1", "Remove the comma before the closing bracket"]),
    ("a.json", "[{'q': 'a'}]", ["line 1, column 3", "found: `'q': 'a'}]`", "double quotes"]),
    ("a.json", '[{"q": "a"},\n{"q": ', ["row 2, line 2, column 7", "was it cut off?"]),
    ("a.json", "question: hello", ["not JSON at line 1, column 1", "found: `question: hello`"]),
    ("a.json", "[" * 200_000, ["row 1", "nested too deeply"]),
    ("a.json", '"text"', ["a string instead of a list of rows"]),
    ("a.json", "12", ["a number instead of a list of rows"]),
    (
        "a.json",
        '{"data": [{"q": 1}, {"q": 2}], "v": 1}',
        ["a JSON object", '"data" holds a list of 2 objects: save that'],
    ),
    ("a.json", '{"q": {"0": "a"}, "r": {"0": "b"}}', ["its keys: q, r", 'orient="records"']),
    ("a.json", "{}", ["a JSON object instead of a list", "it has no keys"]),
    ("a.json", "[]", ["an empty list, no rows", "list of objects"]),
    ("a.json", " \n", ["the file is empty"]),
    ("a.csv", b"", ["the file is empty"]),
    ("a.jsonl", BOM, ["the file is empty"]),
    (
        "a.json",
        '[{"q": "a"}, 3, null, "x"]',
        ["3 problems in 4 rows", "row 2, line 1  is a number  expected an object", "row 3, line 1  is null"],
    ),
    ("a.json", as_json([1] * 30), ["30 problems in 30 rows", "row 20, line 1  is a number", "… and 10 more"]),
    (
        "a.jsonl",
        '{"q": "a"}\n{"q" "b"}\n\n[1]\n{"q": "c"',
        ["3 problems in 4 rows", "line 2, column 6", "line 4", "is a list", "line 5, column 10", "cut off?"],
    ),
    (
        "a.csv",
        "q,r\na,b\nc,d,e\nf,g,h,i\n",
        ["2 problems in 3 rows", "row 2, line 3  has 3 fields  the header has 2; too many: `e`"],
    ),
    (
        "a.csv",
        'q,r\n"a\nb",c\nd,"e\nf\n',
        ["1 problem in 3 rows", "row 2, line 4  broken quotes: a quote is never closed"],
    ),
    ("a.csv", "q,r,q\na,b,c\n", ["columns with the same name", "column 'q' stands 2 times"]),
    ("a.csv", "q,r\n", ["a header row and no others", "Expected a header row"]),
    (
        "a.json",
        b'[{"q": "a"},\n{"q": "caf\xe9"}]',
        ["row 2, line 2, column 11  byte 0xe9 is no UTF-8", "`café`", "--encoding windows-1252"],
    ),
    ("a.csv", BOM + b"q,r\ncaf\xe9,b", ["row 1, line 2, column 4  byte 0xe9 is no UTF-8"]),
    (
        "a.json",
        as_json(ROWS).decode().encode("utf-16")[:-1],
        ["not UTF-16 at byte offset", "line 1, column", "cut off"],
    ),
    ("a.csv", "q,r\nä,\ud800b".encode("utf-16", "surrogatepass"), ["not UTF-16 at byte offset 14, line 2, column 3"]),
    ("a.parquet", b"PAR1 and then nothing", ["can't be read as Parquet", "JSON Lines or CSV"]),
    ("a.parquet.gz", gzip.compress(as_parquet(ROWS), mtime=0)[:-30], ["can't be unpacked", "Was it cut off?"]),
    ("a.parquet", as_parquet(ROWS)[:-30], ["can't be read as Parquet"]),
    ("a.xlsx", b"PK\x03\x04rest", ["an Excel workbook", "as CSV"]),
    ("a.jsonl.zst", b"\x28\xb5\x2f\xfdrest", ["can't be unpacked", "cut off"]),
    ("a.jsonl.zst", as_zst(as_lines(ROWS * 99))[:-20], ["can't be unpacked", "cut off"]),
    ("a.jsonl.bz2", b"BZh91AY", ["compressed with bzip2", "bunzip2"]),
    ("a.json.gz", gzip.compress(as_json(ROWS * 99), mtime=0)[:-20], ["can't be unpacked", "cut off"]),
    ("a.json.xz", lzma.compress(as_json(ROWS * 99))[:-20], ["can't be unpacked", "cut off"]),
    ("notes.txt", "hello world", ["neither its name nor its first line tells the format", "Expected a JSON"]),
]


@pytest.mark.parametrize(("name", "content", "parts"), REFUSED, ids=[f"{i}-{row[0]}" for i, row in enumerate(REFUSED)])
def test_refused_with_place_and_mend(write, name, content, parts):
    path = write(name, content)
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        read(path)
    assert time.perf_counter() - start < 2
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert caught.value.mend
    assert "Traceback" not in message
    assert max(len(line) for line in message.splitlines()) < 400
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("suport.json", ["suport.json: no such file; did you mean `support.json`?", "Expected a JSON"]),
        ("other", ["other: no such file"]),
        ("nowhere/support.json", ["no such file; there is no folder nowhere"]),
        ("./owner/name", ["no such file; there is no folder owner"]),
        ("owner/name.csv", ["no such file"]),
        ("a/b/c", ["no such file"]),
        ("x" * 5000, ["no such file"]),
        ("a\0b", ["no such file"]),
        ("~/no/where", ["no such file"]),
    ],
)
def test_missing_file(write, monkeypatch, path, parts):
    monkeypatch.chdir(write("support.json", as_json(ROWS)).parent)
    with pytest.raises(InputError) as caught:
        readers.identify(path, "train")
    for part in parts:
        assert part in str(caught.value)


def test_an_import_and_a_refusal_are_quick(tmp_path):
    script = (
        "import sys\n"
        "from seqtune.data import readers\n"
        "try:\n    readers.identify('no-such.json', 'train')\nexcept Exception as error:\n    print(error)\n"
        "heavy = {'datasets', 'pandas', 'pyarrow', 'torch', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(readers.__file__).parents[2])}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    assert "no-such.json: no such file" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("name", "rows", "keys"),
    [
        ("support_short.json", 6480, {"instruction", "response", "category", "intent"}),
        ("medquad.jsonl.xz", 16407, {"question", "answer", "focus"}),
    ],
)
def test_real_files(shared, name, rows, keys):
    content = read(shared / name)
    assert len(content) == rows
    assert set(content[0]) == keys


@pytest.mark.parametrize("packed", [bytes, gzip.compress, lzma.compress, as_zst])
def test_reading_a_large_file_is_reported(write, monkeypatch, packed):
    monkeypatch.setattr(opening, "LARGE", 10**6)
    rows = [{"question": os.urandom(300).hex(), "reply": str(number)} for number in range(12_000)]
    source = readers.identify(str(write("a.jsonl", packed(as_lines(rows)))), "train")
    reports = []
    with progress.listening(reports.append):
        assert len(readers.read(source, "train")) == len(rows)
        assert list(readers.rows_of(source, "train")) == rows  # an answering that reads has a display of its own
    assert {report.stage for report in reports} == {"reading"}
    done = [report.done for report in reports]
    assert done == sorted(done)
    assert len(set(done)) > 2
    assert done[-1] == reports[-1].total == source["bytes"] // 10**6


def test_reading_many_rows_of_parquet_is_reported(write, monkeypatch):
    monkeypatch.setattr(parquet, "MANY", 5000)
    rows = [{"question": str(number), "reply": "a"} for number in range(7000)]
    reports = []
    with progress.listening(reports.append):
        readers.read(readers.identify(str(write("a.parquet", as_parquet(rows))), "train"), "train")
    assert [(report.done, report.total) for report in reports] == [(n, 7000) for n in (2000, 4000, 6000, 7000)]


@pytest.mark.parametrize("packed", [gzip.compress, lzma.compress, as_zst])
def test_a_packed_file_that_is_cut_off_says_behind_which_row(write, packed):
    rows = [{"question": os.urandom(300).hex(), "reply": str(number)} for number in range(500)]
    content = packed(as_lines(rows))
    with pytest.raises(InputError, match=r"a\.jsonl: can't be unpacked: .*, behind row [1-9]\d*"):
        read(write("a.jsonl", content[: len(content) * 2 // 3]))


def test_parquet_with_checksums_is_not_read_when_a_byte_has_changed(write):
    table = pyarrow.Table.from_pylist([{"question": "How do I reset it?", "reply": "Hold the button."}])
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, write_page_checksum=True, compression="none", use_dictionary=False)
    content = sink.getvalue().to_pybytes()
    place = content.index(b"\x12\0\0\0How do I") + 4
    with pytest.raises(InputError, match="can't be read as Parquet behind row 0"):
        read(write("a.parquet", content[:place] + b"W" + content[place + 1 :]))
