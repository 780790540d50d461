from __future__ import annotations

import pytest
import torch

from seqtune.engine import hardware, speed
from seqtune.errors import InputError


def test_a_device_that_is_not_there_is_refused():
    wanted = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(InputError, match=f"device_type = {wanted}"):
        hardware.choose_device(wanted)
    assert hardware.choose_device("cpu") == torch.device("cpu")


def test_precision_has_a_reason():
    assert hardware.choose_precision("bf16", torch.device("cpu")) == {"value": "bf16", "reason": "given"}
    assert hardware.choose_precision("auto", torch.device("cpu"))["value"] == "fp32"


def test_seeded_puts_the_generator_back():
    before = torch.random.get_rng_state()
    with hardware.seeded(3, torch.device("cpu")):
        first = torch.rand(2)
    with hardware.seeded(3, torch.device("cpu")):
        assert torch.equal(first, torch.rand(2))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("enabled", [True, False])
def test_the_product_switch_is_put_back_and_stays_fp32(enabled: bool):
    before = torch.get_float32_matmul_precision()
    left, right = torch.randn(64, 256), torch.randn(256, 64)
    exact = left.double() @ right.double()
    with speed.fast_fp32_products(enabled) as on:
        assert enabled or not on
        found = left @ right
    assert torch.get_float32_matmul_precision() == before
    assert float((found - exact).abs().max() / exact.abs().max()) < speed.SAME_ARITHMETIC
