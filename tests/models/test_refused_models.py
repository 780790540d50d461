"""Every way in which a folder can be no model that we take."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, LlamaConfig

import tiny_models
from seqtune.errors import InputError
from seqtune.models import loading
from tiny_models import copied

CPU = torch.device("cpu")


def test_no_such_folder(tmp_path):
    for name in (str(tmp_path / "none"), "./none", "a\\b", "runs/x/adapter"):
        with pytest.raises(InputError, match="no such folder"):
            loading.resolve(name)
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(InputError, match="a file"):
        loading.resolve(str(tmp_path / "file.txt"))


def test_a_folder_without_a_model(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError) as caught:
        loading.resolve(str(tmp_path))
    assert "no config.json" in str(caught.value)
    assert "found: notes.txt" in str(caught.value)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="a tuned adapter, not a base model"):
        loading.resolve(str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": 3}'])
def test_a_config_that_is_none(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        loading.resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "architecture"), [(LlamaConfig, "LlamaForCausalLM"), (BertConfig, "BertModel"), (None, "OwnModel")]
)
def test_the_wrong_architecture(tmp_path, config, architecture):
    if config:
        config(architectures=[architecture]).save_pretrained(tmp_path)
    else:
        (tmp_path / "config.json").write_text('{"model_type": "own", "architectures": ["OwnModel"]}')
    with pytest.raises(InputError) as caught:
        loading.resolve(str(tmp_path))
    assert "not an encoder-decoder model" in str(caught.value)
    assert f"found: {architecture}" in str(caught.value)
    assert "expected: an AutoModelForSeq2SeqLM" in str(caught.value)


def test_pickle_is_refused(t5, tmp_path):
    folder = copied(t5, tmp_path / "pickle")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError) as caught:
        loading.resolve(str(folder))
    assert "no weights in safetensors" in str(caught.value)
    assert "found: pytorch_model.bin" in str(caught.value)
    assert "save_pretrained('converted')" in str(caught.value)


def test_no_tokenizer(t5, tmp_path):
    folder = copied(t5, tmp_path / "bare")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="no tokenizer") as caught:
        loading.resolve(str(folder))
    assert "--model-id-tokenizer" in str(caught.value)
    assert loading.resolve(str(folder), str(t5)).tokenizer_path == str(t5)


def test_a_damaged_tokenizer(t5, tmp_path):
    folder = copied(t5, tmp_path / "damaged")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="the tokenizer can't be loaded"):
        loading.load_tokenizer(loading.resolve(str(folder)))


def test_missing_and_misshapen_weights(t5, tmp_path):
    folder = copied(t5, tmp_path / "part")
    tensors = load_file(folder / "model.safetensors")
    lost, cut = "encoder.block.0.layer.0.SelfAttention.q.weight", "decoder.final_layer_norm.weight"
    del tensors[lost]
    tensors[cut] = tensors[cut][:5].clone()
    tensors["classifier.weight"] = torch.zeros(3)  # beyond need: harmless
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError) as caught:
        loading.load_model(loading.resolve(str(folder)), CPU)
    assert "do not make a whole T5ForConditionalGeneration" in str(caught.value)
    assert f"missing   {lost}" in str(caught.value)
    assert f"{cut}   found (5,), expected (32,)" in str(caught.value)
    assert "classifier" not in str(caught.value)


def test_a_model_without_its_head(flan, tmp_path):
    folder = copied(flan, tmp_path / "headless")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["T5Model"]}))
    loading.load_model(loading.resolve(str(folder)), CPU)
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"missing   lm_head\.weight"):
        loading.load_model(loading.resolve(str(folder)), CPU)


def test_damaged_weights(t5, tmp_path):
    folder = copied(t5, tmp_path / "cut")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(InputError, match="the model can't be loaded"):
        loading.load_model(loading.resolve(str(folder)), CPU)


def test_a_tokenizer_that_does_not_fit(t5):
    model = loading.load_model(loading.resolve(str(t5)), CPU)
    tokenizer = tiny_models.tiny_tokenizer("t5")
    loading.check_fit(model, tokenizer)
    tokenizer.add_tokens(["one", "two", "three"])
    for each in (model, model.config):
        with pytest.raises(InputError) as caught:
            loading.check_fit(each, tokenizer)
        assert f"ids up to {len(tokenizer) - 1}" in str(caught.value)
        assert f"ids up to {model.config.vocab_size - 1}" in str(caught.value)
