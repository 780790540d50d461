"""Rows that are streamed: each once an epoch, shuffled, and from any place on the same as if never left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

import seqtune
from seqtune import planning
from seqtune.data import shards, streaming
from seqtune.engine.checkpoint import Checkpoints
from seqtune.errors import InputError
from tiny_models import tiny_tokenizer

ROWS = 5000


def row(number: int) -> dict[str, Any]:
    return {"question": f"What is {number}?", "reply": f"It is {number}."}


def write(folder: Path, kind: str) -> Path:
    """5,000 rows in three files of unequal size."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (start, end) in enumerate(((0, 700), (700, 4100), (4100, ROWS))):
        rows = [row(number) for number in range(start, end)]
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), folder / f"part-{index}.parquet", row_group_size=300)
        else:
            text = "\n\n".join(json.dumps(each) for each in rows)  # blank lines are no rows; the last has no line end
            (folder / f"part-{index}.jsonl").write_text(text, encoding="utf-8")
    return folder


def stream(folder: Path, kept_away: list[str] = [], **settings: Any) -> streaming.Stream:  # noqa: B006
    known = {
        "input_text_key": "question",
        "output_text_key": "reply",
        "on_bad_rows": "fail",
        "random_state": 1,
        "values_as_text": False,
        "mask": "none",
    }
    away = Dataset.from_dict({"input": kept_away}) if kept_away else Dataset.from_dict({"input": []})
    limits = {"source": {"value": 64}, "target": {"value": 64}}
    plan = streaming.plan(
        shards.identify(str(folder)), {**known, "shuffle_buffer": 800, **settings}, "{question}", limits, {"x": away}
    )
    return streaming.Stream(json.loads(json.dumps(plan)), tiny_tokenizer("t5"))


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_every_row_once_and_in_another_order_each_epoch(tmp_path: Path, kind: str):
    source = stream(write(tmp_path, kind))
    assert source.rows == ROWS
    orders = []
    for epoch in (0, 1):
        steps = list(source.steps(epoch, [], 7))
        numbers = [number for step, _, _ in steps for number in step]
        assert sorted(numbers) == list(range(ROWS))
        assert numbers[:50] != sorted(numbers[:50])
        assert [len(step) for step, _, _ in steps] == [7] * (ROWS // 7) + [ROWS % 7]
        orders.append(numbers)
    assert orders[0] != orders[1]
    assert [number for step, _, _ in stream(tmp_path).steps(0, [], 7) for number in step] == orders[0]
    assert [number for step, _, _ in stream(tmp_path, random_state=2).steps(0, [], 7) for number in step] != orders[0]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_from_any_place_on_the_same(tmp_path: Path, kind: str):
    steps = list(stream(write(tmp_path, kind)).steps(0, [], 7))
    for at in (0, 1, 113, 114, 115, 400, len(steps) - 2, len(steps) - 1):
        rest = list(stream(tmp_path).steps(0, steps[at][2], 7))
        assert rest == steps[at + 1 :]


def test_going_on_reads_one_window_and_nothing_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = stream(write(tmp_path, "parquet"))
    steps = list(source.steps(0, [], 7))
    read: list[shards.Piece] = []
    real = shards.read
    monkeypatch.setattr(shards, "read", lambda piece: read.append(piece) or real(piece))
    next(source.steps(0, steps[600][2], 7))
    assert sum(piece.rows for piece in read) <= 800 + 300


def test_the_rows_are_those_of_the_files(tmp_path: Path):
    source = stream(write(tmp_path, "jsonl"))
    numbers, rows, _ = next(source.steps(3, [], 5))
    for number, found in zip(numbers, rows, strict=True):
        text = source.tokenizer.decode(found["labels"], skip_special_tokens=True)
        assert text.strip() == row(number)["reply"]


def test_rows_that_are_scored_are_not_trained_on(tmp_path: Path):
    source = stream(write(tmp_path, "jsonl"), kept_away=["what is 17", "WHAT IS 4,999?", "What is it?"])
    numbers = {number for step, _, _ in source.steps(0, [], 9) for number in step}
    assert numbers == set(range(ROWS)) - {17, 4999}


def test_bad_rows(tmp_path: Path):
    write(tmp_path, "jsonl")
    with (tmp_path / "part-2.jsonl").open("a") as file:
        file.write('\n{"question": "No reply?"}')
    with pytest.raises(InputError, match=r"part-2\.jsonl, rows 501 to 901: 1 problem") as raised:
        list(stream(tmp_path).steps(0, [], 9))
    assert raised.value.details[0].startswith("row 901 ")
    with (tmp_path / "part-2.jsonl").open("a") as file:
        file.write('\n{"question": "cut of')
    with pytest.raises(InputError, match=r"part-2\.jsonl, rows 501 to 902: 2 problems") as raised:
        list(stream(tmp_path).steps(0, [], 9))
    assert raised.value.details[1].startswith("row 902, column 14 ")
    assert sum(len(step) for step, _, _ in stream(tmp_path, on_bad_rows="skip").steps(0, [], 9)) == ROWS


def test_a_piece_without_one_usable_row(tmp_path: Path):
    write(tmp_path, "jsonl")
    (tmp_path / "part-3.jsonl").write_text('{"question": "No reply?"}\n[]\n')
    left = stream(tmp_path, on_bad_rows="skip")
    assert left.rows == ROWS + 2
    assert sorted(number for step, _, _ in left.steps(0, [], 9) for number in step) == list(range(ROWS))


def test_rows_are_read_as_they_are_without_streaming(tmp_path: Path):
    """One of many answers; masked where that is asked for, before a question is held against those kept away."""
    (tmp_path / "a.jsonl").write_text(
        '\N{ZERO WIDTH NO-BREAK SPACE}{"question": "Who is ann@example.com?", "reply": ["Ann.", "It is Ann."]}\n'
        '{"question": "Who is bob@example.com?", "reply": "It is Bob, bob@example.com."}\n'
        '{"question": "Who?", "reply": "He, bob@example.com."}\n',
        encoding="utf-8",
    )
    plain = stream(tmp_path)
    numbers, rows, _ = next(plain.steps(0, [], 3))
    texts = {
        number: plain.tokenizer.decode(row["labels"], skip_special_tokens=True)
        for number, row in zip(numbers, rows, strict=True)
    }
    assert texts[0].strip() == "Ann."
    masked = stream(tmp_path, mask="all", kept_away=["Who is [EMAIL]?"])
    numbers, rows, _ = next(masked.steps(0, [], 3))
    assert numbers == [2]
    assert "example" not in masked.tokenizer.decode(rows[0]["labels"])


BLANKS = ["\N{ZERO WIDTH NO-BREAK SPACE}", "\N{NO-BREAK SPACE}", "\N{IDEOGRAPHIC SPACE}", "\x1c", " \t"]


@pytest.mark.parametrize("blank", BLANKS)
def test_lines_that_look_blank_are_no_rows(tmp_path: Path, blank: str):
    lines = [blank, json.dumps(row(1)), blank if blank in BLANKS[1:] else "", json.dumps(row(2)) + "\r", ""]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8", newline="")
    (tmp_path / "b.jsonl").write_text(blank, encoding="utf-8")
    (tmp_path / "c.jsonl").write_text(json.dumps(row(3)), encoding="utf-8")
    source = stream(tmp_path)
    assert source.rows == 3
    assert sorted(next(source.steps(0, [], 3))[0]) == [0, 1, 2]


def test_packed_shards_are_not_passed_over(tmp_path: Path):
    write(tmp_path, "jsonl")
    (tmp_path / "part-9.jsonl.gz").write_bytes(b"")
    with pytest.raises(InputError, match="packed shards") as raised:
        shards.identify(str(tmp_path))
    assert raised.value.details == ["found: part-9.jsonl.gz"]


def test_columns_of_one_name_are_refused(tmp_path: Path):
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    pq.write_table(pa.Table.from_arrays(columns, ["question", "reply", "reply"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="columns with the same name"):
        shards.identify(str(tmp_path))


def test_the_encoding_of_own_files_is_theirs():
    shards.check({"streaming": True, "encoding": "latin-1", "validation_path": "validation.csv"})


def test_a_row_group_that_is_not_there_any_more(tmp_path: Path):
    source = stream(write(tmp_path, "parquet"))
    pq.write_table(pa.Table.from_pylist([row(1)]), tmp_path / "part-1.parquet")
    with pytest.raises(InputError, match=r"part-1\.parquet: changed since"):
        list(source.steps(0, [], 9))


def test_what_would_look_at_the_sample_is_refused(tmp_path: Path):
    write(tmp_path / "shards", "jsonl")
    with pytest.raises(InputError, match="streaming = yes can't be had") as raised:
        seqtune.finetune(
            tmp_path / "shards", streaming=True, seeds=2, minutes=5, max_samples=100, group_by_length=True,
            encoding="latin-1", out=tmp_path / "run",
        )  # fmt: skip
    assert [line.split(" ")[0] for line in raised.value.details] == [
        "max_samples", "minutes", "seeds", "group_by_length", "encoding",
    ]  # fmt: skip
    with pytest.raises(InputError, match="streaming = yes can't be had") as raised:
        planning.plan(tmp_path / "shards", streaming=True)
    assert raised.value.details[0].startswith("plan ")


def test_folders_that_are_none(tmp_path: Path):
    with pytest.raises(InputError, match="no folder of shards"):
        shards.identify(str(tmp_path / "none"))
    with pytest.raises(InputError, match="no shard"):
        shards.identify(str(tmp_path))
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(InputError, match="no rows in 1 file"):
        shards.identify(str(tmp_path))
    (tmp_path / "b.parquet").write_text("nothing")
    with pytest.raises(InputError, match="of both kinds"):
        shards.identify(str(tmp_path))
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(InputError, match="can't be read as Parquet"):
        shards.identify(str(tmp_path))


@pytest.fixture(scope="module")
def settings(tiny_t5: Path) -> dict[str, Any]:
    return {
        "model_id": str(tiny_t5), "streaming": True, "shuffle_buffer": 500, "max_steps": 12, "eval_steps": 6,
        "max_eval_rows": 8, "max_new_tokens": 4, "bootstrap_samples": 100, "device_type": "cpu", "random_state": 3,
    }  # fmt: skip


def test_a_run_stopped_and_gone_on(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(streaming, "SAMPLE", 600)
    from seqtune.settings import knobs

    settings = {name: value for name, value in settings.items() if name in knobs()}
    data = write(tmp_path / "data", "jsonl")
    whole = seqtune.finetune(data, **settings, out=tmp_path / "whole")
    assert whole.manifest["data"]["sources"]["data"]["rows"] == ROWS
    assert whole.manifest["settings"]["streaming"] is True

    class Cut(BaseException):
        pass

    due = Checkpoints.save_or_warn

    def cut(self: Checkpoints, taken: Any, made_of: dict[str, Any]) -> None:
        due(self, taken, made_of)
        if taken.step == 5:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save_or_warn", cut)
        with pytest.raises(Cut):
            seqtune.finetune(data, **settings, out=tmp_path / "cut", save_steps=5)
    gone_on = seqtune.resume(tmp_path / "cut")
    assert gone_on.manifest["training"]["resumed_at"] == [5]
    assert gone_on.manifest["adapter"]["sha256"] == whole.manifest["adapter"]["sha256"]
    assert [line.get("loss") for line in gone_on.log] == [line.get("loss") for line in whole.log]
    again = seqtune.evaluate(tmp_path / "whole")
    assert again["metrics"]["hold_out"] == whole.metrics["hold_out"]
