"""Characters that a tokenizer loses, and pieces for them: exact round trips, models with room, saved and reloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoTokenizer

from seqtune.errors import InputError
from seqtune.models import adapters, loading, pieces
from tiny_models import tiny_tokenizer
from tiny_sentencepiece import tiny_with_sentencepiece


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_with_sentencepiece(tmp_path_factory.mktemp("sentencepiece"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def there_and_back(tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)


def test_what_is_lost(tokenizer):
    assert there_and_back(tokenizer, "a {\n  b}") == "a  b"
    assert pieces.lost(tokenizer, "ab{}\n\t .\u200b…") == ["\t", "\n", " ", "{", "}", "\u200b", "…"]
    assert pieces.lost(tokenizer, []) == []
    assert pieces.lost(tiny_tokenizer("bart"), "a{\n\té") == []


TEXTS = [
    "{a", "{ a", "a {", "a { b", "a{b}c", "a\n\n  b", "  lead", "trail\t", " x ", "{", "\n", "", "a  b   c", "\n a",
    "if (x) {\n\tprint(\"…\")\n}", "e\u0301 é", "e\u0301{", "no network, please", "{{}}",
]  # fmt: skip


def test_the_round_trip_is_exact(tokenizer):
    lost = pieces.lost(tokenizer, set("".join(TEXTS)))
    mended = pieces.with_pieces(tokenizer, lost)
    assert [there_and_back(mended, text) for text in TEXTS] == TEXTS
    assert pieces.characters_of(mended) == lost
    assert len(pieces.ids_of(mended)) == len(lost)
    assert pieces.with_pieces(tokenizer, []) is tokenizer
    assert there_and_back(tokenizer, "{") == ""  # the one that came in stays what it was


def test_texts_that_lose_nothing_have_the_ids_they_had(tokenizer):
    mended = pieces.with_pieces(tokenizer, ["\n", " ", "{"])
    for text in ("How do I reset my password?", "Yes.", "mail within 5 minutes"):
        assert mended(text)["input_ids"] == tokenizer(text)["input_ids"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet="ab {}\n\t.é\u0301\u200b…①", max_size=30))
def test_any_text_of_known_characters_comes_back(text):
    assert there_and_back(_mended(), text) == text


_kept: list = []


def _mended():
    if not _kept:
        import tempfile

        with tempfile.TemporaryDirectory() as place:
            plain = AutoTokenizer.from_pretrained(tiny_with_sentencepiece(Path(place)))
        _kept.append(pieces.with_pieces(plain, pieces.lost(plain, "ab {}\n\t.é\u0301\u200b…①")))
    return _kept[0]


def test_a_tokenizer_of_another_kind_is_refused():
    with pytest.raises(InputError, match="characters can't be added"):
        pieces.with_pieces(tiny_tokenizer("bart"), ["{"])


def test_a_real_file_comes_back(shared_data, tmp_path):
    rows = json.loads((shared_data / "nl2bash.json").read_text(encoding="utf-8"))
    plain = AutoTokenizer.from_pretrained(
        tiny_with_sentencepiece(tmp_path, [row["description"] for row in rows[:1500]], pieces=400)
    )
    texts = [row[key] for row in rows for key in ("description", "command")]
    mended = pieces.with_pieces(plain, pieces.lost(plain, set().union(*map(set, texts))))
    ids = mended(texts)["input_ids"]
    assert mended.batch_decode(ids, skip_special_tokens=True) == texts
    lossless = plain.batch_decode(plain(texts)["input_ids"], skip_special_tokens=True)
    assert sum(before != after for before, after in zip(texts, lossless, strict=True)) > 3000


def test_room_in_the_model(folder, tokenizer):
    mended = pieces.with_pieces(tokenizer, ["{", "}"])
    ids = pieces.ids_of(mended)
    model = loading.load_model(loading.resolve(str(folder), None, None), torch.device("cpu"))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert pieces.make_room(model, ids) is model
    assert model.get_input_embeddings().weight.shape[0] == max(ids) + 1 == model.config.vocab_size
    assert not any(weight.requires_grad for weight in model.parameters())
    for name, weight in model.state_dict().items():
        assert torch.equal(weight[: len(before[name])] if weight.dim() else weight, before[name])
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert torch.equal(head[ids[1]], before["lm_head.weight"].mean(dim=0))
    assert not torch.equal(head, embedding)
    again = {name: weight.clone() for name, weight in model.state_dict().items()}
    pieces.make_room(model, ids)
    assert all(torch.equal(weight, again[name]) for name, weight in model.state_dict().items())


@pytest.fixture
def trained(folder, tokenizer, tmp_path):
    """A base model with room, an adapter whose rows are not what they were, and the adapter's folder."""
    mended = pieces.with_pieces(tokenizer, ["{", "\n"])
    base = loading.load_model(loading.resolve(str(folder), None, None), torch.device("cpu"))
    pieces.make_room(base, pieces.ids_of(mended))
    knobs = {"lora_r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": None, "use_dora": False}
    config = adapters.lora_config(base, "tiny", {**knobs, "use_rslora": False}, pieces.ids_of(mended))
    model = adapters.attach(base, config, "tiny")
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert [tuple(weight.shape) for name, weight in trainable.items() if "trainable_tokens" in name] == [(2, 32)]
    with torch.no_grad():
        for number, weight in enumerate(trainable.values()):
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))
    adapters.save(model, mended, tmp_path / "adapter")
    return base, model.eval(), mended, tmp_path / "adapter"


