"""Whole runs with `preserve_characters`: the model learns to write what its tokenizer could not, and keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import seqtune
from seqtune.models import pieces
from tiny_sentencepiece import tiny_with_sentencepiece

WORDS = ["red", "blue", "mail", "light", "plan", "month", "page", "hour", "device", "country"]


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "braces.json"
    rows = [{"question": f"{a} and {b}?", "reply": "{yes}\n  {no}"} for a in WORDS for b in WORDS[:4]]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return tiny_with_sentencepiece(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def run(rows_file, model_folder, tmp_path_factory):
    return seqtune.finetune(
        rows_file,
        model_id=str(model_folder),
        preserve_characters=True,
        near_duplicate_threshold=1,
        num_train_epochs=120,
        learning_rate=5e-3,
        target_modules="all-linear",
        lora_dropout=0,
        precision="fp32",
        out=str(tmp_path_factory.mktemp("out") / "run"),
    )


def test_the_model_learns_to_write_what_was_lost(run):
    answers = [row["tuned"] for row in run.predictions["hold_out"]]
    assert answers
    assert all(answer == "{yes}\n  {no}" for answer in answers)
    assert not any("{" in row["base"] for row in run.predictions["hold_out"])
    assert run.metrics["hold_out"]["tuned"]["exact_match"] == 100


def test_the_manifest_says_so(run):
    data = run.manifest["data"]
    assert run.manifest["settings"]["preserve_characters"] is True
    assert data["tokenizer_loss"] == {"rows": 0, "of": 32, "characters": {}, "examples": []}
    assert sum(data["length_histograms"]["target"]["counts"]) == 32
    assert {each["check"] for each in data["findings"]} >= {"lengths", "tokenizer_loss", "leakage"}


def test_it_is_loaded_and_merged(run, tmp_path):
    model = seqtune.load(run.path)
    assert model.generate(["red and mail?", "a {new} question"])[0] == "{yes}\n  {no}"
    plain = model.merged()
    ids = model.tokenizer("red and mail?", return_tensors="pt")["input_ids"]
    assert model.tokenizer.decode(plain.generate(ids, max_new_tokens=30)[0], skip_special_tokens=True) == (
        "{yes}\n  {no}"
    )
    assert pieces.saved(run.adapter) == pieces.characters_of(model.tokenizer)


def test_scored_again_it_is_the_same(run):
    found = seqtune.evaluate(run.path)
    assert found["metrics"] == run.metrics


def test_without_it_the_loss_is_told(rows_file, model_folder, caplog):
    driver = seqtune.build_driver({"start": "base"})
    inputs = {"data_path": str(rows_file), "model_id": str(model_folder), "near_duplicate_threshold": 1}
    found = driver.execute(["tokenizer_loss", "token_findings", "preserved_characters"], inputs=inputs)
    assert found["preserved_characters"] == []
    assert found["tokenizer_loss"]["rows"] == found["tokenizer_loss"]["of"] == 32
    assert found["tokenizer_loss"]["characters"] == {"\n": 32, " ": 32, "{": 32, "}": 32}
    example = found["tokenizer_loss"]["examples"][0]
    assert (example["side"], example["before"], example["after"]) == ("target", "{yes}\n  {no}", "yes no")
    (finding,) = [each for each in found["token_findings"] if each["check"] == "tokenizer_loss"]
    assert finding["verdict"] == "WARN"
    assert "line break (32), runs of spaces (32), { (32), } (32)" in finding["found"]
    assert "--preserve-characters" in finding["mend"]


def test_the_tokenizer_in_the_run_reads_them_too(run):
    tokenizer = AutoTokenizer.from_pretrained(run.adapter)
    text = "{yes}\n  {no}"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
