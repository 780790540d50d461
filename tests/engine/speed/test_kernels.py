"""Each kernel against the same thing written out in fp64."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seqtune.engine.speed import head, linear, native
from seqtune.engine.speed.allocator import pooled_memory
from seqtune.engine.speed.attention import attention
from seqtune.engine.speed.dropout import Dice
from seqtune.engine.speed.head import TAIL, linear_cross_entropy, packed_linear_cross_entropy
from seqtune.engine.speed.norms import rms_norm, rms_norm_past

NATIVE = pytest.mark.skipif(native.kernels() is None, reason="no C compiler")
BF16 = pytest.mark.skipif(not linear.there(), reason="no bf16 units, or no C compiler")
GENERATOR = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def near(found: Tensor, expected: Tensor, bound: float = 1e-5) -> None:
    assert float((found.double() - expected.double()).norm() / expected.double().norm()) < bound


@contextmanager
def units(amx: int) -> Iterator[None]:
    """With AMX where it is there, or without."""
    if not linear.there():
        yield
        return
    native.kernels().products_kind(amx and int(torch.cpu._init_amx()))
    try:
        yield
    finally:
        linear._units.cache_clear()
        linear.there()


def written_out(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, causal: bool, by: float):
    scores = q @ k.transpose(2, 3) * by
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e30)
    if causal:
        Q, K = scores.shape[-2:]
        scores = scores.masked_fill(~torch.ones(Q, K, dtype=torch.bool).tril(K - Q), -1e30)
    return (scores.softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize(
    ("low", "amx"),
    [
        pytest.param(torch.float32, 0, marks=NATIVE),
        pytest.param(torch.bfloat16, 0, marks=NATIVE),
        pytest.param(torch.bfloat16, 1, marks=BF16),
    ],
)
@pytest.mark.parametrize(
    ("B", "H", "Q", "K", "D", "causal", "masked", "biased"),
    [
        (2, 3, 7, 7, 8, True, False, True),
        (2, 2, 70, 70, 64, True, False, False),
        (3, 2, 40, 19, 64, False, True, True),
        (2, 2, 33, 100, 96, False, True, True),
        (1, 1, 1, 1, 64, True, False, True),
        (1, 2, 5, 9, 64, True, False, True),
        (1, 2, 9, 45, 32, True, False, False),
    ],
)
def test_attention(
    B: int, H: int, Q: int, K: int, D: int, causal: bool, masked: bool, biased: bool, low: torch.dtype, amx: int
):
    q, k, v = (drawn(B, length, H, D).to(low).transpose(1, 2).requires_grad_() for length in (Q, K, K))
    bias = drawn(1, H, Q, K) if biased else None
    lengths = torch.arange(1, B + 1)[:, None] * K // B
    mask = (torch.arange(K)[None] < lengths)[:, None, None, :].expand(B, 1, Q, K) if masked else None
    gradient = drawn(B, Q, H, D).to(low)
    with units(amx):
        found = attention(q, k, v, dice=Dice(0), bias=bias, mask=mask, causal=causal, scaling=0.3)
        ours = torch.autograd.grad(found, (q, k, v), gradient)
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    expected = written_out(*wide, None if bias is None else bias.double(), mask, causal, 0.3)
    bound = 1e-5 if low == torch.float32 else 1e-2
    near(found, expected, bound)
    theirs = torch.autograd.grad(expected, wide, gradient.double())
    for one, other in zip(ours, theirs, strict=True):
        assert float((one.double() - other).norm()) <= bound * float(other.norm()) + bound / 10


@NATIVE
@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
def test_a_query_that_may_look_at_nothing_gets_nothing(low: torch.dtype):
    q, k, v = (drawn(2, 2, 40, 64).to(low).requires_grad_() for _ in range(3))
    mask = torch.ones(2, 1, 40, 40, dtype=torch.bool)
    mask[1, :, 3] = False
    found = attention(q, k, v, dice=Dice(0), mask=mask)
    assert bool((found[1, 3] == 0).all())
    assert bool((found[0, 3] != 0).any())
    gradients = torch.autograd.grad(found, (q, k, v), torch.ones_like(found))
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert bool((gradients[0][1, :, 3] == 0).all())


@NATIVE
@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
def test_attentions_dropout_is_a_mask_on_the_probabilities(low: torch.dtype):
    """With the identity as values the output is the probabilities: each is 0 or its own, scaled."""
    B, H, Q, K, bound = 2, 2, 64, 64, 1e-5 if low == torch.float32 else 1e-2
    q, k = (drawn(B, H, T, 64).to(low).requires_grad_() for T in (Q, K))
    v = torch.eye(K, dtype=low).expand(B, H, K, 64).contiguous()
    plain = attention(q, k, v, dice=Dice(0), scaling=0.1)
    dropped = attention(q, k, v, dice=Dice(0), scaling=0.1, p=0.25)
    mask = (dropped != 0).double()
    torch.testing.assert_close(dropped.double(), plain.double() * mask / 0.75, rtol=bound, atol=1e-7)
    assert abs(float(mask.mean()) - 0.75) < 5 * math.sqrt(0.25 * 0.75 / mask.numel())
    assert not torch.equal(mask[:, :32], mask[:, 32:])
    assert not torch.equal(mask[..., :32], mask[..., 32:])
    gradient = drawn(*dropped.shape).to(low)
    found = torch.autograd.grad(dropped, (q, k), gradient)
    expected = torch.autograd.grad((plain * (mask / 0.75).to(low)), (q, k), gradient)
    for one, other in zip(found, expected, strict=True):
        near(one, other, bound * 2)


@NATIVE
@pytest.mark.parametrize(("low", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_norm(low: torch.dtype, bound: float):
    x, weight = drawn(5, 9, 96).requires_grad_(), drawn(96)
    wide = x.detach().double().requires_grad_()
    expected = weight.double() * wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    found = rms_norm(x, weight, 1e-6, low)
    assert found.dtype == low
    near(found, expected, bound)
    gradient = drawn(5, 9, 96)
    (exact,) = torch.autograd.grad(expected, wide, gradient.to(low).double(), retain_graph=True)
    near(torch.autograd.grad(found, x, gradient.to(low))[0], exact, bound)
    # The gradient that goes past the norm is added.
    normed, past = rms_norm_past(x, weight, 1e-6, low)
    near(torch.autograd.grad([normed, past], x, [gradient.to(low), gradient])[0], exact + gradient.double(), bound)
    (alone,) = torch.autograd.grad(rms_norm_past(x, weight, 1e-6, low)[1], x, gradient)
    assert torch.equal(alone, gradient)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=NATIVE), False])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("N", "D", "V"), [(1, 32, 17), (300, 64, 1111), (64, 32, 5000)])
def test_head(monkeypatch: pytest.MonkeyPatch, N: int, D: int, V: int, biased: bool, compiled: bool):
    if not compiled:
        monkeypatch.setattr(native, "kernels", lambda: None)
    hidden, W, labels = drawn(N, D).requires_grad_(), drawn(V, D), torch.randint(V, (N,), generator=GENERATOR)
    bias = drawn(V) if biased else None
    wide = hidden.detach().double().requires_grad_()
    logits = wide @ W.double().t() + (0 if bias is None else bias.double())
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    found = linear_cross_entropy(hidden, W, bias, labels)
    near(found, expected)
    weights = drawn(N)
    ours = torch.autograd.grad(found, hidden, weights)[0]
    near(ours, torch.autograd.grad(expected, wide, weights.double())[0])
    with torch.inference_mode():
        near(linear_cross_entropy(hidden.detach(), W, bias, labels), expected)


@BF16
@pytest.mark.parametrize(("N", "D", "V"), [(1, 32, 17), (70, 64, 1111), (33, 96, 2048), (5, 32, 5000)])
@pytest.mark.parametrize("size", [1.0, 60.0])
def test_packed_head(N: int, D: int, V: int, size: float):
    """In bf16, and with losses of hundreds of nats, for which the label's logit is no good shift."""
    hidden = (drawn(N, D) * size).bfloat16().requires_grad_()
    W, labels = drawn(V, D).bfloat16().float(), torch.randint(V, (N,), generator=GENERATOR)
    wide = hidden.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(wide @ W.double().t(), labels, reduction="none")
    found = packed_linear_cross_entropy(hidden, linear.PackedWeight(W), W, labels)
    assert size == 1.0 or float(expected.detach().max()) > 100
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-3)
    weights = drawn(N)
    ours = torch.autograd.grad(found, hidden, weights)[0]
    near(ours, torch.autograd.grad(expected, wide, weights.double())[0], 1e-2)
    again = packed_linear_cross_entropy(hidden, linear.PackedWeight(W), W, labels)
    assert torch.equal(found, again)
    with torch.inference_mode():
        assert torch.equal(packed_linear_cross_entropy(hidden.detach(), linear.PackedWeight(W), W, labels), found)


