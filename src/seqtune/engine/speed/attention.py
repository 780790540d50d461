"""Attention as one kernel: products, bias, mask, softmax and dropout, forward and backward.

PyTorch's fused attention takes its slow path on a CPU as soon as there is dropout, and T5's position bias becomes a
mask of its own for every layer. At the lengths of questions and answers the products are small, and what costs is
reading and writing the scores, some eight times each way. Here they never leave the cache (the idea of FlashAttention,
Dao et al. 2022), keys behind a causal query are not computed, and nothing but one number a query is kept for the
backward pass.

Registered with transformers under the name `NAME`, its official way to replace attention: no model is patched.

Shape suffixes: B rows, H heads, Q query positions, K key positions, D size of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from seqtune.engine.speed import linear, native
from seqtune.engine.speed.dropout import Dice, keep_scale, threshold

NAME = "seqtune"


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, causal: bool,
        scaling: float, p: float, seed: int, stream: int,
    ) -> Tensor:  # fmt: skip
        B, H, Q, D = q.shape
        K = k.shape[2]
        q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
        out = q.new_empty(B, Q, H, D)
        lse = torch.empty(B, H, Q, dtype=torch.float32)
        strides = torch.tensor([stride for x in (q, k, v) for stride in x.stride()[:3]])
        of_b, of_q = (mask.stride(0) if mask.shape[0] > 1 else 0, mask.stride(2)) if mask is not None else (0, 0)
        drawn = (seed, stream, threshold(p), keep_scale(p))
        ctx.how = (of_b, of_q, B, H, Q, K, D, int(causal), float(scaling), *drawn)
        tiles = q.dtype == torch.bfloat16 and D % linear.PAIRS == 0 and linear.there()
        name = "attention_tiles" if tiles else "attention_" + native.suffix(q)
        native.call(name, q, k, v, out, lse, strides, bias, mask, *ctx.how)
        ctx.save_for_backward(q, k, v, out if tiles else None, lse, strides, bias, mask)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, strides, bias, mask = ctx.saved_tensors
        g = gradients[0].contiguous()
        # dense [B, T, H, D], which is how the projections behind them want their gradients
        gq, gk, gv = (x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]) for x in (q, k, v))
        into = (lse, gq, gk, gv, strides, bias, mask, *ctx.how)
        if out is None:
            native.call("attention_backward_" + native.suffix(q), g, q, k, v, *into)
        else:
            native.call("attention_tiles_backward", g, out, q, k, v, *into)
        shaped = (x.transpose(1, 2) for x in (gq, gk, gv))
        return (*shaped, None, None, None, None, None, None, None)


def attention(
    q_BHQD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, *, dice: Dice, bias: Tensor | None = None,
    mask: Tensor | None = None, causal: bool = False, scaling: float = 1.0, p: float = 0.0,
) -> Tensor:  # fmt: skip
    """``dropout(softmax(scaling · q kᵀ + bias)) v`` (Vaswani et al. 2017, section 3.2.1), shape [B, Q, H, D].

    Args:
        q_BHQD: fp32 or bf16.
        k_BHKD: of the same dtype.
        v_BHKD: of the same dtype.
        dice: gives the dropout's random numbers.
        bias: fp32 [1, H, Q, K], frozen.
        mask: bool [B or 1, 1, Q, K], True where a key counts.
        causal: a query counts the keys up to its own position, the last query all of them.
        scaling: of the products.
        p: dropout on the probabilities.
    """
    if bias is not None:
        bias = bias.float().contiguous()
    if mask is not None and mask.stride(3) != 1:
        mask = mask.contiguous()
    return _Attention.apply(q_BHQD, k_BHKD, v_BHKD, bias, mask, causal, scaling, p, dice.seed, dice.roll())


@contextmanager
def fused_attention(model: PreTrainedModel, dice: Dice) -> Iterator[bool]:
    """The model's attention computed by `attention`; put back afterwards.

    Yields:
        Whether it is: models that do not go through transformers' attention interface keep their own.
    """
    before = str(model.config._attn_implementation)
    on = native.kernels() is not None and before in ("sdpa", "eager") and model._can_set_attn_implementation()
    if not on:
        yield False
        return

    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
        dropout: float = 0.0, scaling: float | None = None, is_causal: bool | None = None,
        position_bias: Tensor | None = None, **others: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        shapes_fit = key.shape[:2] == query.shape[:2] and (
            position_bias is None or position_bias.shape == (1, query.shape[1], query.shape[2], key.shape[2])
        )
        ours = (
            shapes_fit
            and native.takes(query)
            and query.dtype == key.dtype == value.dtype
            and not (position_bias is not None and position_bias.requires_grad)
            and (attention_mask is None or (attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1))
        )
        if not ours:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal,
                position_bias=position_bias, **others,
            )  # fmt: skip
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        output = attention(
            query,
            key,
            value,
            dice=dice,
            bias=position_bias,
            mask=attention_mask,
            causal=bool(causal) and attention_mask is None and query.shape[2] > 1,
            scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
            p=dropout,
        )
        return output, None

    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    try:
        yield True
    finally:
        model.set_attn_implementation(before)