BATCH = {"input_ids": torch.tensor([[5, 9, 170, 1]]), "labels": torch.tensor([[6, 171, 1]])}


def logits(model, ids: list[int]) -> torch.Tensor:
    batch = {"input_ids": torch.tensor([[5, 9, ids[0], 1]]), "labels": torch.tensor([[6, ids[1], 1]])}
    with torch.inference_mode():
        return model(**batch).logits


def test_a_trained_adapter_is_reloaded_as_it_was(trained):
    base, model, mended, place = trained
    ids = pieces.ids_of(mended)
    expected = logits(model, ids)
    found = adapters.load(base, place)
    assert torch.allclose(logits(found, ids), expected, atol=1e-5)
    assert not any("TrainableTokens" in type(each).__name__ for each in found.modules())
    assert not torch.allclose(logits(base, ids), expected, atol=1e-2)
    assert pieces.saved(place) == ["{", "\n"]
    assert pieces.saved(place.parent) == []


def test_merged_it_is_a_plain_model(trained, tmp_path):
    base, model, mended, place = trained
    ids = pieces.ids_of(mended)
    plain = adapters.merged(adapters.load(base, place))
    assert torch.allclose(logits(plain, ids), logits(model, ids), atol=1e-4)
    plain.save_pretrained(tmp_path / "plain")
    again = type(plain).from_pretrained(tmp_path / "plain").eval()
    assert torch.allclose(logits(again, ids), logits(plain, ids), atol=1e-5)


def test_plain_peft_and_transformers_read_it(trained):
    base, model, mended, place = trained
    ids = pieces.ids_of(mended)
    found = PeftModel.from_pretrained(loading.shared_copy(base), str(place)).eval()
    assert torch.allclose(logits(found, ids), logits(model, ids), atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(place)
    assert there_and_back(tokenizer, "a {\n  b") == there_and_back(mended, "a {\n  b")


def test_a_damaged_file(tmp_path):
    for content in ("[", '["ab"]', "{}"):
        (tmp_path / pieces.FILE).write_text(content)
        with pytest.raises(InputError, match="damaged"):
            pieces.saved(tmp_path)


def test_names():
    assert [pieces.name_of(each) for each in ("{", "\n", " ", "\u200b", "é")] == [
        "{",
        "line break",
        "runs of spaces",
        "U+200B ZERO WIDTH SPACE",
        "é",
    ]