@BF16
@pytest.mark.parametrize(("N", "D", "V", "size"), [(70, 288, 5000, 1.0), (40, 32, 9001, 0.3), (5, 64, 5000, 60.0)])
def test_the_tail_of_a_vocabulary_is_sampled_without_bias(N: int, D: int, V: int, size: float):
    """The loss is the same to the bit; the gradient is off by a few hundredths, less and less on the average."""
    generator = torch.Generator().manual_seed(V)
    hidden = (torch.randn(N, D, generator=generator) * size / D**0.5).bfloat16().requires_grad_()
    W, labels = 2 * torch.randn(V, D, generator=generator), torch.randint(V, (N,), generator=generator)
    packed = linear.PackedWeight(W)

    def loss_and_gradient(at: tuple[int, int] | None) -> tuple[torch.Tensor, torch.Tensor]:
        found = packed_linear_cross_entropy(hidden, packed, W, labels, at)
        return found.detach(), torch.autograd.grad(found.sum(), hidden)[0].float()

    whole_loss, whole = loss_and_gradient(None)
    several = [loss_and_gradient((3, stream)) for stream in range(36)]
    assert all(torch.equal(found, whole_loss) for found, _ in several)
    off = [float((gradient - whole).norm() / whole.norm()) for _, gradient in several]
    assert max(off) < 0.08
    assert torch.equal(several[0][1], several[1][1]) == (size == 60.0)  # there the whole product was made
    mean = torch.stack([gradient for _, gradient in several]).mean(dim=0)
    assert float((mean - whole).norm() / whole.norm()) < max(max(off) / 4, 4e-3)  # 1 / sqrt(36), and bf16's rounding


