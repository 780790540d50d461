"""Lengths in tokens, cutting to limits, what a tokenizer loses; and large sets as files that are used again."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from seqtune.data import lengths, mapped, roundtrip, tokens
from seqtune.progress import Progress, listening
from tiny_models import tiny_tokenizer

TEMPLATE = "answer: {question}"


def dataset_of(count: int) -> Dataset:
    return Dataset.from_dict(
        {
            "row": [*range(1, count + 1)],
            "input": [f"question {'very ' * (number % 5)}{number}" for number in range(count)],
            "reference": [f"reply {number}" * (1 + number % 3) for number in range(count)],
            "extra": ["{}"] * count,
        }
    )


@pytest.fixture
def large(monkeypatch, tmp_path) -> Path:
    """Sets of a few rows count as large; their files lie in the folder."""
    monkeypatch.setattr(mapped, "FROM", 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "seqtune" / "tokens"


def test_token_ids_are_the_tokenizers(large):
    tokenizer, rows = tiny_tokenizer("flan-t5"), dataset_of(30)
    found = tokens.encoded(rows, tokenizer, TEMPLATE)
    assert found["row"][:] == rows["row"][:]
    assert found["input_ids"][:] == tokenizer([TEMPLATE.format(question=text) for text in rows["input"]])["input_ids"]
    assert found["labels"][:] == tokenizer(list(rows["reference"]))["input_ids"]
    assert tokens.sizes_of(found, "labels").tolist() == [len(ids) for ids in found["labels"]]
    assert list(tokens.as_rows(found)) == found.to_list()
    assert tokens.as_rows(found)[3] == found.to_list()[3]
    assert len(tokens.as_rows(found)) == 30


def test_a_large_set_is_a_file_and_used_again(large):
    tokenizer, rows = tiny_tokenizer("flan-t5"), dataset_of(30)
    reports: list[Progress] = []
    with listening(reports.append):
        first = tokens.encoded(rows, tokenizer, TEMPLATE)
        assert [report.done for report in reports][-1] == 30
        (file,) = large.glob("*.arrow")
        assert first.cache_files == [{"filename": str(file)}]
        reports.clear()
        again = tokens.encoded(rows, tokenizer, TEMPLATE)
        assert reports == []
    assert again.to_list() == first.to_list()
    for other in (
        tokens.encoded(rows, tokenizer, "{question}"),
        tokens.encoded(dataset_of(31), tokenizer, TEMPLATE),
        tokens.encoded(rows.select(range(29, -1, -1)), tokenizer, TEMPLATE),
    ):
        assert other.to_list() != first.to_list()
    assert len(list(large.glob("*.arrow"))) == 4


def test_only_the_newest_files_are_kept(large, monkeypatch):
    monkeypatch.setattr(mapped, "KEPT", 2)
    for count in (11, 12, 13):
        tokens.encoded(dataset_of(count), tiny_tokenizer("flan-t5"), TEMPLATE)
    assert len(list(large.glob("*.arrow"))) == 2


def test_a_small_set_leaves_no_file(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tokens.encoded(dataset_of(30), tiny_tokenizer("flan-t5"), TEMPLATE)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["flan-t5", "bart", "mbart"])
def test_cut_as_the_tokenizer_cuts(family, large):
    tokenizer, rows = tiny_tokenizer(family), dataset_of(30)
    whole = tokens.encoded(rows, tokenizer, TEMPLATE)
    limits = {"source": {"value": 14}, "target": {"value": 9}}
    found = tokens.cut(whole, rows, tokenizer, TEMPLATE, limits)
    sources = tokens.apply_template(TEMPLATE, list(rows["input"]))
    assert found["input_ids"][:] == tokens.encode(tokenizer, sources, 14)
    assert found["labels"][:] == tokens.encode_targets(tokenizer, list(rows["reference"]), 9)
    assert found.to_list() != whole.to_list()
    assert tokens.cut(whole, rows, tokenizer, TEMPLATE, {side: {"value": 900} for side in tokens.SIDES}) is whole


@pytest.mark.parametrize(
    "sizes", [[1], [5, 5, 5], [1, 2, 3, 900], list(range(1, 100)), [3] * 99 + [100_000], list(range(0, 4000, 7))]
)
def test_a_histogram_counts_every_row(sizes):
    found = lengths.histogram(np.array(sizes))
    edges, counts = found["edges"], found["counts"]
    assert len(edges) == len(counts) + 1 <= lengths.BARS + 1
    assert all(isinstance(each, int) for each in (*edges, *counts))
    assert edges == sorted(set(edges))
    assert edges[0] == 0
    assert edges[-1] > max(sizes)
    assert counts == [sum(low <= size < high for size in sizes) for low, high in itertools.pairwise(edges)]
    assert lengths.line_of(found).startswith("0 ")


def test_lengths_as_a_check():
    whole = tokens.encoded(dataset_of(30), tiny_tokenizer("flan-t5"), TEMPLATE)
    measured = lengths.measure(whole)
    limits = {side: {"value": 1000, "reason": "given"} for side in tokens.SIDES}
    cut = lengths.cut_report({"train": whole}, limits)
    assert lengths.finding(measured, limits, cut, 30).verdict == "PASS"
    limits["target"]["value"] = 7
    finding = lengths.finding(measured, limits, lengths.cut_report({"train": whole}, limits), 30)
    over = sum(len(ids) > 7 for ids in whole["labels"])
    assert (finding.verdict, finding.rows, finding.of) == ("WARN", over, 30)
    assert "of the target tokens would be cut off" in finding.found
    assert "--max-target-length" in finding.mend
    assert "--max-source-length" not in finding.mend
    assert all(set(line) & set(lengths.BLOCKS) for line in finding.examples)


def test_a_tokenizer_that_loses_nothing():
    found = roundtrip.loss(dataset_of(5), tiny_tokenizer("bart"), TEMPLATE)
    assert found == {"rows": 0, "of": 5, "characters": {}, "examples": []}
    assert roundtrip.finding(found, False).verdict == "PASS"
    settings = {"preserve_characters": True, "input_template": TEMPLATE}
    assert roundtrip.characters_to_preserve(dataset_of(5), tiny_tokenizer("bart"), settings) == []
