"""What makes the fast engine fast: small named ways to compute the same (``tail``: on the average), all off with
``engine=reference``.

| name | what it does | where |
|---|---|---|
| ``products`` | fp32 products by oneDNN where that is faster and still fp32 | `products` |
| ``memory`` | large tensors in a pool of huge pages | `allocator` |
| ``rows`` | bf16: weights packed once, products for any number of rows | `linear` |
| ``weights`` | bf16: the other frozen weights cast once | `weights` |
| ``dropout`` | random numbers 32 at a time | `dropout` |
| ``norms`` | T5's norm in one pass | `norms` |
| ``residual`` | T5's norm, dropout and sum around a layer | `residual` |
| ``feed_forward`` | gated GELU, gate and dropout in one pass | `feed_forward` |
| ``attention`` | bias, mask, softmax and dropout in one pass | `attention` |
| ``lora`` | a layer and its adapter as one function | `lora` |
| ``head`` | output layer and loss without the logits | `head` |
| ``tail`` | bf16: the gradient of a long vocabulary's improbable words sampled | `head` |
| ``graphs`` | on a GPU: a pass's kernels recorded, and played as one | `graphs` |

On a GPU ``weights`` and ``head`` are the same, ``norms``, ``feed_forward``, ``attention`` and ``lora`` are `on_gpu`'s.

Batches sorted by length are `batching.epoch_order`'s. Every way hangs on objects of one model or is put back when the
`fast_paths` block ends; none copies a model's code. Before the first step the fast loss is compared with the plain one
(`agrees`), and where they differ, because transformers or the model is not what these ways were written for, the plain
path is taken, with a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from seqtune.engine import loss
from seqtune.engine.batching import IGNORED
from seqtune.engine.speed import on_gpu
from seqtune.engine.speed.allocator import pooled_memory
from seqtune.engine.speed.attention import fused_attention
from seqtune.engine.speed.dropout import Dice, cheap_dropout
from seqtune.engine.speed.feed_forward import fused_feed_forward
from seqtune.engine.speed.graphs import Graphs, can_be_recorded
from seqtune.engine.speed.head import can_stop_at_head, up_to_head, without_logits
from seqtune.engine.speed.linear import PackedWeight, any_rows, packed_weights
from seqtune.engine.speed.lora import fused_lora
from seqtune.engine.speed.norms import fused_norms
from seqtune.engine.speed.products import fast_fp32_products
from seqtune.engine.speed.residual import fused_residual
from seqtune.engine.speed.weights import bf16_weights
from seqtune.models import families
from seqtune.progress import say

__all__ = ["TRICKS", "Dice", "FastPaths", "agrees", "fast_paths", "under_autocast"]

TRICKS = (
    "memory",
    "products",
    "weights",
    "dropout",
    "norms",
    "residual",
    "feed_forward",
    "attention",
    "lora",
    "rows",
    "head",
    "tail",
    "graphs",
)

#: Largest difference of a row's fast loss from the plain one of the same precision, relative to that loss and a nat for
#: each of its tokens: what a model is sure of has losses so near to zero that rounding is most of them.
AGREEMENT = {"fp32": 1e-4, "bf16": 2e-2}


@dataclass(frozen=True)
class FastPaths:
    """What is on, inside a `fast_paths` block.

    Attributes:
        forward: row sums of the negative log-likelihood of a batch, as `loss.forward` gives them.
        dice: where the random numbers of dropout and ``tail`` come from; `Dice.begin` each pass.
        release: gives back the memory that is kept for speed alone; whether there was any.
    """

    forward: loss.Forward
    dice: Dice
    release: Callable[[], bool] = lambda: False


@contextmanager
def fast_paths(
    model: PeftModel, *, device: torch.device, precision: str, seed: int, without: Collection[str] = ()
) -> Iterator[FastPaths]:
    """Switch the fast ways on for this model; what was there before is put back afterwards.

    Args:
        model: with its adapter in it.
        device: CPU and CUDA have ways of their own; on others only ``weights`` and ``head`` apply.
        precision: ``fp32`` or ``bf16``.
        seed: of the random numbers.
        without: names of `TRICKS` to leave out; for measuring what each of them gains.
    """
    dice = Dice(seed)
    inner: Any = model.get_base_model()
    on_cpu = device.type == "cpu"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    packed: dict[int, PackedWeight] = {}

    def with_packed_weights() -> Any:
        packed.update(packed_weights(inner) if precision == "bf16" else {})
        return any_rows(inner, packed)

    ways: dict[str, Callable[[], Any]] = {}
    if on_cpu:
        ways = {
            "memory": pooled_memory,
            "products": lambda: fast_fp32_products(precision == "fp32"),
            "rows": with_packed_weights,
            "weights": lambda: bf16_weights(inner, packed),
            "dropout": lambda: cheap_dropout(dice),
            "norms": lambda: fused_norms(model, dtype),
            "residual": lambda: fused_residual(model, dice, dtype),
            "feed_forward": lambda: fused_feed_forward(model, dice, packed),
            "attention": lambda: fused_attention(inner, dice),
            "lora": lambda: fused_lora(model, dice, dtype, packed),
        }
    elif device.type == "cuda":
        ways = {
            "weights": lambda: bf16_weights(inner),
            "norms": lambda: on_gpu.norms(model, dtype),
            "feed_forward": lambda: on_gpu.feed_forward(model),
            "attention": on_gpu.attention,
            "lora": lambda: on_gpu.lora(model, dtype),
        }
    else:
        ways = {"weights": lambda: bf16_weights(inner)}
    if precision != "bf16":
        ways.pop("weights")
    chosen = [name for name in ways if name not in without]
    with ExitStack() as stack:
        for name in chosen:
            stack.enter_context(ways[name]())
        stop = "head" not in without and can_stop_at_head(inner)
        if not stop and "head" not in without:
            say("the output layer is no plain frozen one: its loss is worked out from whole logits, which is slower")
        played = device.type == "cuda" and stop and "graphs" not in without and can_be_recorded(inner)
        graphs = Graphs(up_to_head, inner.config.pad_token_id, families.position_limits(inner.config))
        sampling = None if "tail" in without else dice
        forward = without_logits(packed, graphs if played else up_to_head, sampling) if stop else loss.forward
        yield FastPaths(under_autocast(forward, device) if precision == "bf16" else forward, dice, graphs.release)


def under_autocast(forward: loss.Forward, device: torch.device) -> loss.Forward:
    """The same pass with its products in bf16. (A pass, not a run: autocast keeps its copies of weights so long.)"""

    def call(model: Any, batch: dict[str, Tensor]) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return forward(model, batch)

    return call


def agrees(model: PeftModel, batch: dict[str, Tensor], plain: Tensor, fast: FastPaths, precision: str) -> bool:
    """Whether the fast loss of a batch is the plain one, to `AGREEMENT`; dropout off.

    Args:
        model: in evaluation mode, inside the `fast_paths` block.
        batch: a few rows.
        plain: what `loss.forward` gave for them outside the block.
        fast: of the block.
        precision: ``fp32`` or ``bf16``.
    """
    with torch.inference_mode():
        found = fast.forward(model, batch)
    tokens_B = (batch["labels"] != IGNORED).sum(dim=1)
    return bool(((found - plain).abs() <= AGREEMENT[precision] * (plain.abs() + tokens_B)).all())