@BF16
@pytest.mark.parametrize("part", [1024, 64])
def test_each_word_of_the_tail_has_its_share(monkeypatch: pytest.MonkeyPatch, part: int):
    """With weights that single the words out, the gradient is their probabilities: those below a 256th by the mean."""
    monkeypatch.setattr(head, "VOCABULARY_PART", part)
    words, times = 320, 400
    W = torch.eye(words)
    packed = linear.PackedWeight(W)
    hidden = torch.linspace(-1, 1, words).expand(16, words).bfloat16().requires_grad_()
    labels = torch.arange(16)
    probabilities = hidden[0].detach().float().softmax(0)
    assert int((probabilities >= TAIL).sum()) in range(1, words // 2)
    found = torch.zeros(words)
    for stream in range(times):
        nll = packed_linear_cross_entropy(hidden, packed, W, labels, (1, stream))
        gradient = torch.autograd.grad(nll.sum(), hidden)[0].float()
        gradient[labels, labels] += 1
        found += gradient.mean(dim=0) / times
    few = probabilities < TAIL
    deviation = (TAIL * probabilities / (16 * times)).sqrt()  # of taking TAIL with the probability p / TAIL
    assert float(((found - probabilities).abs() / deviation)[few].max()) < 5
    torch.testing.assert_close(found[~few], probabilities[~few], rtol=1e-2, atol=0)


@BF16
def test_of_a_sure_token_the_error_is_small_beside_its_gradient():
    """All but one in a thousand on the label: the others' shares are shares of that thousandth."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(5000, 64, generator=generator) / 8
    labels = torch.arange(40)
    hidden = (W[labels] * 16.5).bfloat16().requires_grad_()
    packed = linear.PackedWeight(W)

    def of(at: tuple[int, int] | None) -> tuple[torch.Tensor, torch.Tensor]:
        nll = packed_linear_cross_entropy(hidden, packed, W, labels, at)
        return nll.detach(), torch.autograd.grad(nll.sum(), hidden)[0].float()

    nll, whole = of(None)
    sure = (nll < 0.01) & (nll > 1e-4)
    assert int(sure.sum()) > 5
    off = [((of((1, stream))[1] - whole).norm(dim=1) / whole.norm(dim=1))[sure] for stream in range(8)]
    assert float(torch.stack(off).mean()) < 0.2


@BF16
def test_the_numbers_alone_decide_what_is_sampled():
    hidden = drawn(50, 64).bfloat16().requires_grad_()
    W, labels = drawn(5000, 64) / 4, torch.randint(5000, (50,), generator=GENERATOR)

    def gradient(*at: int) -> torch.Tensor:
        nll = packed_linear_cross_entropy(hidden, linear.PackedWeight(W), W, labels, at)
        return torch.autograd.grad(nll.sum(), hidden)[0]

    first, threads = gradient(1, 7), torch.get_num_threads()
    assert torch.equal(gradient(1, 7), first)
    assert not torch.equal(gradient(1, 8), first)
    assert not torch.equal(gradient(2, 7), first)
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        torch.testing.assert_close(gradient(1, 7), first, rtol=0.02, atol=0.02)
    finally:
        torch.set_num_threads(threads)


def test_head_with_logits_beyond_what_exp_can_take():
    hidden = torch.tensor([[300.0, 0.0], [0.0, -300.0]])
    W = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = linear_cross_entropy(hidden, W, None, torch.tensor([2, 0]))
    torch.testing.assert_close(found, torch.tensor([600.0, math.log(2)]))


@NATIVE
def test_what_is_no_number_stays_none():
    """A loss that is lost has to be seen: no kernel may turn a NaN into a number."""
    nan = torch.full((2, 2, 4, 64), math.nan)
    assert attention(nan, nan, nan, dice=Dice(0)).isnan().all()
    assert rms_norm(torch.full((3, 64), math.nan), torch.ones(64), 1e-6, torch.bfloat16).isnan().all()
    assert linear_cross_entropy(torch.full((2, 8), math.nan), drawn(5, 8), None, torch.tensor([0, 1])).isnan().all()
    if linear.there():
        W = drawn(64, 32)
        lost = torch.full((2, 32), math.nan, dtype=torch.bfloat16)
        for drawn_at in (None, (1, 0)):
            hidden = lost.clone().requires_grad_()
            nll = packed_linear_cross_entropy(hidden, linear.PackedWeight(W), W, torch.tensor([0, 1]), drawn_at)
            assert nll.isnan().all()
            assert torch.autograd.grad(nll.sum(), hidden)[0].isnan().all()


@pytest.mark.skipif(native.pool() is None, reason="no C++ compiler, or not Linux")
def test_the_pool_gives_back_what_it_took():
    outside = torch.ones(100_000)
    with pooled_memory() as on:
        assert on
        with pooled_memory() as again:  # one at a time: the second leaves the first in place
            assert not again
        inside = [torch.full((50_000 + 1000 * i,), float(i)) for i in range(20)]
        del inside[::2]
        more = [torch.full((60_000,), -1.0) for _ in range(30)]
        assert all(float(t.sum()) == t.numel() * float(t[0]) for t in inside + more)
        del outside  # from before, freed while the pool is there
        worker = torch.empty(1_000_000).resize_(2_000_000).fill_(2.0)
    assert [float(t[-1]) for t in inside] == [float(i) for i in range(1, 20, 2)]
    assert float(worker.mean()) == 2.0
    del inside, more, worker  # from the pool, freed when it has been left
    assert float(torch.ones(100_000).sum()) == 100_000


def test_a_broken_compiler_is_said_and_survived(tmp_path: Path):
    """In a process of its own: the libraries are looked for once."""
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\nif [ \"$1\" = --version ]; then echo 1; exit 0; fi\necho 'error: no' >&2; exit 1\n")
    compiler.chmod(0o755)
    code = "from seqtune import progress\nfrom seqtune.engine.speed import native\nassert native.kernels() is None\n"
    environment = {"CC": str(compiler), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "could not make the kernels, training is slower than it could be: error: no" in done.stderr + done.stdout
