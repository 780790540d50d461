"""Every export of every family loads in its own runtime and gives the same tokens; one table for all targets."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import seqtune
from exporting_help import Run, asked
from seqtune import export, run
from seqtune.cli import exporting
from seqtune.errors import InputError, RunError
from seqtune.export import checking, place, tuned
from seqtune.models import adapters, loading

FAMILIES = ("t5", "flan-t5", "mt5", "bart", "mbart")
#: What llama.cpp has of them, and one more; for ONNX, which takes longest, one of each kind.
SOME = {"gguf": ("t5", "flan-t5", "mt5", "umt5"), "onnx": ("flan-t5", "mt5", "bart")}
#: (family, target, arithmetic): float32 of all, the others of one of T5's kind and one of BART's.
CASES = [
    (family, to, quantization)
    for to, kinds in export.TARGETS.items()
    for quantization in kinds
    for family in (("flan-t5", "bart") if quantization != "float32" else SOME.get(to, FAMILIES))
    if to != "gguf" or family in SOME["gguf"]
]
#: The package without which a target is not tried.
RUNTIMES = {"ctranslate2": "ctranslate2", "onnx": "onnxruntime", "gguf": "cyllama"}


@pytest.mark.parametrize(("family", "to", "quantization"), CASES)
def test_every_export_answers_as_the_tuned_model(
    family: str, to: str, quantization: str, run_of: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip(RUNTIMES.get(to, "torch"))
    path, out = run_of(family), tmp_path / "out"
    if quantization != "float32":  # four rows of a random model: its ROUGE says nothing, its weights are large
        monkeypatch.setattr(checking, "ROUGE_BOUND", 100.0)
        monkeypatch.setattr(checking, "MEAN_BOUND", 0.6)
    found = export.write(path, to, out, quantization=quantization)
    assert json.loads((out / place.MANIFEST).read_text()) == found
    for name, file in found["files"].items():
        assert run.file_sha256(out / name) == file["sha256"]
    assert {each.name for each in out.parent.iterdir()} == {"out"}
    checked = found["check"]
    if quantization == "float32":
        assert checked["same"] + checked["tied"] == checked["rows"]
        assert checked["largest"] < getattr(export.target_of(to), "BOUND", checking.BOUND)
    assert checked["rows"] > 3
    assert "rouge" in checked
    assert found["run"]["adapter_sha256"] == run.adapter_sha256(path / "adapter")


@pytest.mark.parametrize("to", export.TARGETS)
def test_the_snippet_runs(to: str, run_of: Run, tmp_path: Path):
    pytest.importorskip(RUNTIMES.get(to, "torch"))
    path = run_of("flan-t5")
    export.write(path, to, tmp_path / "out")
    questions = ["How do I reset my password?", "Ünïcode – 密码 \N{GRINNING FACE}?"]
    answers = seqtune.load(path, device_type="cpu").generate(questions, num_beams=1)
    expected = [line for answer in answers for line in answer.splitlines()]
    fp32 = tuned.load(path)
    assert expected or fp32.limit
    sources = [fp32.tokenizer(question)["input_ids"] for question in questions]
    in_fp32 = fp32.answerer.answer(sources, batch_size=2, random_state=0, max_new_tokens=fp32.limit)
    assert asked(tmp_path / "out", questions) == [line for answer in in_fp32 for line in (answer + "\n").splitlines()]


@pytest.mark.parametrize("to", export.TARGETS)
def test_seqtune_mini_in_every_runtime(to: str, tmp_path: Path, rows_file: Path, mini_run: Path):
    pytest.importorskip(RUNTIMES.get(to, "torch"))
    found = export.write(mini_run, to, tmp_path / "out")
    assert found["check"]["same"] + found["check"]["tied"] == found["check"]["rows"]
    assert asked(tmp_path / "out", ["How do I reset it?"])


@pytest.mark.parametrize("to", ["merged", "gguf"])  # the others take the tokenizer as merged does
def test_characters_with_pieces_of_their_own(to: str, run_with_pieces: Path, tmp_path: Path):
    pytest.importorskip(RUNTIMES.get(to, "torch"))
    found = export.write(run_with_pieces, to, tmp_path / "out")
    assert found["check"]["same"] + found["check"]["tied"] == found["check"]["rows"]
    text = "a {b}\n{c}"
    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert exported.decode(exported(text)["input_ids"], skip_special_tokens=True).strip() == text
    assert exported(text)["input_ids"] == tuned.load(run_with_pieces).tokenizer(text)["input_ids"]


def test_an_adapter_whose_base_has_no_room(run_with_pieces: Path, tmp_path: Path):
    with pytest.raises(InputError, match="makes no room") as raised:
        export.write(run_with_pieces, "adapter", tmp_path / "out")
    assert "merged" in raised.value.mend
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_from_elsewhere(run_of: Run, tmp_path: Path):
    shutil.copytree(run_of("t5") / "adapter", tmp_path / "alone")
    found = export.write(tmp_path / "alone", "merged", tmp_path / "out")
    assert found["check"]["rows"] == len(tuned.QUESTIONS)
    assert "rouge" not in found["check"]


def test_an_adapter_whose_base_has_moved(run_of: Run, tmp_path: Path):
    found = tuned.load(run_of("t5"))
    moved, out = tmp_path / "moved", tmp_path / "out"
    shutil.copytree(found.base_path, moved)
    export.write(found.adapter.parent, "adapter", out, model_id=str(moved))
    assert f"BASE, REVISION = {str(moved)!r}, None" in (out / "load.py").read_text()
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(moved)


def test_rows_with_special_tokens_are_left_out_of_the_check(run_of: Run):
    """Of SentencePiece's kind: `</s>` in a question is a piece of its vocabulary, which load.py does not spell out."""
    found = tuned.load(run_of("t5"))
    special = dataclasses.replace(found, texts=["What is </s> here?", *found.texts], references=[])
    special.__dict__["sources"] = [[7, 1], *found.sources]  # spelled out, as of no vocabulary that is at hand here
    assert checking._first(special, 16).texts == found.texts[:16]
    special = dataclasses.replace(found, texts=["What is </s> here?"], references=["That."])
    special.__dict__["sources"] = [[7, 1]]
    assert (checking._first(special, 16).texts, checking._first(special, 16).references) == (list(tuned.QUESTIONS), [])


