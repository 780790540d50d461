"""T5's residual branches: norm, layer, dropout and sum with two passes over the residual stream instead of six.

``hidden + dropout(layer(norm(hidden)))`` is three modules and a sum in T5's code. Each of them reads and writes the
whole stream, in fp32, and the gradients that reach it on two ways are summed in yet another pass. Here dropout and sum
are one kernel, and the norm's backward pass adds what came past the norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seqtune.engine.speed import native
from seqtune.engine.speed.dropout import Dice, gradient, keep_scale, threshold
from seqtune.engine.speed.norms import is_rms_norm, rms_norm_past
from seqtune.engine.speed.patching import replaced_forward

#: T5's three kinds of branch and the name of the layer in each.
BRANCHES = {
    "LayerSelfAttention": "SelfAttention",
    "LayerCrossAttention": "EncDecAttention",
    "LayerFF": "DenseReluDense",
}

_SUMS = {"ff", "fb", "bb"}  # what kernels.c has


class _DropoutAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, x: Tensor, p: float, seed: int, stream: int) -> Tensor:
        base, x = base.contiguous(), x.contiguous()
        y = torch.empty_like(base)
        ctx.drawn, ctx.dtype = (seed, stream, threshold(p), keep_scale(p)), x.dtype
        native.call("dropout_add_" + native.suffix(base, x), base, x, y, x.numel(), *ctx.drawn)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], gradient(ctx, gradients[0]), None, None, None


def dropout_add(base: Tensor, x: Tensor, p: float, dice: Dice) -> Tensor:
    """``base + dropout(x)``, in the dtype of ``base``.

    Args:
        base: fp32, or bf16 where x is bf16.
        x: fp32 or bf16, of the same shape.
        p: of the dropout; 0 leaves it out.
        dice: gives the dropout's random numbers.
    """
    return _DropoutAdd.apply(base, x, p, dice.seed, dice.roll())


@contextmanager
def fused_residual(model: nn.Module, dice: Dice, compute_dtype: torch.dtype) -> Iterator[int]:
    """T5's residual branches computed with `dropout_add`; put back afterwards.

    Yields:
        How many there are.
    """
    found = [module for module in model.modules() if _is_branch(module)] if native.kernels() is not None else []
    with replaced_forward(found, lambda branch: _forward(branch, dice, compute_dtype)):
        yield len(found)


def _forward(branch: Any, dice: Dice, compute_dtype: torch.dtype) -> Any:
    own = branch.forward
    inner = getattr(branch, _inner_name(branch))
    norm = branch.layer_norm

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        # What else stands in the arguments (masks, biases, encoder states) is the layer's: T5 passes it on by name.
        if args or not native.takes(hidden_states):
            return own(hidden_states, *args, **kwargs)
        if "attention_mask" in kwargs:
            kwargs["mask"] = kwargs.pop("attention_mask")
        low = torch.bfloat16 if hidden_states.dtype == torch.bfloat16 else compute_dtype
        normed, hidden_states = rms_norm_past(hidden_states, norm.weight, norm.variance_epsilon, low)
        output = inner(normed, **kwargs)
        branched, *others = output if isinstance(output, tuple) else (output,)
        p = branch.dropout.p if branch.training else 0.0
        if native.suffix(hidden_states, branched) not in _SUMS:
            branched = branched.to(hidden_states.dtype)
        summed = dropout_add(hidden_states, branched, p, dice)
        return (summed, *others) if isinstance(output, tuple) else summed

    return forward


def _inner_name(branch: nn.Module) -> str:
    return next(inner for ending, inner in BRANCHES.items() if type(branch).__name__.endswith(ending))


def _is_branch(module: nn.Module) -> bool:
    """T5's and mT5's; umT5 and LongT5 hand the layer other arguments, so that theirs stay as they are."""
    name = type(module).__name__
    return (
        name.removeprefix("M") in {"T5" + ending for ending in BRANCHES}
        and isinstance(getattr(module, "dropout", None), nn.Dropout)
        and is_rms_norm(getattr(module, "layer_norm", nn.Identity()))
        and hasattr(module, _inner_name(module))
    )
