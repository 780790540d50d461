"""fp32 products by oneDNN instead of MKL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Largest relative difference at which two ways to compute an fp32 product count as the same arithmetic. Rounding in
#: another order of summation gives about 1e-6; bf16 products give 4e-3.
SAME_ARITHMETIC = 2e-5

#: Shapes [rows, inner, columns] that the difference is measured on: oneDNN may choose other code for small products.
TRIED = ((64, 256, 64), (192, 192, 192), (512, 512, 1024))


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


def _medium_is_fp32() -> bool:
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    try:
        for rows, inner, columns in TRIED:
            left, right = (
                torch.randn(rows, inner, generator=generator),
                torch.randn(inner, columns, generator=generator),
            )
            torch.set_float32_matmul_precision("highest")
            exact = left @ right
            torch.set_float32_matmul_precision("medium")
            worst = max(worst, float((exact - left @ right).abs().max() / exact.abs().max()))
    finally:
        torch.set_float32_matmul_precision(before)
    return worst < SAME_ARITHMETIC
