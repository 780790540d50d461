"""The compiled kernels by themselves: each against what PyTorch does in its place, one thread, time of the process.

    python benchmarks/operators.py [--precision fp32|bf16] [--repetitions 15]

The shapes are flan-t5-small's. Interleaved, medians; "differs" is the largest difference of the results over the
largest of PyTorch's (of a sampled gradient it is no error). The decoder's step is measured whole by ``generate.py``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seqtune.engine import hardware
from seqtune.engine.speed import attention, dropout, head, linear, native

DEFAULT_PRECISION = hardware.choose_precision("auto", torch.device("cpu"))["value"]
H, D, WIDTH, VOCABULARY = 6, 64, 512, 32128
Pair = tuple[Callable[[], list[Tensor]], Callable[[], list[Tensor]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default=DEFAULT_PRECISION)
    parser.add_argument("--repetitions", type=int, default=15)
    arguments = parser.parse_args()
    if native.kernels() is None:
        raise SystemExit("the kernels are not compiled here (no C compiler)")
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    print(f"{arguments.precision}, one thread\n")
    print(f"{'':<44}{'PyTorch ms':>11}{'here ms':>10}{'times':>8}{'differs':>10}")
    for name, (theirs, ours) in measured(dtype).items():
        seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
        for _ in range(arguments.repetitions):
            for way, do in (("theirs", theirs), ("ours", ours)):
                started = time.process_time()
                do()
                seconds[way].append(time.process_time() - started)
        there, here = statistics.median(seconds["theirs"]), statistics.median(seconds["ours"])
        pairs = zip(theirs(), ours(), strict=True)
        differs = [float((a.float() - b.float()).abs().max() / a.float().abs().max()) for a, b in pairs]
        compared = f"{max(differs):.1e}" if differs else "-"
        print(f"{name:<44}{there * 1e3:>11.2f}{here * 1e3:>10.2f}{there / here:>8.2f}{compared:>10}")


def measured(dtype: torch.dtype) -> dict[str, Pair]:
    torch.manual_seed(0)
    found: dict[str, Pair] = {}
    for length in (40, 120):
        for p in (0.0, 0.1):
            found[f"attention, 8 rows of {length}, dropout {p}"] = attentions(length, p, dtype)
    for rows in (300, 301, 1500):
        found[f"frozen layer {WIDTH} to 1024, {rows} rows"] = products(rows, dtype)
    found["output layer and loss, 240 tokens"] = losses(240, dtype)
    found["the same, the gradient's tail sampled"] = losses(240, dtype, (0, 0))
    return {name: pair for name, pair in found.items() if pair[1] is not pair[0]}


def attentions(length: int, p: float, dtype: torch.dtype) -> Pair:
    """Forward and backward. With dropout no two results are alike: none to compare."""
    q, k, v = (torch.randn(8, H, length, D, dtype=dtype, requires_grad=True) for _ in range(3))
    bias = torch.randn(1, H, length, length)
    g = torch.randn(8, length, H, D, dtype=dtype)
    dice = dropout.Dice(0)

    def result(out: Tensor) -> list[Tensor]:
        found = [out.detach(), *torch.autograd.grad(out, (q, k, v), g)]
        return found if p == 0 else []

    def theirs() -> list[Tensor]:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(dtype), dropout_p=p, scale=1.0)
        return result(mixed.transpose(1, 2))

    return theirs, lambda: result(attention.attention(q, k, v, dice=dice, bias=bias, p=p))


def products(rows: int, dtype: torch.dtype) -> Pair:
    """A frozen layer, forward and backward; new here only in bf16."""
    W = torch.randn(1024, WIDTH) / math.sqrt(WIDTH)
    low = W.to(dtype)
    x, g = torch.randn(rows, WIDTH, dtype=dtype), torch.randn(rows, 1024, dtype=dtype)

    def theirs() -> list[Tensor]:
        return [x @ low.t(), g @ low]

    if dtype != torch.bfloat16 or not linear.there():
        return theirs, theirs
    packed = linear.PackedWeight(W)

    def ours() -> list[Tensor]:
        return [
            linear.product(x, packed, x.new_empty(rows, 1024)),
            linear.product(g, packed, g.new_empty(rows, WIDTH), across=True),
        ]

    return theirs, ours


def losses(tokens: int, dtype: torch.dtype, drawn: tuple[int, int] | None = None) -> Pair:
    """The loss of each token and the gradient of the hidden states, against logits held whole in fp32."""
    W = torch.randn(VOCABULARY, WIDTH) / math.sqrt(WIDTH)
    low = W.to(dtype)
    hidden = torch.randn(tokens, WIDTH, dtype=dtype, requires_grad=True)
    labels = torch.randint(VOCABULARY, (tokens,))
    packed = linear.PackedWeight(W) if dtype == torch.bfloat16 and linear.there() else None
    if drawn and packed is None:  # new here only in bf16
        return list, list

    def result(nll: Tensor) -> list[Tensor]:
        return [nll.detach(), *torch.autograd.grad(nll.sum(), hidden)]

    def ours() -> list[Tensor]:
        if packed is None:
            return result(head.linear_cross_entropy(hidden, low, None, labels))
        return result(head.packed_linear_cross_entropy(hidden, packed, W, labels, drawn))

    return lambda: result(F.cross_entropy((hidden @ low.t()).float(), labels, reduction="none")), ours


if __name__ == "__main__":
    main()
