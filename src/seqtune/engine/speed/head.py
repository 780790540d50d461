"""The output layer and its loss without the logits: a few rows at a time, the gradient worked out on the way.

For mT5 the logits of one target token are a megabyte. The plain path holds them for every position of a padded batch,
three times over. Here padded positions are dropped first; then, chunk by chunk, one product gives the logits, one pass
turns them into exponentials, and one product with the same frozen weights gives the gradient with respect to the hidden
states, which is all that the backward pass needs (the idea of Liger Kernel's fused linear cross entropy, Hsu et al.
2024; the frozen head has no gradient of its own). Of a long vocabulary that gradient is sampled, where it saves time.

Shape suffixes: N target tokens that count, D width of the model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn

from seqtune.engine import loss
from seqtune.engine.batching import IGNORED
from seqtune.engine.speed import native
from seqtune.engine.speed.dropout import Dice
from seqtune.engine.speed.graphs import UpToHead
from seqtune.engine.speed.linear import PackedWeight, has_amx, product
from seqtune.engine.speed.patching import replaced_forward

#: Rows of logits in work at a time: fewer do not keep the vector units busy, more leave the cache. A GPU's are busy
#: with more, and half a gigabyte of logits (mT5, bf16) has room there.
CHUNK_ROWS = {"cpu": 256, "elsewhere": 1024}

#: The last chunk is filled up to a multiple of this: oneDNN compiles a kernel for each number of rows it meets.
STEP_ROWS = 64

#: Words of the vocabulary in work at a time, with a packed head: their exponentials stay in the cache.
VOCABULARY_PART = 1024

#: A total of exponentials above this is not trusted.
OVERFLOWS = 1e30

#: Words from which on a packed head's gradient is sampled: of fewer the whole costs no more. With AMX, whose products
#: are five times as fast, from far more on (worked out from the speed of both, not measured).
LONG_VOCABULARY = {"avx512": 4096, "amx": 100_000}

#: Share of all words but the label from which on a word always counts. It moves a step's gradient by a fiftieth to a
#: hundredth of what the choice of the step's rows moves it by (``benchmarks/agreement.py noise``).
TAIL = 2.0**-8


def up_to_head(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The hidden states that the model would give to its output layer, [B, T, D].

    The model's code is left by an exception: what it would do behind that layer is the caller's.
    """
    inner = _inner(model)
    with _stopping_at(inner.get_output_embeddings()):
        try:
            loss.forward(model, batch)
        except _HeadReached as reached:
            return reached.hidden
    raise RuntimeError(f"{type(inner).__name__} never called its output layer")


def without_logits(
    packed: Mapping[int, PackedWeight], hidden_states: UpToHead = up_to_head, dice: Dice | None = None
) -> loss.Forward:
    """What `loss.forward` gives, without the logits: row sums of the negative log-likelihood, fp32 [B].

    Args:
        packed: weights by the id of their layer; the head's is used if it is there.
        hidden_states: `up_to_head`, or what stands in for it.
        dice: with a packed head, the gradient of a long vocabulary's tail is drawn by its random numbers; None: whole.
    """

    def row_nll(model: Any, batch: dict[str, Tensor]) -> Tensor:
        inner = _inner(model)
        head = inner.get_output_embeddings()
        labels_BT = batch["labels"]
        hidden_BTD = hidden_states(model, batch)
        counts_BT = labels_BT != IGNORED
        hidden_ND, labels_N = hidden_BTD[counts_BT], labels_BT[counts_BT]
        bias_V = _bias(inner, head)
        if id(head) in packed and bias_V is None:
            long = len(head.weight) >= LONG_VOCABULARY["amx" if has_amx() else "avx512"]
            drawn = (dice.seed, dice.roll()) if dice is not None and long else None
            nll_N = packed_linear_cross_entropy(hidden_ND.bfloat16(), packed[id(head)], head.weight, labels_N, drawn)
        else:
            low = torch.get_autocast_dtype(hidden_ND.device.type)
            dtype = low if torch.is_autocast_enabled(hidden_ND.device.type) else head.weight.dtype
            nll_N = linear_cross_entropy(hidden_ND.to(dtype), head.weight.to(dtype), bias_V, labels_N)
        rows_N = torch.arange(len(labels_BT), device=labels_BT.device)[:, None].expand_as(labels_BT)[counts_BT]
        return nll_N.new_zeros(len(labels_BT)).index_add(0, rows_N, nll_N)

    return row_nll


