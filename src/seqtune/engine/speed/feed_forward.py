"""T5's gated feed-forward layer: activation, gate and dropout in one pass; in bf16 the whole layer as one function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from seqtune.engine.speed import native
from seqtune.engine.speed.dropout import Dice, keep_scale, threshold
from seqtune.engine.speed.linear import PackedWeight, product
from seqtune.engine.speed.patching import replaced_forward


class _GatedGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, p: float, seed: int, stream: int) -> Tensor:
        a, b = a.contiguous(), b.contiguous()
        y = torch.empty_like(a)
        ctx.drawn = (seed, stream, threshold(p), keep_scale(p))
        native.call("gated_gelu_" + native.suffix(a), a, b, y, a.numel(), *ctx.drawn)
        ctx.save_for_backward(a, b)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        ga, gb = torch.empty_like(a), torch.empty_like(b)
        name = "gated_gelu_backward_" + native.suffix(a)
        native.call(name, gradients[0].contiguous(), a, b, ga, gb, a.numel(), *ctx.drawn)
        return ga, gb, None, None, None


class _FeedForward(torch.autograd.Function):
    """The whole layer with packed weights: x [N, I] bf16, W0 and W1 [F, I], W2 [I, F]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W0: PackedWeight, W1: PackedWeight, W2: PackedWeight, p: float, seed: int, stream: int
    ) -> Tensor:
        N, F = len(x), W0.shape[0]
        a, b = product(x, W0, x.new_empty(N, F)), product(x, W1, x.new_empty(N, F))
        y = torch.empty_like(a)
        ctx.drawn, ctx.weights = (seed, stream, threshold(p), keep_scale(p)), (W0, W1, W2)
        native.call("gated_gelu_b", a, b, y, a.numel(), *ctx.drawn)
        ctx.save_for_backward(a, b)
        return product(y, W2, x.new_empty(N, W2.shape[0]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        W0, W1, W2 = ctx.weights
        N, F = a.shape
        gy = product(gradients[0].contiguous(), W2, torch.empty_like(a), across=True)
        ga, gb = torch.empty_like(a), torch.empty_like(b)
        native.call("gated_gelu_backward_b", gy, a, b, ga, gb, a.numel(), *ctx.drawn)
        gx = a.new_empty(N, W0.shape[1])
        native.call("two_products_across_b", ga, W0.values, gb, W1.values, gx, N, W0.shape[1], F)
        return gx, None, None, None, None, None, None


def gated_gelu(a: Tensor, b: Tensor, p: float, dice: Dice) -> Tensor:
    """``dropout(gelu(a) · b)`` with GELU's tanh form (Hendrycks and Gimpel 2016, section 2; Shazeer 2020, GEGLU).

    Args:
        a: before the activation, fp32 or bf16, any shape.
        b: the gate, alike.
        p: of the dropout; 0 leaves it out.
        dice: gives the dropout's random numbers.
    """
    return _GatedGelu.apply(a, b, p, dice.seed, dice.roll())


@contextmanager
def fused_feed_forward(model: nn.Module, dice: Dice, weights: dict[int, PackedWeight]) -> Iterator[int]:
    """Gated feed-forward layers with GELU's tanh form computed by `gated_gelu`; put back afterwards.

    Args:
        model: the model.
        dice: gives the dropout's random numbers.
        weights: `linear.packed_weights` of the model, where these are on: the whole layer is one function then.

    Yields:
        How many there are.
    """
    found = [module for module in model.modules() if is_gated(module)] if native.kernels() is not None else []
    with replaced_forward(found, lambda module: _forward(module, dice, weights)):
        yield len(found)


def _forward(module: Any, dice: Dice, weights: dict[int, PackedWeight]) -> Any:
    own = module.forward
    packed = [weights.get(id(layer)) for layer in (module.wi_0, module.wi_1, module.wo)]
    whole = None not in packed and all(layer.bias is None for layer in (module.wi_0, module.wi_1, module.wo))

    def forward(hidden_states: Tensor) -> Tensor:
        if not native.takes(hidden_states):
            return own(hidden_states)
        p = module.dropout.p if module.training else 0.0
        if whole:
            x = hidden_states.to(torch.bfloat16).reshape(-1, hidden_states.shape[-1])
            y = _FeedForward.apply(x, *packed, p, dice.seed, dice.roll())
            return y.view(hidden_states.shape)
        a, b = module.wi_0(hidden_states), module.wi_1(hidden_states)
        return module.wo(gated_gelu(a, b, p, dice))

    return forward


def is_gated(module: nn.Module) -> bool:
    """Whether it is a layer that `gated_gelu` is part of."""
    return (
        type(module).__name__.endswith("T5DenseGatedActDense")
        and isinstance(getattr(module, "act", None), NewGELUActivation)
        and all(isinstance(getattr(module, name, None), nn.Module) for name in ("wi_0", "wi_1", "wo", "dropout"))
    )
