"""Dropout whose random numbers cost next to nothing.

PyTorch draws a number for each element, one at a time, through one generator: on a CPU that is a fifth to a third of
a training step. Here they come 32 at a time, and each call of a pass has a stream of its own, found by (seed, step,
pass, number of the call): nothing needs saving to resume, and nothing depends on the number of threads.

A decision takes 16 bits, so that the rate is a multiple of 1/65,536 (0.1 becomes 0.100006), and what is kept is scaled
by exactly that rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seqtune.engine.speed import native

LEVELS = 1 << 16


class Dice:
    """Where the run is, in random numbers: each `roll` is the next stream of the pass that `begin` named."""

    def __init__(self, seed: int):
        self.seed = seed
        self._first = 0
        self._calls = 0

    def begin(self, step: int, part: int) -> None:
        """The random numbers from here on are those of this optimizer step and this of its passes."""
        self._first = (step << 36) + (part << 20)
        self._calls = 0

    def roll(self) -> int:
        """The number of a stream that no other call has."""
        self._calls += 1
        return self._first + self._calls


def threshold(p: float) -> int:
    """The decisions below this, of 65,536, drop."""
    return round(p * LEVELS)


def keep_scale(p: float) -> float:
    """What is kept is multiplied by this, so that the mean stays."""
    return LEVELS / (LEVELS - threshold(p))


def gradient(ctx: Any, g: Tensor) -> Tensor:
    """What reaches the input of a dropout: the same numbers (``ctx.drawn``) over the gradient, in ``ctx.dtype``."""
    g = g.contiguous()
    gx = torch.empty_like(g, dtype=ctx.dtype)
    native.call("dropout_" + native.suffix(g, gx), g, gx, g.numel(), *ctx.drawn)
    return gx


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int, stream: int, out_dtype: torch.dtype) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x, dtype=out_dtype)
        ctx.drawn, ctx.dtype = (seed, stream, threshold(p), keep_scale(p)), x.dtype
        native.call("dropout_" + native.suffix(x, y), x, y, x.numel(), *ctx.drawn)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradient(ctx, gradients[0]), None, None, None, None


def dropout(x: Tensor, p: float, dice: Dice, out_dtype: torch.dtype | None = None) -> Tensor:
    """Each element of ``x`` is zero with probability ``p``, else scaled so that the mean stays.

    Args:
        x: fp32 or bf16, any shape, on the CPU.
        p: below 1, at least 0.
        dice: gives the stream of random numbers.
        out_dtype: fp32 or bf16; that of ``x`` unless given.
    """
    if native.kernels() is not None:
        return _Dropout.apply(x, p, dice.seed, dice.roll(), out_dtype or x.dtype)
    kept = torch.from_numpy(_decisions(dice, x.numel(), threshold(p))).view(x.shape)
    return (x * kept * keep_scale(p)).to(out_dtype or x.dtype)


@contextmanager
def cheap_dropout(dice: Dice) -> Iterator[None]:
    """Inside, ``torch.nn.functional.dropout`` draws from ``dice``; it is put back afterwards.

    One place serves every model: ``nn.Dropout``, PEFT's dropout and the functional calls in the models all go through
    this name. Tensors elsewhere than on the CPU, in other dtypes, or dropped in place, go to PyTorch's own.
    """
    own = F.dropout

    def from_dice(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0.0:
            return input
        if inplace or not native.takes(input) or not 0.0 < p < 1.0:
            return own(input, p, training, inplace)
        return dropout(input, p, dice)

    F.dropout = from_dice
    try:
        yield
    finally:
        F.dropout = own


def _decisions(dice: Dice, count: int, below: int) -> np.ndarray:
    """Without the kernels: NumPy's SFC64, seeded with the stream; uint8 [count], 1 where kept."""
    words = np.random.SFC64([dice.seed, dice.roll()]).random_raw((count + 3) // 4)
    return (words.view(np.uint16)[:count] >= below).view(np.uint8)
