"""Forgetting: what a model makes of general questions that have nothing to do with the data it was tuned on.

A model tuned on support tickets may lose what its base could do. Both models get the same small fixed set
(``general.jsonl``: facts, sums, opposites, rewording, translation, reading; written for this purpose), and the loss of
the wanted answers is compared. A loss and no score, for a small base may not answer one of them right and can still
lose. Not covered: what exactly was lost; whether the loss went up because the tuned model writes in another style.
"""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqtune import generation, metrics
from seqtune.data import tokens


def rows() -> list[dict[str, str]]:
    """The set: ``question`` and ``answer``, in a fixed order."""
    text = importlib.resources.files("seqtune").joinpath("general.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def compared(
    base: PreTrainedModel | PeftModel,
    tuned: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
) -> dict[str, Any]:
    """``rows``, and for ``base`` and ``tuned`` the ``loss`` (nats a token) and ``bits_per_byte`` of the answers."""
    pairs = rows()
    sources = tokens.encode(tokenizer, [row["question"] for row in pairs])
    targets = tokens.encode_targets(tokenizer, [row["answer"] for row in pairs])
    encoded = [{"input_ids": ids, "labels": labels} for ids, labels in zip(sources, targets, strict=True)]
    size = sum(len(row["answer"].encode()) for row in pairs)
    found: dict[str, Any] = {"rows": len(pairs)}
    for name, model in (("base", base), ("tuned", tuned)):
        nll, count = generation.score(model, encoded, generation.pad_token_id(tokenizer), batch_size)
        found[name] = {"loss": sum(nll) / sum(count), "bits_per_byte": metrics.bits_per_byte(sum(nll), size)}
    return found
