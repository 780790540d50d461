"""What makes the fast engine fast: small named switches, each with its reason, each off with ``engine=reference``.

Besides what stands here, the fast engine sorts rows by length within windows (`batching.epoch_order`). Not covered:
fused LoRA, a chunked output layer, cheap dropout, bf16 copies of the frozen weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft import PeftModel

#: Rows up to this many tokens are short: plain attention is the faster one.
SHORT = 256

#: Largest relative difference at which two ways to compute an fp32 product count as the same arithmetic. Rounding in
#: another order of summation gives about 1e-6; bf16 products give 4e-3.
SAME_ARITHMETIC = 2e-5


@contextmanager
def fast_fp32_products(enabled: bool) -> Iterator[bool]:
    """Send fp32 matrix products to oneDNN instead of MKL where that is still fp32 arithmetic; restore afterwards.

    MKL uses no AVX-512 on AMD processors. ``torch.set_float32_matmul_precision("medium")`` routes the products to
    oneDNN, which on some machines then computes in bf16: so the difference is measured, and the switch thrown only
    where the result is the same to `SAME_ARITHMETIC`.

    Yields:
        Whether the switch is on.
    """
    before = torch.get_float32_matmul_precision()
    on = enabled and _medium_is_fp32()
    torch.set_float32_matmul_precision("medium" if on else before)
    try:
        yield on
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def plain_attention(model: PeftModel, lengths: Sequence[int], enabled: bool) -> Iterator[bool]:
    """Compute attention with plain products where the inputs are short; put back afterwards what was there.

    The fused attention makes a tiny product for each row and head. With MKL both ways cost about the same; with oneDNN
    (`fast_fp32_products`) its set-up costs more than such a product, and a step of short rows is 1.4 to 1.8 times as
    fast with plain attention (``benchmarks/attention.py``). Both compute the same. Longer rows keep the fused one: it
    needs less memory.

    Args:
        model: the model, with its adapter in it.
        lengths: of the longer side of each training row, in tokens.
        enabled: False leaves everything as it is.

    Yields:
        Whether the switch is on.
    """
    inner: Any = model.get_base_model()
    before = inner.config._attn_implementation
    on = enabled and before == "sdpa" and bool(np.percentile(lengths, 95) <= SHORT)
    if on:
        inner.set_attn_implementation("eager")
    try:
        yield on
    finally:
        if on:
            inner.set_attn_implementation(before)


def _medium_is_fp32() -> bool:
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(192, 192, generator=generator) for _ in range(2))
    try:
        torch.set_float32_matmul_precision("highest")
        exact = left @ right
        torch.set_float32_matmul_precision("medium")
        fast = left @ right
    finally:
        torch.set_float32_matmul_precision(before)
    return float((exact - fast).abs().max() / exact.abs().max()) < SAME_ARITHMETIC
