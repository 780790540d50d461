"""The loss: negative log-likelihood of the target tokens, in nats, as a *sum* with the number of tokens beside it.

A mean hides how many tokens it is over; sums add up. The gradient of an optimizer step is that of
``sum over all its passes / tokens over all its passes``, so that accumulating 1×8, 2×4 or 8×1 rows is the same step.

Shape suffixes: B rows, T target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from seqtune.engine.batching import IGNORED
from seqtune.models import families

#: Row sums of the negative log-likelihood of a batch, as `forward` gives them: (model, batch) → (B,).
Forward = Callable[[Any, dict[str, Tensor]], Tensor]


def target_nll(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Negative log-likelihood of each row's target tokens, in nats, summed over the row; shape (B,), fp32 or fp64.

    Positions labelled `IGNORED` count nothing. No label smoothing. bf16 logits are raised to fp32 first.
    """
    if logits_BTV.dtype != torch.float64:
        logits_BTV = logits_BTV.float()
    nll_BT = F.cross_entropy(
        logits_BTV.flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED, reduction="none"
    ).view(labels_BT.shape)
    return nll_BT.sum(dim=1)


def forward(model: PreTrainedModel | PeftModel, batch: dict[str, Tensor]) -> Tensor:
    """Row sums of the negative log-likelihood, shape (B,), of a teacher-forced pass.

    The labels are not given to the model: it would compute a mean of its own (which transformers' Trainer scales by
    the number of accumulated passes).
    """
    output = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        decoder_input_ids=families.decoder_input_ids(model, batch["labels"]),
        use_cache=False,
    )
    return target_nll(output.logits, batch["labels"])


def target_tokens(batch: dict[str, Tensor]) -> int:
    """How many positions of ``labels`` count."""
    return int((batch["labels"] != IGNORED).sum())


@torch.inference_mode()
def row_losses(
    model: PreTrainedModel | PeftModel, batch: dict[str, Tensor], forward: Forward = forward
) -> tuple[list[float], list[int]]:
    """Per row: the summed negative log-likelihood in nats, and the number of target tokens."""
    nll_B = forward(model, batch)
    tokens_B = (batch["labels"] != IGNORED).sum(dim=1)
    return nll_B.tolist(), tokens_B.tolist()
