"""A layer with its adapter, as `lora.lora_linear` computes it, against the same written out in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqtune.engine.speed import linear, native
from seqtune.engine.speed.dropout import Dice, keep_scale
from seqtune.engine.speed.linear import PackedWeight
from seqtune.engine.speed.lora import lora_linear

NATIVE = pytest.mark.skipif(native.kernels() is None, reason="no C compiler")
BF16 = pytest.mark.skipif(not linear.there(), reason="no bf16 units, or no C compiler")
WAYS = [pytest.param(torch.float32, marks=NATIVE), pytest.param(torch.bfloat16, marks=BF16)]
SIZES = [(1, 32, 32, 1), (31, 64, 96, 16), (333, 160, 64, 40), (70, 1056, 32, 8)]


def made(N: int, into: int, out: int, r: int, low: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, W, A, B and the gradient of y; what is computed in bf16 is rounded to it, so that only the sums differ."""
    generator = torch.Generator().manual_seed(N)
    x, W, A, B, g = (
        torch.randn(*shape, generator=generator) for shape in ((N, into), (out, into), (r, into), (out, r), (N, out))
    )
    x, g = x.to(low), g.to(low)
    return x.requires_grad_(), W.to(low), A.requires_grad_(), B.requires_grad_(), g


def near(found: Tensor, expected: Tensor, low: torch.dtype) -> None:
    bound = 1e-5 if low == torch.float32 else 1e-2
    assert float((found.double() - expected.double()).norm() / expected.double().norm()) < bound


@pytest.mark.parametrize("low", WAYS)
@pytest.mark.parametrize(("N", "into", "out", "r"), SIZES)
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_output_and_gradients(N: int, into: int, out: int, r: int, p: float, low: torch.dtype):
    x, W, A, B, g = made(N, into, out, r, low)
    packed = PackedWeight(W.float()) if low == torch.bfloat16 else W
    bias = torch.arange(out).to(low)
    kept = _kept(x, p, low)
    found = lora_linear(x, packed, bias, A, B, scaling=2.0, p=p, dice=Dice(0))
    wide = [t.detach().double().requires_grad_() for t in (x, A, B)]
    down = (wide[0] * kept) @ wide[1].t()
    expected = wide[0] @ W.double().t() + bias.double() + 2.0 * down @ wide[2].t()
    near(found, expected, low)
    ours = torch.autograd.grad(found, (x, A, B), g)
    theirs = torch.autograd.grad(expected, wide, g.double())
    for one, other in zip(ours, theirs, strict=True):
        near(one, other, low)


@pytest.mark.parametrize("low", WAYS)
def test_the_input_need_have_no_gradient(low: torch.dtype):
    x, W, A, B, g = made(40, 64, 64, 4, low)
    packed = PackedWeight(W.float()) if low == torch.bfloat16 else W
    with_one = torch.autograd.grad(lora_linear(x, packed, None, A, B, scaling=1.0, p=0.1, dice=Dice(3)), (A, B), g)
    x = x.detach()
    without = torch.autograd.grad(lora_linear(x, packed, None, A, B, scaling=1.0, p=0.1, dice=Dice(3)), (A, B), g)
    assert all(torch.equal(one, other) for one, other in zip(with_one, without, strict=True))


@pytest.mark.parametrize("low", WAYS)
def test_dropout_has_its_rate_and_no_pattern(low: torch.dtype):
    x = torch.ones(256, 128, dtype=low)
    kept = (_kept(x, 0.3, low) != 0).double()
    assert abs(float(kept.mean()) - 0.7) < 5 * (0.21 / kept.numel()) ** 0.5
    centred = kept - kept.mean()
    for down, along in ((1, 0), (32, 0), (0, 1), (0, 32), (1, 1)):  # neighbours, and the blocks that are drawn together
        other = centred[down:, along:]
        together = float((centred[: len(other), : other.shape[1]] * other).mean())
        assert abs(together) < 5 * 0.21 / other.numel() ** 0.5


def _kept(x: Tensor, p: float, low: torch.dtype) -> Tensor:
    """What dropout multiplies x by, fp64: seen through identities, with nothing added by the layer itself."""
    width = x.shape[1]
    nothing = torch.zeros(width, width, dtype=low)
    W = PackedWeight(nothing.float()) if low == torch.bfloat16 else nothing
    identity = torch.eye(width)
    seen = lora_linear(torch.ones_like(x), W, None, identity, identity, scaling=1.0, p=p, dice=Dice(0))
    return (seen != 0).double() * (keep_scale(p) if p else 1.0)
