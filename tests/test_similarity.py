from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from seqtune import similarity
from seqtune.errors import InputError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "light", "blinks", "the", "now"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny BERT with random weights and a tokenizer of whole words."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=12,
            initializer_range=0.5,
        )
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def states(folder: Path, text: str) -> np.ndarray:
    """Hidden states of one text alone, without padding, by hand."""
    ids = [2, *(WORDS.index(word) for word in text.split()), 3]
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).last_hidden_state[0].double().numpy()


def by_hand(folder: Path, answer: str, reference: str) -> tuple[float, float]:
    said, wanted = states(folder, answer), states(folder, reference)
    a, b = said.mean(axis=0), wanted.mean(axis=0)
    cosine = 100 * a @ b / np.sqrt((a @ a) * (b @ b))
    likeness = [[x @ y / np.sqrt((x @ x) * (y @ y)) for y in wanted] for x in said]
    precision = np.mean([max(row) for row in likeness[1:-1]])
    recall = np.mean([max(row[column] for row in likeness) for column in range(1, len(wanted) - 1)])
    return float(cosine), float(100 * 2 * precision * recall / (precision + recall))


def test_against_a_computation_by_hand(bert: Path):
    pairs = [("red light", "the blue light blinks now"), ("now", "red"), ("blinks the light", "light")]
    found = similarity.Encoder(str(bert)).scores([a for a, _ in pairs], [[b] for _, b in pairs])
    for each, (answer, reference) in zip(found, pairs, strict=True):
        cosine, f1 = by_hand(bert, answer, reference)
        assert each["embedding_similarity"] == pytest.approx(cosine, abs=1e-3)
        assert each["bertscore"] == pytest.approx(f1, abs=1e-3)
        assert each["embedding_similarity"] < 99.9


def test_the_best_of_several_references_and_the_same_text(bert: Path):
    encoder = similarity.Encoder(str(bert))
    (both,) = encoder.scores(["red light"], [["now", "the light"]])
    singles = encoder.scores(["red light"] * 2, [["now"], ["the light"]])
    for name in both:
        assert both[name] == pytest.approx(max(each[name] for each in singles), abs=1e-4)
    (same,) = encoder.scores(["red light"], [["now", "red light"]])
    assert same == pytest.approx({"embedding_similarity": 100, "bertscore": 100})


def test_batches_make_no_difference(bert: Path):
    encoder = similarity.Encoder(str(bert))
    answers = [" ".join(WORDS[4 + (n + k) % 6] for k in range(1 + n % 7)) for n in range(40)]
    wanted = [[answer] for answer in reversed(answers)]
    together = encoder.scores(answers, wanted)
    for index in (0, 15, 16, 39):
        (alone,) = encoder.scores([answers[index]], [wanted[index]])
        assert together[index] == pytest.approx(alone, abs=1e-3)


def test_empty_and_long_texts(bert: Path):
    encoder = similarity.Encoder(str(bert))
    empty, unknown, long = encoder.scores(["", "零 \u0000 <b>", "red " * 400], [["red"], ["red"], ["blue " * 400]])
    assert empty["bertscore"] == 0
    assert all(np.isfinite(value) for each in (empty, unknown, long) for value in each.values())
    assert encoder.scores([], []) == []


def copied(bert: Path, folder: Path) -> Path:
    for path in bert.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_what_is_refused(bert: Path, tmp_path: Path):
    with pytest.raises(InputError, match="hf download nobody/never-there"):
        similarity.Encoder("nobody/never-there")
    with pytest.raises(InputError, match="neither a folder here nor") as told:
        similarity.Encoder("./no/such/folder")
    assert "hf download" not in str(told.value)
    with pytest.raises(InputError, match=r"no config\.json"):
        similarity.Encoder(str(tmp_path))
    folder = copied(bert, tmp_path)
    weights: dict[str, Any] = load_file(folder / "model.safetensors")
    name = next(each for each in weights if "layer.1" in each)
    save_file({each: value for each, value in weights.items() if each != name}, folder / "model.safetensors")
    with pytest.raises(InputError, match="do not make a whole BertModel"):
        similarity.Encoder(str(folder))
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="can't be loaded"):
        similarity.Encoder(str(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="no weights in safetensors"):
        similarity.Encoder(str(folder))


def test_code_that_comes_with_a_model_is_not_run(bert: Path, tmp_path: Path):
    folder = copied(bert, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.C", "AutoModel": "theirs.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="not run"):
        similarity.Encoder(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_model_of_the_hub_that_is_in_the_cache(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commit = "a" * 40
    kept = tmp_path / "models--own--bert"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(commit)
    (kept / "snapshots" / commit).mkdir(parents=True)
    copied(bert, kept / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert similarity.resolve("own/bert") == kept / "snapshots" / commit
    assert similarity.digest("own/bert") == similarity.digest(str(bert))


def test_a_changed_file_changes_the_digest(bert: Path, tmp_path: Path):
    folder = copied(bert, tmp_path)
    before = similarity.digest(str(folder))
    assert before == similarity.digest(str(bert))
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert similarity.digest(str(folder)) != before
