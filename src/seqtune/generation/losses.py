"""What a model makes of given answers: their losses, in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqtune.engine import batching, loss


def score(
    model: PreTrainedModel | PeftModel, rows: Sequence[dict[str, Any]], pad_token_id: int, batch_size: int
) -> tuple[list[float], list[int]]:
    """For each tokenized row, in their order: its targets' negative log-likelihood in nats, and their number."""
    device = next(model.parameters()).device
    nll, tokens = [0.0] * len(rows), [0] * len(rows)
    for part in batching.by_length([len(row["input_ids"]) + len(row["labels"]) for row in rows], batch_size):
        row_nll, row_tokens = loss.row_losses(
            model, batching.collate([rows[row] for row in part], pad_token_id, device)
        )
        for row, value, count in zip(part, row_nll, row_tokens, strict=True):
            nll[row], tokens[row] = value, count
    return nll, tokens


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokenizer's padding id; 0 where it has none (padding is masked, so that its value never matters)."""
    pad = tokenizer.pad_token_id
    return pad if isinstance(pad, int) else 0
