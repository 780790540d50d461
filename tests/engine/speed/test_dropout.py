"""The random numbers: as many as promised, independent of each other, the same again for the same place in the run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from seqtune.engine.speed import native
from seqtune.engine.speed.dropout import Dice, cheap_dropout, dropout, keep_scale, threshold
from seqtune.engine.speed.feed_forward import gated_gelu
from seqtune.engine.speed.residual import dropout_add

COMPILED = native.kernels() is not None
WAYS = [pytest.param(True, marks=pytest.mark.skipif(not COMPILED, reason="no C compiler")), False]


@pytest.fixture(params=WAYS, ids=["compiled", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(native, "kernels", lambda: None)
    return request.param


def kept(p: float, shape: tuple[int, ...], dice: Dice) -> np.ndarray:
    return (dropout(torch.ones(shape), p, dice) > 0).numpy()


@pytest.mark.parametrize("p", [0.05, 0.1, 0.2, 0.5, 0.9])
def test_the_rate_is_the_one_asked_for(way: bool, p: float):
    """Five standard deviations: by chance once in 1.7 million."""
    dropped = 1 - kept(p, (2000, 1000), Dice(7)).mean()
    assert abs(dropped - p) < 5 * math.sqrt(p * (1 - p) / 2_000_000) + 1 / 65536


def test_the_mean_stays(way: bool):
    x = torch.randn(4000, 250, generator=torch.Generator().manual_seed(0)) + 3
    assert float(dropout(x, 0.3, Dice(1)).mean()) == pytest.approx(float(x.mean()), rel=3e-3)
    assert keep_scale(0.1) * (1 - threshold(0.1) / 65536) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("offset", [1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 512, 1023, 1024, 1025, 2048, 4096])
def test_neighbours_are_independent(way: bool, offset: int):
    """Correlation at a distance (of lanes, draws and blocks of the generator): within 5 deviations of 0."""
    flat = kept(0.1, (1 << 21,), Dice(3)).astype(np.float64)
    correlation = np.corrcoef(flat[:-offset], flat[offset:])[0, 1]
    assert abs(correlation) < 5 / math.sqrt(len(flat))


def test_streams_seeds_steps_and_passes_are_independent(way: bool):
    def drawn(seed: int, step: int, part: int, call: int) -> np.ndarray:
        dice = Dice(seed)
        dice.begin(step, part)
        for _ in range(call):
            dice.roll()
        return kept(0.2, (1 << 19,), dice).astype(np.float64)

    places = [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0), (0, 1 << 20, 0, 0)]
    all_of_them = np.stack([drawn(*place) for place in places])
    correlation = np.corrcoef(all_of_them) - np.eye(len(places))
    assert np.abs(correlation).max() < 5 / math.sqrt(1 << 19)
    assert np.array_equal(drawn(0, 1, 0, 0), all_of_them[3])


def test_runs_have_the_lengths_of_chance(way: bool):
    """Runs of kept elements are geometric: a chi-square over their lengths up to 20 (19 degrees, 1 in 10⁷ at 68)."""
    p = 0.2
    flat = kept(p, (1 << 21,), Dice(11))
    ends = np.flatnonzero(~flat)
    lengths = np.diff(ends) - 1
    counts = np.bincount(np.minimum(lengths, 20), minlength=21)[:20]
    expected = len(lengths) * p * (1 - p) ** np.arange(20)
    assert ((counts - expected) ** 2 / expected).sum() < 68


def test_the_backward_pass_drops_the_same(way: bool):
    x = torch.randn(33, 70, requires_grad=True)
    y = dropout(x, 0.4, Dice(5))
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    torch.testing.assert_close(x.grad * x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_stands_in_for_pytorchs(way: bool, dtype: torch.dtype):
    layer = torch.nn.Dropout(0.5)
    x = torch.ones(64, 64, dtype=dtype)
    with cheap_dropout(Dice(2)):
        first, second = layer(x), torch.nn.functional.dropout(x, 0.5)
        assert layer.eval()(x) is x
        assert torch.equal(torch.nn.functional.dropout(x, 1.0), torch.zeros_like(x))
        assert torch.nn.functional.dropout(x.double(), 0.5).dtype == torch.float64
    assert first.dtype == dtype
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(first, second)


@pytest.mark.skipif(not COMPILED, reason="no C compiler")
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_what_is_fused_with_dropout(p: float):
    """The same sum and the same activation as in steps, whatever was dropped."""
    base, x = (torch.randn(40, 96, dtype=torch.float32, requires_grad=True) for _ in range(2))
    y = dropout_add(base, x, p, Dice(1))
    mask = ((y - base).detach() != 0) * keep_scale(p)
    torch.testing.assert_close(y, base + x * mask)
    y.backward(base.detach())
    torch.testing.assert_close(base.grad, base.detach())
    torch.testing.assert_close(x.grad, base.detach() * mask)

    a, b = (torch.randn(40, 96, dtype=torch.float32, requires_grad=True) for _ in range(2))
    fused = gated_gelu(a, b, p, Dice(1))
    mask = (fused.detach() != 0) * keep_scale(p)
    plain = torch.nn.functional.gelu(a, approximate="tanh") * b * mask
    torch.testing.assert_close(fused, plain)
    for found, expected in zip(
        torch.autograd.grad(fused.sum(), (a, b)), torch.autograd.grad(plain.sum(), (a, b)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
