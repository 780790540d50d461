"""bf16 products with frozen weights, for any number of rows (``products.c``)."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqtune.engine.speed import native
from seqtune.engine.speed.patching import replaced_forward

#: The inner size of a product has to be a multiple of this.
PAIRS = 32

#: Rows of a panel of a `PackedWeight`.
PANEL = 32


def there() -> bool:
    """Whether this processor has bf16 units that ``products.c`` knows, and the library is compiled.

    oneDNN's own switch for leaving AMX out is honoured (``ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16``).
    """
    return native.kernels() is not None and _units() > 0


def has_amx() -> bool:
    """Whether the products are AMX's; only where they are `there`."""
    return _units() == 2


@functools.cache
def _units() -> int:
    """What ``products_kind`` of products.c says; asked once, for it also sets what the products use."""
    library: Any = native.kernels()
    amx = "AMX" in os.environ.get("ONEDNN_MAX_CPU_ISA", "AMX").upper() and torch.cpu._init_amx()
    return library.products_kind(int(amx))


class PackedWeight:
    """A frozen weight W [N, K] in bf16 as the bf16 units want it, for products with W and with its transpose.

    K is a multiple of `PAIRS`. ``values`` [N', K] lies in panels of 32 of the N rows, the last filled up with zeros.
    """

    def __init__(self, W: Tensor):
        N, K = self.shape = W.shape
        self.values = torch.empty(-(-N // PANEL) * PANEL, K, dtype=torch.bfloat16)
        native.call("pack_weight", W.detach().bfloat16(), self.values, N, K)

    def rows(self, start: int, end: int) -> PackedWeight:
        """Those rows of it, without a copy; the first a multiple of `PANEL`."""
        part = object.__new__(PackedWeight)
        part.shape = torch.Size((min(end, self.shape[0]) - start, self.shape[1]))
        part.values = self.values[start:end]
        return part


def product(
    left: Tensor,
    right: Tensor | PackedWeight,
    out: Tensor,
    *,
    across: bool = False,
    add: bool = False,
    exponentials: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``out = left rightᵀ``, or ``left right`` with ``across``.

    Args:
        left: bf16 [M, K], rows dense; readable and zero up to the next multiple of `PAIRS` beyond K.
        right: bf16 [N, K], or [K, N] with ``across``; rows dense.
        out: bf16 or fp32 [M, N], rows dense.
        across: which way ``right`` is taken.
        add: to what ``out`` (fp32) holds.
        exponentials: (shift, totals), fp32 [M]: ``out`` (bf16) becomes e^(product - shift), and the sum of each of its
            rows is added to totals.
    """
    depth = right.shape[0] if across else right.shape[1]
    if isinstance(right, PackedWeight):
        first = (left, left.stride(0), right.values, right.shape[1], depth, 3 if across else 2)
    else:
        first = (left, left.stride(0), right, right.stride(0), depth, int(across))
    how = 3 if exponentials else 2 if add else int(out.dtype == torch.float32)
    shift, totals = exponentials or (None, None)
    native.call("product_b", *first, out, out.stride(0), how, *out.shape, shift, totals)
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W: PackedWeight, bias: Tensor | None) -> Tensor:
        ctx.W = W
        y = product(x, W, x.new_empty(x.shape[0], W.shape[0]))
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g = gradients[0].contiguous()
        return product(g, ctx.W, g.new_empty(g.shape[0], ctx.W.shape[1]), across=True), None, None


@contextmanager
def any_rows(model: PreTrainedModel, weights: dict[int, PackedWeight]) -> Iterator[int]:
    """Frozen linear layers computed by `product`, in bf16; put back afterwards. (The output layer is `head`'s.)

    Args:
        model: the model.
        weights: `packed_weights` of it.

    Yields:
        How many there are.
    """
    head = model.get_output_embeddings()
    found = [module for module in model.modules() if id(module) in weights and module is not head]
    # Layers inside an adapter's are computed by `lora.fused_lora`, where that is on, and do not come here.
    with replaced_forward(found, lambda layer: _forward(layer, weights[id(layer)])):
        yield len(found)


def packed_weights(model: PreTrainedModel) -> dict[int, PackedWeight]:
    """By the id of its module: the packed weight of every frozen linear layer that `product` can compute.

    Both sizes have to be multiples of `PAIRS`; of the output layer, which has no backward product by rows, the width.
    """
    if not there():
        return {}
    head = model.get_output_embeddings()
    shared: dict[int, PackedWeight] = {}
    found: dict[int, PackedWeight] = {}
    for module in model.modules():
        if type(module) is not nn.Linear or module.weight.requires_grad:
            continue
        W = module.weight
        fits = W.shape[1] % PAIRS == 0 and (module is head or W.shape[0] % PAIRS == 0)
        if fits and W.dtype == torch.float32 and W.device.type == "cpu":
            if id(W) not in shared:
                shared[id(W)] = PackedWeight(W)
            found[id(module)] = shared[id(W)]
    return found


def _forward(layer: Any, W: PackedWeight) -> Any:
    own = layer.forward

    def forward(x: Tensor) -> Tensor:
        if not native.takes(x):
            return own(x)
        flat = x.to(torch.bfloat16).reshape(-1, x.shape[-1])
        return _Linear.apply(flat, W, layer.bias).view(*x.shape[:-1], -1)

    return forward
