"""`seqtune.predicting`: files of answers, in constant memory, that go on after a stop."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seqtune
from seqtune import questions
from seqtune.errors import InputError, RunError
from seqtune.predicting import filling, journal, writers
from seqtune.predicting.columns import Columns

ROWS = [{"id": number, "question": f"What is {number}, ä “{number * 7919 % 1000}”?"} for number in range(1300)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_t5: Path, rows_file: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    few = {"max_steps": 2, "max_new_tokens": 4, "bootstrap_samples": 100, "device_type": "cpu"}
    return seqtune.finetune(rows_file, model_id=str(tiny_t5), out=out, **few).path


@pytest.fixture(scope="module")
def model(run: Path) -> seqtune.TunedModel:
    return seqtune.load(run, "cpu")


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def expected(model: seqtune.TunedModel) -> list[str]:
    return model.generate([row["question"] for row in ROWS])


def fill(model: Any, asked: Path, output: Path, **options: Any) -> Path:
    columns = Columns()
    file = questions.look_through(str(asked), "question", columns.see)
    return filling.to_file(model, file, columns, str(output), **options)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_once_in_order_with_its_columns(model: Any, asked: Path, tmp_path: Path, expected: list[str]):
    out = fill(model, asked, tmp_path / "out.jsonl")
    assert lines_of(out) == [{**row, "output": answer} for row, answer in zip(ROWS, expected, strict=True)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asked.jsonl", "out.jsonl"]


def test_a_prediction_that_was_stopped_goes_on(
    model: Any, asked: Path, tmp_path: Path, expected: list[str], monkeypatch: pytest.MonkeyPatch
):
    numbers: list[int] = []
    original = filling.Answering.chunk

    def chunk(self: Any, texts: list[str], number: int) -> list[str]:
        if len(numbers) == 2:
            raise KeyboardInterrupt
        numbers.append(number)
        return original(self, texts, number)

    with monkeypatch.context() as stopping:
        stopping.setattr(filling.Answering, "chunk", chunk)
        with pytest.raises(KeyboardInterrupt):
            fill(model, asked, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    numbers.clear()
    monkeypatch.setattr(filling.Answering, "chunk", chunk)
    out = fill(model, asked, tmp_path / "out.jsonl")
    assert numbers == [2]
    assert [row["output"] for row in lines_of(out)] == expected


def test_a_stop_while_the_file_is_put_together(
    model: Any, asked: Path, tmp_path: Path, expected: list[str], monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as failing:
        failing.setattr(filling.Disk, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(RunError, match=r"out\.csv: can't be written \(No space left\)"):
            fill(model, asked, tmp_path / "out.csv")
    monkeypatch.setattr(filling.Answering, "chunk", lambda *_: pytest.fail("all is answered"))
    out = fill(model, asked, tmp_path / "out.csv")
    with out.open(newline="", encoding="utf-8") as text:
        assert [row["output"] for row in csv.DictReader(text)] == expected


@pytest.mark.parametrize("cut", [0, 1, 5, 60, 10**6 + 1])
def test_what_is_cut_off_or_damaged_is_answered_again(tmp_path: Path, cut: int):
    path = tmp_path / "out.partial"
    first = journal.Journal(path, {"model": 1}, 4, 11)
    for start in range(0, 8, 4):
        first.add([f"answer {start + each}" for each in range(4)])
    first.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)] + (b"" if cut % 2 else b"\0\0\n"))
    again = journal.Journal(path, {"model": 1}, 4, 11)
    assert again.done in (0, 4, 8)
    assert cut != 0 or again.done == 8
    again.add([f"answer {each}" for each in range(again.done, 11)])
    assert list(again.answers()) == [f"answer {each}" for each in range(11)]
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_kill_behind_the_last_rename(
    model: Any, asked: Path, tmp_path: Path, expected: list[str], monkeypatch: pytest.MonkeyPatch
):
    """The file is whole, its journal still there: the same command ends well. With answers missing it would not."""
    out = tmp_path / "out.jsonl"
    with monkeypatch.context() as killed:
        killed.setattr(journal.Journal, "remove", journal.Journal.close)
        fill(model, asked, out, overwrite=False)
    partial = Path(f"{out}.partial")
    whole = partial.read_bytes()
    partial.write_bytes(b"".join(whole.splitlines(keepends=True)[: filling.CHUNK + 1]))
    writers.check(str(out), overwrite=False)
    with pytest.raises(InputError, match=r"out\.jsonl: already there"):
        fill(model, asked, out, overwrite=False)
    partial.write_bytes(whole)
    fill(model, asked, out, overwrite=False)
    assert [row["output"] for row in lines_of(out)] == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asked.jsonl", "out.jsonl"]
    with pytest.raises(InputError, match="already there"):
        writers.check(str(out), overwrite=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_while_answers_are_kept(tmp_path: Path):
    held = journal.Journal(tmp_path / "a.partial", {}, 4, 11)
    held.stream.close()
    held.stream = open("/dev/full", "ab")  # noqa: PTH123, SIM115
    with pytest.raises(RunError, match="No space left") as raised:
        held.add(["an answer"])
    assert "it goes on" in (raised.value.mend or "")
    held.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.partial"]
    journal.Journal(tmp_path / "a.partial", {}, 4, 11).remove()


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet"])
def test_packed_parquet(model: Any, tmp_path: Path, output: str):
    import gzip

    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"id": pyarrow.array([1, 2], pyarrow.int16()), "question": ["Why?", "How?"]})
    pyarrow.parquet.write_table(table, tmp_path / "plain.parquet")
    packed = tmp_path / "asked.parquet.gz"
    packed.write_bytes(gzip.compress((tmp_path / "plain.parquet").read_bytes()))
    out = fill(model, packed, tmp_path / output)
    answers = model.generate(["Why?", "How?"])
    if output.endswith("parquet"):
        found = pyarrow.parquet.read_table(out)
        assert found.schema.field("id").type == pyarrow.int16()
        assert found["output"].to_pylist() == answers
    else:
        assert [row["output"] for row in lines_of(out)] == answers


def test_something_else_is_refused(model: Any, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal.Journal, "remove", journal.Journal.close)  # as if stopped at the very end
    fill(model, asked, tmp_path / "out.jsonl")
    with pytest.raises(InputError, match=r"(?s)begun with something else.*max_new_tokens: was 4, now 3"):
        fill(model, asked, tmp_path / "out.jsonl", max_new_tokens=3)
    monkeypatch.setattr(model, "identity", {**model.identity, "adapter": "0123"})
    with pytest.raises(InputError, match=r"model\.adapter: was [0-9a-f]{40}…, now 0123"):
        fill(model, asked, tmp_path / "out.jsonl")
    with asked.open("a") as more:
        more.write('{"question": "One more?"}\n')
    with pytest.raises(InputError, match=r"(?s)input\.rows: was 1300, now 1301.*input\.sha256: was"):
        fill(model, asked, tmp_path / "out.jsonl")


def test_one_process_at_a_time(tmp_path: Path):
    held = journal.Journal(tmp_path / "a.partial", {}, 4, 11)
    with pytest.raises(InputError, match="another process is at work here"):
        journal.Journal(tmp_path / "a.partial", {}, 4, 11)
    held.close()


def test_tables_of_mixed_rows(model: Any, tmp_path: Path):
    import pyarrow.parquet

    rows: list[dict[str, Any]] = [
        {"question": "a\nb", "n": 1, "deep": {"x": [1]}, "flag": True, "none": None, "half": "\ud800"},
        {"question": 'c,"d"\t', "n": 2.5, "deep": "text", "more": 2**70},
    ]
    asked = tmp_path / "mixed.json"
    asked.write_text(json.dumps(rows))
    for suffix in ("jsonl", "csv", "tsv", "parquet"):
        fill(model, asked, tmp_path / f"out.{suffix}")
    first, second = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    answers = [row.pop("output") for row in (first, second)]
    assert first == {
        "question": "a\nb", "n": 1.0, "deep": '{"x": [1]}', "flag": True, "none": None, "half": "\\ud800", "more": None
    }  # fmt: skip
    assert (second["n"], second["deep"], second["more"]) == (2.5, '"text"', str(2**70))
    assert [row["output"] for row in lines_of(tmp_path / "out.jsonl")] == answers
    assert lines_of(tmp_path / "out.jsonl")[0]["half"] == "\ud800"
    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"out.{suffix}").open(newline="", encoding="utf-8") as text:
            found = list(csv.DictReader(text, delimiter=delimiter))
        assert [row["output"] for row in found] == answers
        assert (found[1]["question"], found[0]["deep"], found[0]["none"]) == (rows[1]["question"], '{"x": [1]}', "")


def test_parquet_keeps_its_types(model: Any, tmp_path: Path):
    import datetime

    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"question": ["a", "b"], "day": [datetime.date(2026, 1, 2), None], "x": [[1], []]})
    pyarrow.parquet.write_table(table, tmp_path / "q.parquet")
    out = fill(model, tmp_path / "q.parquet", tmp_path / "out.parquet", answer_key="reply")
    found = pyarrow.parquet.read_table(out)
    assert found.drop_columns("reply").equals(table)
    assert found.schema.field("reply").type == pyarrow.string()


def test_refused_before_anything_is_loaded(command: Callable, run: Path, asked: Path, tmp_path: Path):
    (tmp_path / "there.jsonl").write_text("mine")
    for given, said in (
        (("--output", tmp_path / "x.docx"), "its name does not say what to write"),
        (("--output", tmp_path / "there.jsonl"), "already there"),
        (("--output", tmp_path / "no" / "x.csv"), "there is no folder"),
        (("--output", tmp_path / "x.csv", "--answer-key", "id"), 'have a column "id" already'),
    ):
        status, out, err = command("predict", run, asked, *given)
        assert (status, out) == (2, "")
        assert said in err
    assert command("predict", run, "-", "--output", "x.csv", stdin=b"a\n")[0] == 2
    assert (tmp_path / "there.jsonl").read_text() == "mine"


def test_killed_at_random(run: Path, asked: Path, tmp_path: Path, expected: list[str]):
    """benchmarks/predict.py does it ten times, with 100,000 rows."""
    out = tmp_path / "out.jsonl"
    arguments = [sys.executable, "-m", "seqtune", "predict", str(run), str(asked), "--output", str(out)]
    dice, kills = random.Random(0), 0
    while not out.exists():
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if kills < 1:
            begun = time.monotonic()
            while process.poll() is None and not _grown(out, kills) and time.monotonic() - begun < 60:
                time.sleep(0.005)
            time.sleep(dice.random() / 20)
            process.send_signal(signal.SIGKILL)
            kills += 1
        assert process.stderr is not None
        said = process.stderr.read().decode()
        assert process.wait() in (0, -signal.SIGKILL), said
    assert [row["id"] for row in lines_of(out)] == list(range(len(ROWS)))
    assert [row["output"] for row in lines_of(out)] == expected


def _grown(out: Path, chunks: int) -> bool:
    partial = Path(f"{out}.partial")
    return partial.exists() and partial.read_bytes().count(b"\n") > chunks * filling.CHUNK + 1
