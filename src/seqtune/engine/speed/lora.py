"""A linear layer with its LoRA update as one function with a backward pass of its own.

PEFT's layer is a dozen operators forward and two dozen backward, each over a whole tensor, and with an adapter in fp32
over a base in bf16 it casts the input up and the update down again. Unsloth showed on GPUs that one function does
(Han and Han 2023); this is the same idea for a CPU, with dropout.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from seqtune.engine.speed import native
from seqtune.engine.speed.dropout import Dice, keep_scale, threshold
from seqtune.engine.speed.linear import PAIRS, PackedWeight
from seqtune.engine.speed.patching import replaced_forward


class _LoraLinear(torch.autograd.Function):
    """Shapes: x [N, I], W [O, I], A [r, I], B [O, r]; y [N, O]. In fp32, and where `linear.product` does not fit."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scaling: float, p: float,
        seed: int, stream: int,
    ) -> Tensor:  # fmt: skip
        ctx.drawn = (seed, stream, threshold(p), keep_scale(p)) if p else None
        A_low, B_low = A.to(x.dtype), (B * scaling).to(x.dtype)
        h = F.linear(_dropped(x, ctx.drawn), A_low)
        y = F.linear(x, W, bias)
        y.addmm_(h, B_low.t())
        ctx.save_for_backward(x, W, A_low, B_low, h)
        ctx.scaling = scaling
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, W, A_low, B_low, h = ctx.saved_tensors
        g = gradients[0].contiguous()
        gh = g @ B_low
        gB = (g.t() @ h).float().mul_(ctx.scaling)
        gA = (gh.t() @ _dropped(x, ctx.drawn)).float()
        gx = _input_gradient(g @ W, gh @ A_low, ctx.drawn) if ctx.needs_input_grad[0] else None
        return gx, None, None, gA, gB, None, None, None, None


class _LoraLinearAnyRows(torch.autograd.Function):
    """The same with a packed weight, x in bf16: one call each way (``lora.c``). h has zeros behind its r columns."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W: PackedWeight, bias: Tensor | None, A: Tensor, B: Tensor, scaling: float, p: float,
        seed: int, stream: int,
    ) -> Tensor:  # fmt: skip
        x = x.contiguous()
        (N, into), out, r = x.shape, len(B), len(A)
        ctx.W, ctx.how = W, (N, into, out, r, scaling, seed, stream, threshold(p), keep_scale(p))
        h, y = x.new_empty(N, -(-r // PAIRS) * PAIRS), x.new_empty(N, out)
        native.call("lora_forward", x, W.values, A, B, h, y, *ctx.how)
        ctx.save_for_backward(x, A, B, h)
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, A, B, h = ctx.saved_tensors
        g, gh, gA, gB = gradients[0].contiguous(), torch.empty_like(h), torch.empty_like(A), torch.empty_like(B)
        gx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        native.call("lora_backward", g, x, ctx.W.values, A, B, h, gh, gx, gA, gB, *ctx.how)
        return gx, None, None, gA, gB, None, None, None, None


def _input_gradient(base: Tensor, update: Tensor, drawn: tuple[int, int, int, float] | None) -> Tensor:
    """``base + dropout(update)``, in the place of base."""
    if drawn is None:
        return base.add_(update)
    native.call("dropout_add_" + native.suffix(base, update), base, update, base, base.numel(), *drawn)
    return base


def _dropped(x: Tensor, drawn: tuple[int, int, int, float] | None) -> Tensor:
    if drawn is None:
        return x
    y = torch.empty_like(x)
    native.call("dropout_" + native.suffix(x, y), x, y, x.numel(), *drawn)
    return y


def lora_linear(
    x: Tensor,
    W: Tensor | PackedWeight,
    bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    *,
    scaling: float,
    p: float,
    dice: Dice,
) -> Tensor:
    """``x Wᵀ + bias + scaling · (dropout(x) Aᵀ) Bᵀ`` (Hu et al. 2021, equation 3); W and bias frozen.

    Args:
        x: fp32 or bf16 [..., I].
        W: of the dtype of x, [O, I]; packed where x is bf16.
        bias: of the dtype of x, [O], or None.
        A: fp32 [r, I], dense.
        B: fp32 [O, r], dense.
        scaling: alpha / r, or alpha / sqrt(r).
        p: dropout on the input of the update; 0 leaves it out.
        dice: gives the dropout's random numbers.
    """
    flat = x.reshape(-1, x.shape[-1])
    function = _LoraLinearAnyRows if isinstance(W, PackedWeight) else _LoraLinear
    y = function.apply(flat, W, bias, A, B, scaling, p, dice.seed, dice.roll())
    return y.view(*x.shape[:-1], y.shape[-1])


@contextmanager
def fused_lora(
    model: nn.Module, dice: Dice, compute_dtype: torch.dtype, weights: dict[int, PackedWeight]
) -> Iterator[int]:
    """Plain LoRA on linear layers computed by `lora_linear`; put back afterwards. DoRA and other variants are left.

    Args:
        model: with its adapter in it.
        dice: gives the dropout's random numbers.
        compute_dtype: of the products.
        weights: `linear.packed_weights` of the model, where these are on.

    Yields:
        How many layers there are.
    """
    found = [module for module in model.modules() if is_plain_lora(module)] if native.kernels() is not None else []
    with replaced_forward(found, lambda layer: _forward(layer, dice, compute_dtype, weights)):
        yield len(found)


def _forward(layer: Any, dice: Dice, compute_dtype: torch.dtype, weights: dict[int, PackedWeight]) -> Any:
    own = layer.forward
    (name,) = layer.active_adapters
    down, up, dropout = layer.lora_A[name], layer.lora_B[name], layer.lora_dropout[name]

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base = layer.base_layer
        if args or kwargs or not native.takes(x) or layer.disable_adapters or layer.merged:
            return own(x, *args, **kwargs)
        if down.weight.dtype != torch.float32 or up.weight.dtype != torch.float32:  # what the kernels read
            return own(x, *args, **kwargs)
        x = x.to(compute_dtype)
        W: Any = weights.get(id(base), base.weight)
        if isinstance(W, Tensor) and W.dtype != compute_dtype:
            return own(x, *args, **kwargs)
        p = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        bias = base.bias.to(compute_dtype) if base.bias is not None else None
        scaling = float(layer.scaling[name])
        return lora_linear(x, W, bias, down.weight, up.weight, scaling=scaling, p=p, dice=dice)

    return forward


def is_plain_lora(module: nn.Module) -> bool:
    """Whether it is a linear layer with one adapter of the plain kind: no DoRA, no bias of its own."""
    if not (isinstance(module, LoraLinear) and type(module.base_layer) is nn.Linear):
        return False
    active = module.active_adapters
    return (
        len(active) == 1
        and active[0] in module.lora_A
        and active[0] not in module.lora_variant
        and module.lora_A[active[0]].bias is None
        and module.lora_B[active[0]].bias is None
    )