def test_a_model_that_a_library_does_not_find_is_no_full_disk(
    run_of: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def lost(*_: Any) -> None:
        raise OSError("there is no model of that name\nor it is elsewhere")

    monkeypatch.setattr(export.target_of("merged"), "write", lost)
    with pytest.raises(RunError, match="the export can't be written") as raised:
        export.write(run_of("t5"), "merged", tmp_path / "out")
    assert raised.value.details == ["there is no model of that name", "or it is elsewhere"]
    assert list(tmp_path.iterdir()) == []


def test_a_merge_keeps_small_updates(run_of: Run):
    """In bf16 an update of a thousandth of a weight would be rounded away."""
    found = tuned.load(run_of("t5"))
    base: Any = loading.load_model(loading.resolve(str(found.base_path)), torch.device("cpu"))
    merged, plain = found.model.state_dict(), base.state_dict()
    changed = [name for name in plain if not torch.equal(plain[name], merged[name])]
    assert changed
    assert all(merged[name].dtype == torch.float32 for name in merged)
    again = adapters.load(base, found.adapter)
    assert torch.equal(plain[changed[0]], base.state_dict()[changed[0]])
    shared = [name for name in plain if name not in changed]
    mine = dict(adapters.merged(again).named_parameters())
    assert any(mine[name].data_ptr() == plain[name].data_ptr() for name in shared if name in mine)


@pytest.mark.parametrize("to", ["merged", "ctranslate2", "onnx", "gguf"])
def test_an_export_that_answers_otherwise_is_refused(
    to: str, run_of: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip(RUNTIMES.get(to, "torch"))
    target: Any = export.target_of(to)
    write = target.write

    def other(model: tuned.Tuned, folder: Path, quantization: str) -> None:
        weight = model.model.get_decoder().block[0].layer[2].DenseReluDense.wo.weight
        before = weight.detach().clone()
        weight.data.mul_(1.05)
        write(model, folder, quantization)
        weight.data.copy_(before)

    monkeypatch.setattr(target, "write", other)
    with pytest.raises(RunError, match="does not answer as the tuned model does") as raised:
        export.write(run_of("flan-t5"), to, tmp_path / "out")
    assert "nats at most" in raised.value.details[0]
    assert list(tmp_path.iterdir()) == []


def test_other_arithmetic_is_judged_without_references_too(
    mini_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("ctranslate2")
    target: Any = export.target_of("ctranslate2")
    write = target.write

    def spoilt(model: tuned.Tuned, folder: Path, quantization: str) -> None:
        weight = model.model.get_decoder().block[0].layer[2].DenseReluDense.wo.weight
        before = weight.detach().clone()
        weight.data.copy_(before.flip(0) * 3)
        write(model, folder, quantization)
        weight.data.copy_(before)

    shutil.copytree(mini_run / "adapter", tmp_path / "alone")
    assert (
        export.write(tmp_path / "alone", "ctranslate2", tmp_path / "right", quantization="int8")["check"]["mean"] < 0.1
    )
    monkeypatch.setattr(target, "write", spoilt)
    with pytest.raises(RunError, match="does not answer as the tuned model does") as raised:
        export.write(tmp_path / "alone", "ctranslate2", tmp_path / "out", quantization="int8")
    assert "allowed: 0.1 nats on average" in raised.value.details[0]


def test_probabilities_that_are_no_numbers(run_of: Run, monkeypatch: pytest.MonkeyPatch):
    found, broken = tuned.load(run_of("t5")), Otherwise(1e9, 0, 10)
    monkeypatch.setattr(broken, "log_probs", lambda few, folder, answers: [[0.0, math.nan, 0.0] for _ in answers])
    with pytest.raises(RunError, match="no numbers"):
        checking.check(broken, found, Path(), "float32")


class Otherwise:
    """An export with the right probabilities that writes another token at a place of its first answer."""

    def __init__(self, bound: float, place: int, token: int | None):
        self.BOUND, self.place, self.token = bound, place, token

    def log_probs(self, found: tuned.Tuned, folder: Path, answers: list[list[int]]) -> list[list[float]]:
        self.right = answers
        return found.log_probs(found.model, answers)

    def answers(self, folder: Path, texts: list[str]) -> list[list[int]]:
        first, *rest = self.right
        return [first[: self.place] + ([] if self.token is None else [self.token, *first[self.place + 1 :]]), *rest]


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("ends", [False, True])
def test_only_tokens_as_likely_may_be_exchanged(place: int, ends: bool, run_of: Run):
    """The first other token, or an end too early, is a tie to twice the bound or no tie."""
    found = tuned.load(run_of("flan-t5"))
    answer = found.answerer.tokens(found.sources[:1], batch_size=1, random_state=0, max_new_tokens=found.limit)[0]
    token = found.ends[0] if ends else next(n for n in range(10, 20) if n != answer[place])
    alone = dataclasses.replace(found, texts=found.texts[:1])
    mine, its = (alone.log_probs(alone.model, [[*answer[:place], each]])[0][-1] for each in (answer[place], token))
    export_of: Any = [Otherwise((mine - its) / 2 * more, place, None if ends else token) for more in (1.01, 0.99)]
    checked = checking.check(export_of[0], found, Path(), "float32")
    assert (checked["same"], checked["tied"]) == (checked["rows"] - 1, 1)
    assert "otherwise from two tokens on that are as likely" in checking.sentence(checked)
    with pytest.raises(RunError, match="does not answer as the tuned model does"):
        checking.check(export_of[1], found, Path(), "float32")


def test_an_answer_that_goes_on_beyond_the_limit_is_no_tie(run_of: Run):
    found = tuned.load(run_of("flan-t5"))
    answer = found.answerer.tokens(found.sources[:1], batch_size=1, random_state=0, max_new_tokens=found.limit)[0]
    assert answer[-1] not in found.ends, "the answer of the tiny model has its end"
    longer: Any = Otherwise(1e9, len(answer), 10)
    with pytest.raises(RunError, match="does not answer as the tuned model does"):
        checking.check(longer, found, Path(), "float32")


def test_ctranslate2_would_scale_what_is_not_scaled(run_of: Run, tmp_path: Path):
    """What the converter does by itself is beyond the bound for FLAN-T5; ours is not."""
    converters = pytest.importorskip("ctranslate2.converters")
    found = tuned.load(run_of("flan-t5"))
    found.save(tmp_path / "plain")
    converters.TransformersConverter(str(tmp_path / "plain")).convert(str(tmp_path / "out"))
    target = export.target_of("ctranslate2")
    answers = found.answerer.tokens(found.sources, batch_size=8, random_state=0, max_new_tokens=5)
    theirs = target.log_probs(found, tmp_path / "out", answers)
    ours = found.log_probs(found.model, answers)
    difference = max(abs(a - b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=False))
    if difference < checking.BOUND:
        pytest.skip("this CTranslate2 does not scale what is not scaled; the override can go")
    target.write(found, tmp_path / "right", "float32")
    right = target.log_probs(found, tmp_path / "right", answers)
    assert max(abs(a - b) for x, y in zip(ours, right, strict=True) for a, b in zip(x, y, strict=False)) < 0.001


@pytest.mark.parametrize(
    "name", ["a/../../b", "..", "nul\0", "NUL", "con.model", "aux/model", "trailing.", "new\nline"]
)
def test_places_that_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export, "load", lambda *_: pytest.fail("something was computed"))
    with pytest.raises(InputError):
        export.write("anywhere", "merged", f"{tmp_path}/{name}")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept(run_of: Run, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "folder", "link", "dangling"):
        for overwrite in (False, True):
            with pytest.raises(InputError):
                export.write(run_of("t5"), "adapter", tmp_path / name, overwrite=overwrite)
    with pytest.raises(InputError, match="already there"):
        export.write(run_of("t5"), "adapter", run_of("t5"), overwrite=True)
    assert (tmp_path / "folder" / "file").read_text() == "mine"
    out = tmp_path / "empty"
    out.mkdir()
    first = export.write(run_of("t5"), "adapter", out)
    with pytest.raises(InputError, match="--overwrite"):
        export.write(run_of("t5"), "adapter", out)
    assert export.write(run_of("t5"), "merged", out, overwrite=True)["target"] != first["target"]
    assert not (out / "adapter_model.safetensors").exists()
    assert {each.name for each in tmp_path.iterdir()} == {"file", "folder", "link", "dangling", "empty"}


def test_what_lies_beside_it_is_left_alone(run_of: Run, tmp_path: Path):
    """Names that a place beside the export might have: another's folders, and what a kill has left there."""
    for name in ("model.whole", ".model.old", "model.new", ".model-12345678.whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("another's")
    before = {path: path.is_file() and path.read_text() for path in tmp_path.rglob("*")}
    for _ in range(2):
        export.write(run_of("t5"), "adapter", tmp_path / "model", overwrite=True)
    assert {path: text for path, text in before.items() if path.exists()} == before
    assert {path.parent for path in tmp_path.rglob("*")} - {tmp_path / "model"} == {path.parent for path in before}


def test_targets_that_are_not_there(run_of: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="expected merged, adapter"):
        export.write(run_of("t5"), "coreml", tmp_path / "out")
    with pytest.raises(InputError, match="onnx has float32"):
        export.write(run_of("t5"), "onnx", tmp_path / "out", quantization="int8")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs ctranslate2") as raised:
        export.write(run_of("t5"), "ctranslate2", tmp_path / "out")
    assert "seqtune[export]" in raised.value.mend
    with pytest.raises(InputError, match="needs gguf and cyllama") as raised:
        export.write(run_of("t5"), "gguf", tmp_path / "out")
    assert "seqtune[gguf]" in raised.value.mend


def test_a_family_that_ctranslate2_does_not_have(run_of: Run, tmp_path: Path):
    pytest.importorskip("ctranslate2")
    with pytest.raises(InputError, match="CTranslate2 has no LongT5"):
        export.write(run_of("longt5"), "ctranslate2", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command(run_of: Run, tmp_path: Path, command: Callable[..., tuple[int, str, str]]):
    status, out, err = command("export", run_of("flan-t5"), "--to", "merged", "--out", tmp_path / "out")
    assert status == 0, err
    assert "shows how it is loaded" in out
    assert "rows answered with the same tokens" in err
    status, out, err = command("export", run_of("flan-t5"), "--to", "adapter", "--out", tmp_path / "b", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["target"] == "adapter"
    status, out, err = command("export", tmp_path / "nowhere", "--to", "adapter", "--out", tmp_path / "c")
    assert status == 2
    assert not (tmp_path / "c").exists()


def test_the_command_knows_the_targets():
    assert tuple(export.TARGETS) == exporting.TARGETS
    assert set(exporting.QUANTIZATIONS) == {kind for kinds in export.TARGETS.values() for kind in kinds}