def can_stop_at_head(model: Any) -> bool:
    """Whether `without_logits` knows this model: its output layer is a plain frozen linear layer."""
    head = model.get_output_embeddings()
    return type(head) is nn.Linear and not head.weight.requires_grad


def _inner(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


class _HeadReached(Exception):  # noqa: N818 (not an error: it carries the hidden states out of the model's forward)
    """Raised in place of the output layer."""

    def __init__(self, hidden: Tensor):
        super().__init__()
        self.hidden = hidden


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, W_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
        N, V = len(hidden_ND), len(W_VD)
        filled = -N % STEP_ROWS
        hidden = F.pad(hidden_ND, (0, 0, 0, filled))
        labels = F.pad(labels_N, (0, filled))
        nll = hidden.new_empty(N + filled, dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        chunk = CHUNK_ROWS["cpu" if hidden.device.type == "cpu" else "elsewhere"]
        logits = hidden.new_empty(min(chunk, N + filled), V)
        for start in range(0, N + filled, chunk):
            part = slice(start, min(N + filled, start + chunk))
            weighted = torch.mm(hidden[part], W_VD.t(), out=logits[: part.stop - start])
            weighted, inverse = _exponentials(weighted, labels[part], bias_V, nll[part])
            if gradient is not None:
                expected = (weighted.to(W_VD.dtype) @ W_VD).float().mul_(inverse[:, None])
                gradient[part] = expected.sub_(W_VD[labels[part]])
        nll, gradient = nll[:N], gradient if gradient is None else gradient[:N]
        ctx.save_for_backward(gradient)
        return nll

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0][:, None].to(gradient.dtype), None, None, None


class _PackedLinearCrossEntropy(torch.autograd.Function):
    """The same with a packed head, some thousand words of the vocabulary at a time.

    For each part of the vocabulary one product gives e^(logit - shift), without the logits ever being written, and one
    adds their share of Σ_v e^(logit_v - shift) W_v; as in attention, where the vocabulary would be keys and values. The
    shift is the label's logit, so that the largest exponential is at most e^(loss of the token): no maximum is needed,
    unless a loss is above 69 nats, which is then seen and computed again.

    With ``drawn`` the second product, half of all the work, is left out: of the exponentials those of at least `TAIL`
    of what all but the label came to so far count as they are, and a sample of the others, at a weight that keeps the
    mean (``tail.c``). The loss is not touched. Apple's Cut Cross-Entropy (Wijmans et al. 2024) drops blocks of small
    ones, which leaves a bias and, with a vocabulary of a few thousand words, hardly a block.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head: PackedWeight, W_VD: Tensor, labels_N: Tensor, drawn: tuple[int, int] | None
    ) -> Tensor:
        N, V = len(hidden_ND), len(W_VD)
        of_label_ND = W_VD[labels_N]
        label_N = (hidden_ND.float() * of_label_ND.bfloat16().float()).sum(dim=1)
        shift_N = label_N.clone()
        weights = hidden_ND.new_zeros(N, min(VOCABULARY_PART, len(head.values)))
        total_N = torch.zeros(N)
        expected_ND = torch.zeros(N, W_VD.shape[1]) if ctx.needs_input_grad[0] else None
        passed_N16 = torch.empty(N, 16) if drawn else None
        for last_try in (False, True):
            total_N.zero_()
            if expected_ND is not None:
                expected_ND.zero_()
            for start in range(0, V, VOCABULARY_PART):
                part = head.rows(start, start + VOCABULARY_PART)
                product(hidden_ND, part, weights[:, : part.shape[0]], exponentials=(shift_N, total_N))
                weights[:, part.shape[0] : len(part.values)] = 0  # a product over them reads whole panels
                if expected_ND is None:
                    continue
                if drawn is None or last_try:  # (then the label's is not 1)
                    product(weights, part, expected_ND, across=True, add=True)
                else:
                    words = W_VD[start : start + VOCABULARY_PART]
                    native.call(
                        "tail_b", weights, weights.stride(0), words, start, *words.shape, total_N, labels_N, TAIL,
                        passed_N16, expected_ND, N, *drawn,
                    )  # fmt: skip
            if last_try or not bool((total_N > OVERFLOWS).any()):
                break
            for row in (total_N > OVERFLOWS).nonzero().flatten().tolist():  # now the largest logit, as everybody takes
                shift_N[row] = (W_VD @ hidden_ND[row].float()).max()
        gradient = None
        if expected_ND is not None:
            if drawn is None or last_try:
                of_label_ND = of_label_ND.bfloat16().float()  # as in the product
            gradient = expected_ND.div_(total_N[:, None]).sub_(of_label_ND).to(hidden_ND.dtype)
        ctx.save_for_backward(gradient)
        return total_N.log() + shift_N - label_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *_LinearCrossEntropy.backward(ctx, *gradients), None, None


def packed_linear_cross_entropy(
    hidden_ND: Tensor, head: PackedWeight, W_VD: Tensor, labels_N: Tensor, drawn: tuple[int, int] | None = None
) -> Tensor:
    """`linear_cross_entropy` in bf16 of a head without bias, packed.

    Args:
        hidden_ND: bf16.
        head: of ``W_VD``.
        W_VD: fp32, frozen.
        labels_N: int64, each at least 0 and below V.
        drawn: seed and stream of the random numbers by which the gradient is sampled from the tail; None: the whole.
    """
    return _PackedLinearCrossEntropy.apply(hidden_ND.contiguous(), head, W_VD, labels_N.contiguous(), drawn)


def linear_cross_entropy(hidden_ND: Tensor, W_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each label under ``softmax(hidden Wᵀ + bias)``; fp32 [N]. W, bias frozen.

    The gradient with respect to a hidden state is ``Σ_v softmax_v · W_v − W_label``.

    Args:
        hidden_ND: fp32 or bf16.
        W_VD: of the same dtype.
        bias_V: fp32 or None.
        labels_N: int64, each at least 0 and below V.
    """
    return _LinearCrossEntropy.apply(hidden_ND.contiguous(), W_VD, bias_V, labels_N.contiguous())


@contextmanager
def _stopping_at(head: nn.Module) -> Iterator[None]:
    def stop(hidden_states: Tensor) -> Tensor:
        raise _HeadReached(hidden_states)

    with replaced_forward([head], lambda _: stop):
        yield


def _bias(model: Any, head: Any) -> Tensor | None:
    """What is added to the logits: the layer's own bias, BART's ``final_logits_bias``, both or (None) neither."""
    found = [bias for bias in (head.bias, getattr(model, "final_logits_bias", None)) if bias is not None]
    if not any(bool(bias.any()) for bias in found):
        return None
    return torch.stack([bias.float().reshape(-1) for bias in found]).sum(dim=0)


def _exponentials(logits_NV: Tensor, labels_N: Tensor, bias_V: Tensor | None, nll_N: Tensor) -> tuple[Tensor, Tensor]:
    """``e^(logit - c)`` for some c of each row, and 1 over their row sums; fills ``nll_N``. The logits may be gone."""
    if native.takes(logits_NV) and native.kernels() is not None:
        inverse_N = torch.empty(len(logits_NV), dtype=torch.float32)
        name = "cross_entropy_" + native.suffix(logits_NV)
        native.call(name, logits_NV, labels_N, bias_V, nll_N, inverse_N, *logits_NV.shape)
        return logits_NV, inverse_N
    if logits_NV.device.type == "cuda" and bias_V is None:
        with torch.autocast("cuda", enabled=False):  # it would cast all logits first; this is one kernel
            probabilities_NV = F.log_softmax(logits_NV, dim=1, dtype=torch.float32)
        nll_N.copy_(-probabilities_NV.gather(1, labels_N[:, None])[:, 0])
        return probabilities_NV.exp_(), torch.ones_like(nll_N)
    logits_NV = logits_NV.float() if bias_V is None else logits_NV.float() + bias_V
    top_N1 = logits_NV.amax(dim=1, keepdim=True)
    label_N = logits_NV.gather(1, labels_N[:, None])[:, 0]
    logits_NV.sub_(top_N1).exp_()
    sum_N = logits_NV.sum(dim=1)
    nll_N.copy_(sum_N.log() + top_N1[:, 0] - label_N)
    return logits_NV, 1.0 / sum_N
