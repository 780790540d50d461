"""A base in 4 bits, on the CPU; skipped where bitsandbytes is not installed (`constraints.txt` names the version)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from torch import nn

import tiny_models
from seqtune.engine import hardware, loop
from seqtune.errors import InputError
from seqtune.generation import Answerer, score
from seqtune.models import adapters, loading, quantized
from seqtune.settings import DEFAULT

bitsandbytes = pytest.importorskip("bitsandbytes")

CPU = torch.device("cpu")
ROWS = [{"input_ids": [5 + row, 6, 7 + row, 1], "labels": [9, 10 + row, 11, 12, 1]} for row in range(12)]


@pytest.fixture(scope="module", params=["flan-t5", "bart"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> loading.BaseCheckpoint:
    folder = tiny_models.tiny(request.param, tmp_path_factory.mktemp("models") / request.param, width=128)
    return replace(loading.resolve(str(folder)), load_in_4bit=True)


@pytest.fixture(scope="module")
def base(checkpoint: loading.BaseCheckpoint):
    return loading.load_model(checkpoint, CPU)


def adapted(base: Any, drawn: bool = True, **knobs: Any):
    """With an adapter in it that changes something."""
    settings = {**DEFAULT.model_dump(), "lora_dropout": 0.0, "target_modules": "all-linear", **knobs}
    with hardware.seeded(0, CPU):
        model = adapters.attach(base, adapters.lora_config(base, "tiny", settings), "tiny")
        for name, weight in model.named_parameters():
            if drawn and "lora_B" in name:
                nn.init.normal_(weight, std=0.3)
    return model.eval()


def losses(model: Any) -> torch.Tensor:
    return torch.tensor(score(model, ROWS, 0, 4)[0])


def train(model: Any, precision: str = "fp32", **knobs: Any) -> loop.TrainState:
    settings = {**DEFAULT.model_dump(), "learning_rate": 1e-2, "warmup_steps": 0, "max_steps": 6, **knobs}
    settings = quantized.with_plain_engine(settings)
    with hardware.seeded(0, CPU):
        return loop.train(model, ROWS[:8], ROWS[8:], settings, device=CPU, precision=precision, pad_token_id=0)


def test_linear_layers_are_in_4_bits_and_nothing_else(base):
    kinds = {name: type(module) for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    whole = {name for name, kind in kinds.items() if kind is nn.Linear}
    assert {kind for name, kind in kinds.items() if name not in whole} == {bitsandbytes.nn.Linear4bit}
    assert {name.rsplit(".")[-1] for name in whole} == (
        {"lm_head", "wo"} if base.config.model_type == "t5" else {"lm_head"}
    )
    others = [weight for weight in base.parameters() if getattr(weight, "quant_state", None) is None]
    assert {weight.dtype for weight in others} == {torch.float32}
    states = [weight.quant_state for weight in base.parameters() if hasattr(weight, "quant_state")]
    assert {(state.quant_type, state.nested) for state in states} == {("nf4", True)}
    assert quantized.is_quantized(base)


def test_its_weights_are_those_of_the_full_model_rounded(base, checkpoint):
    full = loading.load_model(replace(checkpoint, load_in_4bit=False), CPU).state_dict()
    for name, weight in quantized.written_out(base).state_dict().items():
        if "bit" in type(base.get_submodule(name.rpartition(".")[0])).__name__ and name.endswith("weight"):
            assert 0.02 < (weight - full[name]).norm() / full[name].norm() < 0.15  # NF4 of normal weights: about 0.09
        else:
            assert torch.equal(weight, full[name])


def test_answering_leaves_the_weights_as_they_were(base):
    """bitsandbytes would repack them on processors with bf16 units, with other scales."""
    before = loading.weights_sha256(base)
    first = losses(base)
    assert torch.equal(losses(base), first)
    assert loading.weights_sha256(base) == before


def test_adapters_share_the_weights(base):
    before, expected = loading.weights_sha256(base), losses(base)
    model = adapted(base)
    packed = {weight.data_ptr() for weight in base.parameters()}
    frozen = [weight for name, weight in model.named_parameters() if "lora_" not in name]
    assert {weight.data_ptr() for weight in frozen} <= packed
    assert {type(module).__module__ for module in model.modules() if type(module).__name__ == "Linear4bit"} == {
        "peft.tuners.lora.bnb",
        "bitsandbytes.nn.modules",
    }
    assert not torch.equal(losses(model), expected)
    assert torch.equal(losses(base), expected)
    assert loading.weights_sha256(base) == before
    full = sum(weight.numel() for weight in quantized.written_out(base).parameters())
    trainable, total = adapters.trainable_parameters(model)
    assert total - trainable == full


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_the_adapter_learns(base, precision):
    before = loading.weights_sha256(base)
    model = adapted(base, drawn=False)
    state = train(model, precision)
    assert state.best_step > 0
    assert state.best_loss < state.log[0]["validation_loss"]
    layers = {layer.compute_dtype for layer in model.modules() if isinstance(layer, bitsandbytes.nn.Linear4bit)}
    assert layers == {torch.float32 if precision == "fp32" else torch.bfloat16}
    assert loading.weights_sha256(base) == before
    again = adapted(base, drawn=False)
    assert train(again, precision).log[-1]["loss"] == state.log[-1]["loss"]


def test_dora_trains_too(base):
    state = train(adapted(base, drawn=False, use_dora=True))
    assert state.best_loss < state.log[0]["validation_loss"]


def test_gradients_are_those_of_the_weights_written_out(base):
    model, plain = adapted(base), adapters._over_written_out(adapted(base))
    found = []
    for each in (model, plain):
        for name, weight in each.named_parameters():
            weight.requires_grad_("lora_" in name)
        batch = {name: torch.tensor([row[name] for row in ROWS]) for name in ("input_ids", "labels")}
        each.eval()(**batch).loss.backward()
        found.append({name: weight.grad for name, weight in each.named_parameters() if weight.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-3, atol=1e-5)


def test_merged_it_is_a_plain_model_of_the_same_losses(base, tmp_path):
    model = adapted(base)
    expected = losses(model)
    weights = {
        name: weight.clone() for name, weight in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    plain = adapters.merged(model)
    assert not quantized.is_quantized(plain)
    assert not [name for name, module in plain.named_modules() if "bit" in type(module).__name__.lower()]
    torch.testing.assert_close(losses(plain), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(losses(model), expected)
    assert all(
        torch.equal(weight, weights[name])
        for name, weight in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    )
    plain.save_pretrained(str(tmp_path))
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_it_answers_unmerged_as_it_does_merged(base, checkpoint):
    tokenizer, model = loading.load_tokenizer(checkpoint), adapted(base)
    sources = [row["input_ids"] for row in ROWS]
    options = {"batch_size": 4, "random_state": 0, "max_new_tokens": 6, "num_beams": 1}
    answerer = Answerer(model, tokenizer)
    assert answerer.engine == "transformers"
    assert quantized.is_quantized(answerer.model)
    expected = Answerer(adapters.merged(model), tokenizer).tokens(sources, **options)
    assert answerer.tokens(sources, **options) == expected


def test_layers_that_bitsandbytes_unpacks_wrongly_are_refused(tmp_path):
    folder = tiny_models.tiny("flan-t5", tmp_path / "narrow", width=32)
    with pytest.raises(InputError, match="no multiple of 64") as refused:
        loading.load_model(replace(loading.resolve(str(folder)), load_in_4bit=True), CPU)
    assert "SelfAttention.q" in str(refused.value)


def test_what_can_not_be_done_is_refused():
    quantized.check({"load_in_4bit": True, "engine": "reference"})
    quantized.check({"engine": "fast"})
    with pytest.raises(InputError, match="engine = fast"):
        quantized.check({"load_in_4bit": True, "engine": "fast"})
    with pytest.raises(InputError, match="mps"):
        quantized.options(torch.device("mps"))
