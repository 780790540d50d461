"""From a name to a model: every family through one table, and every way in which a name can be wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import tiny_models
from seqtune.models import hub, loading
from tiny_models import copied

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=tiny_models.FAMILIES)
def folder(request, tmp_path_factory):
    """A saved tiny model of each family."""
    return tiny_models.tiny(request.param, tmp_path_factory.mktemp("models") / request.param)


def logits(model, ids=((5, 6, 7, 1),)):
    """What the model says to a fixed input."""
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids), decoder_input_ids=torch.tensor(ids)).logits


def adapted(model):
    """The model with an adapter that changes its outputs, in training mode."""
    targets = ["q_proj", "v_proj"] if hasattr(model, "model") else ["q", "v"]
    config = LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=targets, r=4, init_lora_weights=False)
    return get_peft_model(model, config)


# The table of families.


def test_a_folder_is_resolved_and_loaded(folder):
    checkpoint = loading.resolve(str(folder))
    assert checkpoint == loading.resolve(str(folder))
    assert (checkpoint.model_id, checkpoint.path, checkpoint.revision) == (str(folder), str(folder), None)
    assert (checkpoint.tokenizer_id, checkpoint.tokenizer_path) == (str(folder), str(folder))
    assert checkpoint.architecture.endswith("ForConditionalGeneration")
    assert checkpoint.model_type in checkpoint.architecture.lower()
    assert json.loads(json.dumps(checkpoint.as_dict())) == dataclasses.asdict(checkpoint)

    model, tokenizer = loading.load_model(checkpoint, CPU), loading.load_tokenizer(checkpoint)
    built = tiny_models.tiny_model(folder.name, len(tokenizer))
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not any(weight.requires_grad for weight in model.parameters())
    assert torch.allclose(logits(model), logits(built), atol=1e-4)
    assert loading.weights_sha256(model) == loading.weights_sha256(built)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (folder.name not in ("flan-t5", "mt5", "umt5"))
    loading.check_fit(model, tokenizer)
    loading.check_fit(model.config, tokenizer)
    sentence = tiny_models.SENTENCES[3]
    assert tokenizer.decode(tokenizer(sentence)["input_ids"], skip_special_tokens=True).strip() == sentence


def test_a_model_saved_again_is_the_same_model(folder, tmp_path):
    model = loading.load_model(loading.resolve(str(folder)), CPU)
    model.save_pretrained(tmp_path)
    loading.load_tokenizer(loading.resolve(str(folder))).save_pretrained(tmp_path)
    again = loading.load_model(loading.resolve(str(tmp_path)), CPU)
    assert torch.allclose(logits(model), logits(again), atol=1e-4)
    assert loading.weights_sha256(model) == loading.weights_sha256(again)


def test_a_shared_copy_takes_an_adapter_and_leaves_the_original_alone(folder):
    model = loading.load_model(loading.resolve(str(folder)), CPU)
    names = [name for name, _ in model.named_modules()]
    before, digest = logits(model), loading.weights_sha256(model)

    copy = loading.shared_copy(model)
    assert type(copy) is type(model)
    assert not any(weight.requires_grad for weight in copy.parameters())
    assert copy.config is not model.config
    # No memory of its own: every tensor lies where the original's does.
    places = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    assert {name: tensor.data_ptr() for name, tensor in copy.state_dict().items()} == places
    assert {name for name, _ in copy.named_parameters()} == {name for name, _ in model.named_parameters()}
    assert not {id(weight) for weight in copy.parameters()} & {id(weight) for weight in model.parameters()}
    assert torch.equal(logits(copy), before)

    tuned = adapted(copy)
    assert not torch.equal(logits(tuned.eval()), before)
    assert tuned.generate(input_ids=torch.tensor([[5, 6, 1]]), max_new_tokens=3).shape[0] == 1
    tuned.to(torch.bfloat16).train()
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not model.training
    assert [name for name, _ in model.named_modules()] == names
    assert not any(weight.requires_grad for weight in model.parameters())
    assert torch.equal(logits(model), before)
    assert loading.weights_sha256(model) == digest

    base = tuned.get_base_model()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (base.get_output_embeddings().weight is base.get_input_embeddings().weight) == tied


# Digests.


def test_digests_follow_content_and_nothing_else(t5, tmp_path):
    checkpoint = loading.resolve(str(t5))
    twin = copied(t5, tmp_path / "twin")
    (twin / "README.md").write_text("about")
    (twin / "pytorch_model.bin").write_bytes(b"left over")
    same = loading.resolve(str(twin))
    assert (same.sha256, same.tokenizer_sha256) == (checkpoint.sha256, checkpoint.tokenizer_sha256)

    weights = load_file(twin / "model.safetensors")
    weights["shared.weight"][7, 3] += 1e-3
    save_file(weights, twin / "model.safetensors", {"format": "pt"})
    changed = loading.resolve(str(twin))
    assert changed.sha256 != checkpoint.sha256
    assert changed.tokenizer_sha256 == checkpoint.tokenizer_sha256

    models = [loading.load_model(each, CPU) for each in (checkpoint, same, changed)]
    assert loading.weights_sha256(models[0]) != loading.weights_sha256(models[2])
    (twin / "tokenizer_config.json").write_text((twin / "tokenizer_config.json").read_text() + " ")
    assert loading.resolve(str(twin)).tokenizer_sha256 != checkpoint.tokenizer_sha256


def test_the_digest_of_weights_sees_dtype_and_configuration(t5):
    model = loading.load_model(loading.resolve(str(t5)), CPU)
    digest = loading.weights_sha256(model)
    assert digest == loading.weights_sha256(loading.shared_copy(model))
    half = loading.shared_copy(model).to(torch.bfloat16)
    assert loading.weights_sha256(half) != digest
    scaled = loading.shared_copy(model)
    scaled.config.scale_decoder_outputs = False
    assert loading.weights_sha256(scaled) != digest


# Which model is meant.


def test_names(t5, flan, monkeypatch):
    asked = []

    def fetch(name, revision, *, weights, check_config):
        asked.append((name, revision, weights))
        return t5, "0" * 40

    monkeypatch.setattr(hub, "fetch", fetch)
    assert loading.resolve().model_id == "google/flan-t5-small"
    both = loading.resolve(None, "google/mt5-small", "v1")
    assert (both.model_id, both.tokenizer_id, both.revision) == ("google/mt5-small", "google/mt5-small", "0" * 40)
    assert asked == [("google/flan-t5-small", None, True), ("google/mt5-small", "v1", True)]
    apart = loading.resolve(str(flan), str(t5))
    assert (apart.path, apart.tokenizer_path, apart.model_id) == (str(flan), str(t5), str(flan))
    assert len(asked) == 2


def test_a_folder_by_other_spellings(t5, monkeypatch):
    monkeypatch.chdir(t5.parent)
    digests = {loading.resolve(name).sha256 for name in ("t5", "./t5", "../" + t5.parent.name + "/t5", str(t5))}
    assert len(digests) == 1
    monkeypatch.setenv("HOME", str(t5.parent))
    assert loading.resolve("~/t5").path == str(t5)


def test_the_embedded_model():
    if not list(loading.embedded_folder().glob("*.safetensors")):
        pytest.skip("the package has no weights of seqtune-mini yet")
    checkpoint = loading.resolve("seqtune-mini")
    assert (checkpoint.model_id, checkpoint.model_type) == ("seqtune-mini", "t5")
    model, tokenizer = loading.load_model(checkpoint, CPU), loading.load_tokenizer(checkpoint)
    loading.check_fit(model, tokenizer)
    assert tokenizer.decode(tokenizer("How many?")["input_ids"], skip_special_tokens=True) == "How many?"
    assert torch.isfinite(logits(model)).all()


def test_bf16_weights_are_loaded_as_fp32(t5, tmp_path):
    folder = copied(t5, tmp_path / "half")
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = loading.load_model(loading.resolve(str(folder)), CPU)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_loading_says_nothing(flan, tmp_path, capfd):
    loading.load_tokenizer(loading.resolve(str(flan)))
    loading.load_model(loading.resolve(str(flan)), CPU)
    assert capfd.readouterr() == ("", "")


def test_loading_leaves_the_bars_as_they_were():
    """The hub's bars, turned off where nobody sees them, are not turned on again by the way."""
    script = """
        import huggingface_hub.utils as hub
        from transformers.utils import logging as theirs
        from seqtune.models.quiet import quiet
        for off in (False, True, False):
            (hub.disable_progress_bars if off else hub.enable_progress_bars)()
            with quiet():
                assert hub.are_progress_bars_disabled() and not theirs.is_progress_bar_enabled()
            assert hub.are_progress_bars_disabled() == off and theirs.is_progress_bar_enabled()
    """
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_PROGRESS_BARS"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert (process.returncode, process.stderr) == (0, "")
