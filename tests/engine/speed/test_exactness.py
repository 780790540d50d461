"""The fast engine against the plain one: every family, loss and gradient, with dropout off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import tiny_models
from seqtune.data import tokens
from seqtune.engine import loss, speed
from seqtune.engine.batching import collate
from seqtune.engine.speed import head, linear, native, on_gpu
from seqtune.engine.speed.head import without_logits
from seqtune.models import families
from seqtune.models.sharing import shared_copy

CPU = torch.device("cpu")
NATIVE = pytest.mark.skipif(native.kernels() is None, reason="no C compiler")


def adapted(family: str, **knobs: Any) -> PeftModel:
    """A tiny model whose weights are of a size that rounding does not blow up, with an adapter that does something."""
    base = tiny_models.tiny_model(family)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for weight in base.parameters():
            if weight.dim() > 1:
                weight.mul_(0.3)
        torch.manual_seed(1)
        targets = knobs.pop("target_modules", families.default_target_modules(base))
        model = get_peft_model(
            shared_copy(base.requires_grad_(False)), LoraConfig(r=4, target_modules=targets, **knobs)
        )
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model


def rows(family: str) -> list[dict[str, list[int]]]:
    tokenizer = tiny_models.tiny_tokenizer(family)
    sources = tokens.encode(tokenizer, tiny_models.SENTENCES[0:8:2])
    targets = tokens.encode_targets(tokenizer, [text[: 12 + 9 * i] for i, text in enumerate(tiny_models.SENTENCES[:4])])
    return [{"input_ids": s, "labels": t} for s, t in zip(sources, targets, strict=True)]


def step(model: PeftModel, batch: dict[str, torch.Tensor], forward: loss.Forward) -> tuple[torch.Tensor, torch.Tensor]:
    """Row losses, and the gradient of the adapter as one vector."""
    model.zero_grad()
    nll = forward(model, batch)
    (nll.sum() / loss.target_tokens(batch)).backward()
    gradient = [weight.grad.flatten() for weight in model.parameters() if weight.requires_grad]
    return nll.detach(), torch.cat(gradient)


def compared(
    model: PeftModel, batch: dict[str, torch.Tensor], precision: str, without: Any = ()
) -> tuple[float, float]:
    """Relative difference of losses and gradients, fast from plain; dropout off."""
    model.eval()
    plain = speed.under_autocast(loss.forward, CPU) if precision == "bf16" else loss.forward
    nll, gradient = step(model, batch, plain)
    with speed.fast_paths(model, device=CPU, precision=precision, seed=0, without=without) as paths:
        fast_nll, fast_gradient = step(model, batch, paths.forward)
    return float(((fast_nll - nll) / nll).abs().max()), float((fast_gradient - gradient).norm() / gradient.norm())


@pytest.mark.parametrize("targets", ["default", "all-linear"])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_fp32_is_exact(family: str, targets: str):
    knobs = {} if targets == "default" else {"target_modules": targets}
    by_loss, by_gradient = compared(adapted(family, **knobs), collate(rows(family), 0), "fp32")
    assert by_loss < 1e-5
    assert by_gradient < 1e-5


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_layers_for_a_gpu_are_exact(family: str):
    """PyTorch's operators, which are the same on a CPU."""
    model, batch = adapted(family, target_modules="all-linear").eval(), collate(rows(family), 0)
    nll, gradient = step(model, batch, loss.forward)
    with on_gpu.norms(model, torch.float32), on_gpu.feed_forward(model), on_gpu.lora(model, torch.float32):
        fast_nll, fast_gradient = step(model, batch, without_logits({}))
    assert not torch.equal(fast_gradient, gradient)  # other operators: they were used
    assert float(((fast_nll - nll) / nll).abs().max()) < 1e-5
    assert float((fast_gradient - gradient).norm() / gradient.norm()) < 1e-5


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_bf16_is_as_near_to_fp32_as_autocast(family: str):
    """Both round; the fast way must not round more. (Against fp32, for two roundings need not agree.)"""
    model, batch = adapted(family).eval(), collate(rows(family), 0)
    _, exact = step(model, batch, loss.forward)
    _, autocast = step(model, batch, speed.under_autocast(loss.forward, CPU))
    with speed.fast_paths(model, device=CPU, precision="bf16", seed=0) as paths:
        _, fast = step(model, batch, paths.forward)
    assert float((fast - exact).norm()) < 1.5 * float((autocast - exact).norm())
    assert float((fast - exact).norm() / exact.norm()) < 0.1


