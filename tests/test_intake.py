"""Every fault that a file can have: where, what was found, what was expected, what to do, status, nothing written.

Each entry of the tables is a broken row. It is tried alone among good ones, and all those of a format at
once among 1,000.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GOOD = {"question": "How do I reset it?", "reply": "Hold the button."}
DEEP = '{"question": "a", "reply": "b", "x": ' + "[" * 500 + "]" * 500 + "}"
LONG = json.dumps({"question": "a", "reply": "x" * 1_000_001})

#: The row as it stands in a JSON file; the check that fails; what is said of it.
JSON_FAULTS: dict[str, tuple[str | bytes, str, str]] = {
    "no JSON": (
        '{"question": "a" "reply": "b"}',
        "unreadable_rows",
        ", column 18  is no JSON: expecting ','",
    ),
    "single quotes": ("{'question': 'a'}", "unreadable_rows", "JSON takes double quotes, not single ones."),
    "Python's None": ('{"question": None}', "unreadable_rows", "null, true and false in JSON"),
    "bare control character": ('{"question": "a\tb", "reply": "c"}', "unreadable_rows", "invalid control character"),
    "raw NUL": (b'{"question": "a\0b", "reply": "c"}', "unreadable_rows", "invalid control character"),
    "a list": ('["a", "b"]', "unreadable_rows", "is a list  expected an object"),
    "a number": ("42", "unreadable_rows", "is a number  expected an object"),
    "deep nesting": (DEEP, "unreadable_rows", "is nested too deeply  expected at most 64 levels"),
    "endless nesting": ('{"question": ' + "[" * 5000 + "]" * 5000 + "}", "unreadable_rows", "is nested too deeply"),
    "long number": ('{"question": ' + "9" * 5000 + "}", "unreadable_rows", "a number of more than 4,300 digits"),
    "Latin-1": (b'{"question": "caf\xe9", "reply": "b"}', "encoding", "byte 0xe9 is no UTF-8"),
    "cut UTF-8": (b'{"question": "caf\xc3", "reply": "b"}', "encoding", "byte 0xc3 is no UTF-8"),
    "key twice": ('{"question": "a", "reply": "b", "reply": "c"}', "repeated_keys", '"reply" stands more than once'),
    "missing": ('{"question": "a", "answer": "b"}', "missing_text", '"reply" is missing'),
    "null": ('{"question": "a", "reply": null}', "missing_text", '"reply" is null'),
    "NaN": ('{"question": NaN, "reply": "b"}', "missing_text", '"question" is NaN'),
    "empty": ('{"question": "", "reply": "b"}', "missing_text", '"question" is empty'),
    "white": ('{"question": "a", "reply": " \\n\\u3000"}', "missing_text", '"reply" is white space'),
    "number": ('{"question": "a", "reply": 42}', "not_text", '"reply" is a number'),
    "boolean": ('{"question": "a", "reply": true}', "not_text", '"reply" is a boolean'),
    "object": ('{"question": {"de": "a"}, "reply": "b"}', "not_text", '"question" is an object'),
    "NUL": ('{"question": "a\\u0000b", "reply": "c"}', "broken_characters", "holds a NUL character"),
    "lone surrogate": ('{"question": "a", "reply": "\\ud83d"}', "broken_characters", "holds a lone surrogate"),
    "too long": (LONG, "too_long", "has 1,000,001 characters"),
}
CSV_FAULTS: dict[str, tuple[str | bytes, str, str]] = {
    "too many fields": ("a,b,c", "unreadable_rows", "has 3 fields  the header has 2; too many: `c`"),
    "open quote": ('a,"b', "unreadable_rows", "broken quotes:"),
    "quote inside": ('"a"b,c', "unreadable_rows", "broken quotes:"),
    "too few fields": ("a", "missing_text", '"reply" is missing'),
    "empty": ("a,", "missing_text", '"reply" is empty'),
    "white": ("  ,b", "missing_text", '"question" is white space'),
    "Latin-1": (b"caf\xe9,b", "encoding", "byte 0xe9 is no UTF-8"),
    "NUL": (b"a\0,b", "broken_characters", "holds a NUL character"),
}
CASES = [
    *((format_, name) for format_ in ("jsonl", "json") for name in JSON_FAULTS),
    *(("csv", name) for name in CSV_FAULTS),
]


def as_bytes(row: str | bytes) -> bytes:
    return row if isinstance(row, bytes) else row.encode()


def good_rows(format_: str, count: int) -> list[bytes]:
    rows = [{name: f"{text} {number}" for name, text in GOOD.items()} for number in range(count)]
    if format_ != "csv":
        return [json.dumps(row).encode() for row in rows]
    file = io.StringIO()
    csv.writer(file).writerows(list(row.values()) for row in rows)
    return file.getvalue().encode().splitlines()


def write(path: Path, format_: str, rows: list[bytes]) -> Path:
    if format_ == "json":
        path.write_bytes(b"[\n" + b",\n".join(rows) + b"\n]\n")
    else:
        path.write_bytes((b"question,reply\r\n" if format_ == "csv" else b"") + b"\r\n".join(rows) + b"\r\n")
    return path


def line_of(format_: str, row: int) -> int:
    return row if format_ == "jsonl" else row + 1


@pytest.fixture
def checked(command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`seqtune check` in an empty folder: exit status and what it found."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        before = sorted(tmp_path.iterdir())
        status, out, err = command("check", *arguments, "--json")
        assert err == ""
        assert sorted(tmp_path.iterdir()) == before, "something was written"
        return status, {finding["check"]: finding for finding in json.loads(out)["findings"]}

    return run


@pytest.mark.parametrize(("format_", "name"), CASES)
def test_each_fault(checked: Callable, tmp_path: Path, format_: str, name: str) -> None:
    row, check, said = (CSV_FAULTS if format_ == "csv" else JSON_FAULTS)[name]
    rows = [*good_rows(format_, 5), as_bytes(row), *good_rows(format_, 9)[5:]]
    path = write(tmp_path / f"a.{format_}", format_, rows)
    status, found = checked(path.name)
    assert status == 2
    assert [each for each in found if found[each]["verdict"] == "FAIL"] == [check]
    finding = found[check]
    assert (finding["rows"], finding["of"]) == (1, 10)
    (example,) = finding["examples"]
    assert example.startswith(f"row 6, line {line_of(format_, 6)}")
    assert said in example
    assert len(example) < 300
    assert "--on-bad-rows skip" in finding["mend"]
    status, found = checked(path.name, "--on-bad-rows", "skip")
    assert (status, found[check]["verdict"]) == (0, "WARN")


@pytest.mark.parametrize("format_", ["jsonl", "json", "csv"])
def test_all_faults_among_a_thousand_rows_in_one_pass(
    command: Callable, tmp_path: Path, format_: str, checked: Callable
) -> None:
    faults = CSV_FAULTS if format_ == "csv" else JSON_FAULTS
    rows = good_rows(format_, 1000)
    places = {name: 11 + 37 * number for number, name in enumerate(faults)}
    for name, place in places.items():
        rows[place - 1] = as_bytes(faults[name][0])
    path = write(tmp_path / f"a.{format_}", format_, rows)
    status, found = checked(path.name)
    assert status == 2
    for name, (_, check, said) in faults.items():
        place = f"row {places[name]}, line {line_of(format_, places[name])}"
        lines = [" ".join(line.split()) for line in found[check]["examples"]]  # they stand in columns
        assert any(line.startswith(place) and " ".join(said.split()) in line for line in lines), (name, lines)
    assert sum(finding["rows"] for finding in found.values() if finding["verdict"] == "FAIL") == len(faults)
    assert {finding["of"] for finding in found.values() if finding["verdict"] == "FAIL"} == {1000}

    arguments = ("check", path, "--on-bad-rows", "skip", "--rejects", tmp_path / "rejects.jsonl")
    assert command(*arguments)[0] == 0
    rejects = [json.loads(line) for line in (tmp_path / "rejects.jsonl").open(encoding="utf-8")]
    assert [reject["row"] for reject in rejects] == sorted(places.values())
    for reject in rejects:
        assert reject["file"] == str(path)
        assert reject["problems"][0]["line"] == line_of(format_, reject["row"])
        assert reject["problems"][0]["kind"]
        assert reject["content"]


@pytest.mark.parametrize("format_", ["jsonl", "json"])
@pytest.mark.parametrize("left", [1, 10, 25, 40])
def test_a_cut_last_row(checked: Callable, tmp_path: Path, format_: str, left: int) -> None:
    path = write(tmp_path / f"a.{format_}", format_, good_rows(format_, 20))
    content = path.read_bytes()
    start = content.rindex(b"{")
    path.write_bytes(content[: start + left])
    status, found = checked(path.name)
    assert (status, found["unreadable_rows"]["rows"], found["unreadable_rows"]["of"]) == (2, 1, 20)
    assert found["unreadable_rows"]["examples"][0].startswith(f"row 20, line {line_of(format_, 20)}, column ")
    assert "was it cut off?" in found["unreadable_rows"]["examples"][0]


def test_finetune_says_the_same_and_writes_nothing(command: Callable, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [as_bytes(row) for row, _, _ in JSON_FAULTS.values()]
    write(tmp_path / "a.jsonl", "jsonl", [*good_rows("jsonl", 30), *rows])
    status, out, err = command("finetune", "a.jsonl", "--model-id", "seqtune-mini")
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert lines[0] == f"a.jsonl: {len(rows)} problems in {30 + len(rows)} rows"
    assert lines[1].startswith("  row 31, line 31, column 18  is no JSON")
    assert lines[21] == f"  … and {len(rows) - 20} more"
    assert "Nothing was trained" in lines[22]
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_run_that_skips_keeps_the_rejects(tmp_path: Path, tiny_t5: Path) -> None:
    import seqtune

    rows = [as_bytes(row) for row, _, _ in JSON_FAULTS.values()]
    path = write(tmp_path / "a.jsonl", "jsonl", [*good_rows("jsonl", 30), *rows])
    quick = {"max_steps": 1, "max_new_tokens": 2, "bootstrap_samples": 100, "device_type": "cpu"}
    run = seqtune.finetune(path, model_id=str(tiny_t5), out=tmp_path / "run", on_bad_rows="skip", **quick)
    rejects = [json.loads(line) for line in (run.path / "rejects.jsonl").open(encoding="utf-8")]
    assert [reject["row"] for reject in rejects] == list(range(31, 31 + len(rows)))
    assert run.manifest["data"]["bad_rows"] == {"data": len(rows)}
    assert {each["check"] for each in run.manifest["data"]["findings"]} >= {"reading", "unreadable_rows", "encoding"}


def test_values_as_text(checked: Callable, tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "reply": value} for i, value in enumerate([1, 2.5, True, "x", -3, 10**20])]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    status, found = checked("a.json")
    assert (status, found["not_text"]["rows"]) == (2, 5)
    assert "--values-as-text" in found["not_text"]["mend"]
    status, found = checked("a.json", "--values-as-text")
    assert (status, found["not_text"]["verdict"]) == (0, "PASS")


@pytest.mark.parametrize(
    ("name", "content", "arguments", "said"),
    [
        ("a.csv", "question,reply\ncafé,b\nd,e\nf,g\n".encode("cp1252"), (), "`café`"),
        ("a.csv", "question,réply\nd,e\n".encode("cp1252"), (), "in the header, line 1"),
        ("a.csv", "question,reply\ncafé,b\n".encode(), ("--encoding", "latin-1"), "would be garbled"),
        ("a.csv", "question,reply\ncafé,b\n".encode("utf-16"), ("--encoding", "cp1252"), "the mark of UTF-16"),
        ("a.csv", b"question,reply\nd,\x81\n", ("--encoding", "windows-1252"), "not CP1252 at byte offset 17, line 2"),
        ("a.csv", b"question,reply\nd,e\n", ("--encoding", "latin-11"), "did you mean `latin-1`?"),
        ("a.csv", b"question,reply\nd,e\n", ("--encoding", "rot13"), "is no encoding of text"),
    ],
)
def test_encodings_are_refused_or_named_never_guessed(
    checked: Callable, tmp_path: Path, name: str, content: bytes, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    status, found = checked(name, *arguments)
    assert status == 2
    text = json.dumps([finding for finding in found.values() if finding["verdict"] == "FAIL"], ensure_ascii=False)
    assert said in text
    assert "encoding" in text


@pytest.mark.parametrize(
    ("codec", "arguments"),
    [
        ("utf-8", ()),
        ("utf-8-sig", ("--encoding", "utf-8")),
        ("utf-16", ()),
        ("utf-16-le", ()),
        ("utf-16-be", ()),
        ("utf-32", ()),
        ("cp1252", ("--encoding", "windows-1252")),
        ("latin-1", ("--encoding", "latin-1")),
        ("shift_jis", ("--encoding", "shift_jis")),
    ],
)
@pytest.mark.parametrize("format_", ["jsonl", "json", "csv"])
def test_encodings_are_converted(tmp_path: Path, codec: str, arguments: tuple[str, ...], format_: str) -> None:
    from seqtune.data import readers

    texts = ("日本", "語") if codec == "shift_jis" else ("café", "naïve ß")
    row = {"question": texts[0], "reply": texts[1]}
    if format_ == "csv":
        text = f"question,reply\r\n{texts[0]},{texts[1]}\r\n"
    else:
        text = json.dumps([row] if format_ == "json" else row, ensure_ascii=False) + "\n"
    path = tmp_path / f"a.{format_}"
    path.write_bytes(text.encode(codec))
    source = readers.identify(str(path), "train", arguments[1] if arguments else "auto")
    assert readers.read(source, "train") == [row]


def test_a_field_of_a_hundred_megabytes(tmp_path: Path) -> None:
    from seqtune.data import checks, readers

    huge = "x" * 100_000_000
    for name, start, end in (
        ("a.jsonl", '{"question": "a", "reply": "', '"}\n'),
        ("a.json", '[{"question": "a", "reply": "', '"}]'),
        ("a.csv", 'question,reply\na,"', '"\n'),
    ):
        (tmp_path / name).write_text(start + huge + end)
        rows = readers.read(readers.identify(str(tmp_path / name), "train"), "train")
        (problem,) = checks.check_rows(rows, "question", "reply")
        assert problem.what == "has 100,000,000 characters"
        (tmp_path / name).unlink()
