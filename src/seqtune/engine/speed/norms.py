"""T5's norm in one pass forward and one backward, straight to the dtype that the next product wants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seqtune.engine.speed import native
from seqtune.engine.speed.patching import replaced_forward


class _RMSNorm(torch.autograd.Function):
    """Gives the norm of x, and x again: the gradient of that second output is added where the first one's is made."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        x = x.contiguous()
        y = torch.empty_like(x, dtype=out_dtype)
        width = x.shape[-1]
        rstd = torch.empty(x.numel() // width, dtype=torch.float32)
        native.call("rms_norm_" + native.suffix(x, y), x, weight, y, rstd, rstd.numel(), width, eps)
        ctx.save_for_backward(y, weight, rstd)
        ctx.dtype = x.dtype
        return y, x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, rstd = ctx.saved_tensors
        g, past = (None if gradient is None else gradient.contiguous() for gradient in gradients)
        if g is None:
            return past, None, None, None
        gx = torch.empty_like(g, dtype=ctx.dtype)
        name = "rms_norm_backward_" + native.suffix(gx, g)
        native.call(name, g, y, weight, rstd, past, gx, rstd.numel(), g.shape[-1])
        return gx, None, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype) -> Tensor:
    """``weight · x / sqrt(mean(x²) + eps)`` over the last axis (Zhang and Sennrich 2019, equation 4); weight frozen.

    Args:
        x: fp32 or bf16 [..., D].
        weight: fp32 [D], nowhere 0.
        eps: added to the mean square.
        out_dtype: fp32 or bf16; bf16 where x is bf16.
    """
    return rms_norm_past(x, weight, eps, out_dtype)[0]


def rms_norm_past(x: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`rms_norm` of x, and x itself for the way past the norm: use this one, and its gradient costs no pass."""
    return _RMSNorm.apply(x, weight, eps, out_dtype)


@contextmanager
def fused_norms(model: nn.Module, compute_dtype: torch.dtype) -> Iterator[int]:
    """The T5-style norms of the model (a weight, no mean, no shift) computed by `rms_norm`; put back afterwards.

    Their output is in ``compute_dtype``: under autocast each product behind a norm would cast it otherwise.

    Yields:
        How many norms there are.
    """
    norms = [module for module in model.modules() if is_rms_norm(module)] if native.kernels() is not None else []
    with replaced_forward(norms, lambda norm: _forward(norm, compute_dtype)):
        yield len(norms)


def _forward(norm: Any, compute_dtype: torch.dtype) -> Any:
    own = norm.forward

    def forward(hidden_states: Tensor) -> Tensor:
        if not native.takes(hidden_states):
            return own(hidden_states)
        out_dtype = torch.bfloat16 if hidden_states.dtype == torch.bfloat16 else compute_dtype
        return rms_norm(hidden_states, norm.weight, norm.variance_epsilon, out_dtype)

    return forward


def is_rms_norm(module: nn.Module) -> bool:
    """Whether it is a norm that `rms_norm` can stand in for."""
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__.endswith("T5LayerNorm")  # T5, mT5, umT5, LongT5; all the same few lines
        and isinstance(weight, Tensor)
        and weight.dtype == torch.float32
        and not weight.requires_grad
        and bool((weight != 0).all())  # the backward pass divides by it
    )