@pytest.mark.skipif(not linear.there(), reason="no bf16 units, or no C compiler")
def test_the_tail_of_a_long_vocabulary(monkeypatch: pytest.MonkeyPatch):
    """In a model: the losses are the same to the bit, the gradient nearly, and the step decides what is sampled."""
    monkeypatch.setattr(head, "LONG_VOCABULARY", dict.fromkeys(head.LONG_VOCABULARY, 1))
    monkeypatch.setattr(head, "TAIL", 2.0**-5)  # of these few words some must be below it
    model, batch = adapted("flan-t5").eval(), collate(rows("flan-t5"), 0)

    def drawn(at: tuple[int, int], without: tuple[str, ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        with speed.fast_paths(model, device=CPU, precision="bf16", seed=0, without=without) as paths:
            paths.dice.begin(*at)
            return step(model, batch, paths.forward)

    nll, whole = drawn((1, 0), ("tail",))
    for at in ((1, 0), (2, 0)):
        found, gradient = drawn(at)
        assert torch.equal(found, nll)
        assert float((gradient - whole).norm() / whole.norm()) < 0.2
        assert torch.equal(drawn(at)[1], gradient)
    assert not torch.equal(drawn((2, 0))[1], drawn((1, 0))[1])


@pytest.mark.parametrize("left_out", speed.TRICKS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_trick_may_be_left_out(left_out: str, precision: str, monkeypatch: pytest.MonkeyPatch):
    if left_out == "tail":  # else so short a vocabulary has none
        monkeypatch.setattr(head, "LONG_VOCABULARY", dict.fromkeys(head.LONG_VOCABULARY, 1))
    bound = 1e-5 if precision == "fp32" else 0.05
    by_loss, by_gradient = compared(adapted("flan-t5"), collate(rows("flan-t5"), 0), precision, without=(left_out,))
    assert by_loss < bound
    assert by_gradient < bound


@pytest.mark.parametrize("knobs", [{"use_dora": True}, {"use_rslora": True}, {"lora_alpha": 3, "bias": "lora_only"}])
def test_other_kinds_of_adapter(knobs: dict[str, Any]):
    by_loss, by_gradient = compared(adapted("t5", **knobs), collate(rows("t5"), 0), "fp32")
    assert by_loss < 1e-5
    assert by_gradient < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, precision: str):
    """What runs on other devices too, and where nothing can be compiled."""
    for name in ("kernels", "pool"):
        monkeypatch.setattr(native, name, lambda: None)
    by_loss, by_gradient = compared(adapted("mt5"), collate(rows("mt5"), 0), precision)
    assert by_loss < (1e-5 if precision == "fp32" else 0.02)
    assert by_gradient < (1e-5 if precision == "fp32" else 0.05)


@pytest.mark.parametrize("family", ["flan-t5", "bart", "longt5"])
def test_everything_is_put_back(family: str):
    model = adapted(family).eval()
    batch = collate(rows(family), 0)
    before = {name: (weight.dtype, weight.data_ptr()) for name, weight in model.named_parameters()}
    dropout, attention = torch.nn.functional.dropout, model.get_base_model().config._attn_implementation
    with torch.inference_mode():
        expected = loss.forward(model, batch)
    with speed.fast_paths(model, device=CPU, precision="bf16", seed=0) as paths:
        assert torch.nn.functional.dropout is not dropout
        paths.forward(model, batch)
    assert torch.nn.functional.dropout is dropout
    assert model.get_base_model().config._attn_implementation == attention
    assert {name: (weight.dtype, weight.data_ptr()) for name, weight in model.named_parameters()} == before
    assert not any("forward" in module.__dict__ for module in model.modules())
    with torch.inference_mode():
        assert torch.equal(loss.forward(model, batch), expected)


def test_a_bias_of_the_logits_counts():
    """BART adds `final_logits_bias` behind its output layer."""
    model = adapted("bart")
    with torch.no_grad():
        model.get_base_model().final_logits_bias.normal_(generator=torch.Generator().manual_seed(3))
    batch = collate(rows("bart"), 1)
    by_loss, by_gradient = compared(model, batch, "fp32")
    assert by_loss < 1e-5
    assert by_gradient < 1e-5


def test_a_model_that_does_more_behind_its_head_is_found_out():
    model, batch = adapted("t5").eval(), collate(rows("t5"), 0)
    with torch.inference_mode():
        plain = loss.forward(model, batch)
    with speed.fast_paths(model, device=CPU, precision="fp32", seed=0) as paths:
        assert speed.agrees(model, batch, plain, paths, "fp32")
        assert not speed.agrees(model, batch, plain * 1.001, paths, "fp32")


def test_rounding_is_no_disagreement_where_the_loss_is_nearly_nothing():
    model, batch = adapted("t5").eval(), collate(rows("t5"), 0)
    tokens = (batch["labels"] != -100).sum(dim=1)
    sure = speed.FastPaths(lambda *_: tokens * 1.2e-4, speed.Dice(0))
    assert speed.agrees(model, batch, tokens * 1e-4, sure, "fp32")
    assert not speed.agrees(model, batch, tokens * 1e-3, sure, "fp32")


@NATIVE
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_with_dropout_the_numbers_decide_everything(family: str):
    """The same (seed, step, pass): the same loss and gradient; another one: others. Whatever the number of threads."""
    model, batch = adapted(family, lora_dropout=0.2).train(), collate(rows(family), 0)
    threads = torch.get_num_threads()

    def drawn(seed: int, at: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        with speed.fast_paths(model, device=CPU, precision="fp32", seed=seed) as paths:
            paths.dice.begin(*at)
            return step(model, batch, paths.forward)

    first = drawn(1, (5, 0))
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        again = drawn(1, (5, 0))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(first[0], again[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(first[1], again[1], rtol=1e-3, atol=1e-6)
    for other in (drawn(2, (5, 0)), drawn(1, (6, 0)), drawn(1, (5, 1))):
        assert not torch.allclose(first[0], other[0], rtol=1e-4)
