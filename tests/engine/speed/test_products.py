from __future__ import annotations

import pytest
import torch

from seqtune.engine.speed import linear, native
from seqtune.engine.speed.products import SAME_ARITHMETIC, fast_fp32_products


@pytest.mark.parametrize("enabled", [True, False])
def test_the_product_switch_is_put_back_and_stays_fp32(enabled: bool):
    before = torch.get_float32_matmul_precision()
    left, right = torch.randn(64, 256), torch.randn(256, 64)
    exact = left.double() @ right.double()
    with fast_fp32_products(enabled) as on:
        assert enabled or not on
        found = left @ right
    assert torch.get_float32_matmul_precision() == before
    assert float((found - exact).abs().max() / exact.abs().max()) < SAME_ARITHMETIC


@pytest.mark.skipif(not linear.there(), reason="no bf16 units, or no C compiler")
class TestProduct:
    """`linear.product` against fp64: sums in fp32 leave 1e-6."""

    @pytest.mark.parametrize("amx", [0, 1])
    @pytest.mark.parametrize(
        ("M", "N", "K"), [(1, 32, 32), (31, 40, 64), (150, 384, 512), (65, 96, 2080), (70, 8, 1056)]
    )
    def test_both_ways_and_any_number_of_rows(self, M: int, N: int, K: int, amx: int):
        generator = torch.Generator().manual_seed(M)
        left, right = (torch.randn(rows, K, generator=generator).bfloat16() for rows in (M, N))
        expected = left.double() @ right.double().t()
        out = torch.empty(M, N)
        native.kernels().products_kind(amx and int(torch.cpu._init_amx()))
        try:
            _near(linear.product(left, right, out), expected)
            _near(linear.product(left, right.t().contiguous(), out, across=True), expected)
            _near(linear.product(left, right, out.bfloat16()), expected, 4e-3)
            if N % 32 == 0:
                weight = linear.PackedWeight(right.float())
                _near(linear.product(left, weight, out), expected)
                back = torch.randn(M, N, generator=generator).bfloat16()
                found = linear.product(back, weight, torch.empty(M, K), across=True)
                _near(found, back.double() @ right.double())
        finally:
            linear._units.cache_clear()
            linear.there()

    def test_nothing_is_written_beside_the_result(self):
        wide = torch.full((40, 100), 7.0)
        linear.product(torch.ones(40, 32).bfloat16(), torch.ones(50, 32).bfloat16(), wide[:, 10:60])
        assert torch.equal(wide[:, 10:60], torch.full((40, 50), 32.0))
        assert bool((wide[:, :10] == 7).all())
        assert bool((wide[:, 60:] == 7).all())

    def test_an_inner_size_that_is_no_multiple_of_32(self):
        """Rows of the second factor as the inner axis: the first is zero behind them."""
        left = torch.zeros(16, 64, dtype=torch.bfloat16)
        left[:, :45] = torch.randn(16, 45, generator=torch.Generator().manual_seed(0))
        right = torch.randn(45, 96, generator=torch.Generator().manual_seed(1)).bfloat16()
        found = linear.product(left, right, torch.empty(16, 96), across=True)
        _near(found, left[:, :45].double() @ right.double())


def _near(found: torch.Tensor, expected: torch.Tensor, bound: float = 1e-6) -> None:
    assert float((found.double() - expected).norm() / expected.norm()) < bound
