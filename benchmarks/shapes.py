"""The shapes that are measured, with random weights, so that nothing is downloaded; and the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

_T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 6, "num_layers": 8}
_T5_BASE = {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12, "num_layers": 12}
_T5_LARGE = {"d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_heads": 16, "num_layers": 24}
_FLAN = {"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0, "tie_word_embeddings": False}

#: The shapes of google/flan-t5-*, google/mt5-small and facebook/bart-base: model class and configuration.
SHAPES: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "flan-t5-small": (T5ForConditionalGeneration, T5Config(**_T5_SMALL, **_FLAN, vocab_size=32128)),
    "mt5-small": (MT5ForConditionalGeneration, MT5Config(**_T5_SMALL, **_FLAN, vocab_size=250112)),
    "flan-t5-base": (T5ForConditionalGeneration, T5Config(**_T5_BASE, **_FLAN, vocab_size=32128)),
    "flan-t5-large": (T5ForConditionalGeneration, T5Config(**_T5_LARGE, **_FLAN, vocab_size=32128)),
    "bart-base": (
        BartForConditionalGeneration,
        BartConfig(
            d_model=768, encoder_layers=6, decoder_layers=6, encoder_attention_heads=12, decoder_attention_heads=12,
            encoder_ffn_dim=3072, decoder_ffn_dim=3072, vocab_size=50265,
        ),
    ),
}  # fmt: skip


def build(shape: str, device: str = "cpu") -> PreTrainedModel:
    """A model of the shape with the same random weights every time (on one device), frozen, in evaluation mode."""
    kind, config = SHAPES[shape]
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        model = kind(config)
        # T5's first weights give logits of a size that no trained model has: a softmax all on one word.
        torch.nn.init.normal_(model.get_output_embeddings().weight, std=2 * config.d_model**-0.5)
    return model.requires_grad_(False).eval()


def rows(path: Path, input_key: str, output_key: str, number: int, vocabulary: int) -> list[dict[str, Any]]:
    """Rows of token ids: the lengths are those of seqtune-mini's tokenizer, the ids spread over the vocabulary."""
    from seqtune.data import tokens  # not above: it brings datasets and pyarrow into the memory that is measured
    from seqtune.models import loading

    found = json.loads(path.read_text(encoding="utf-8"))[:number]
    tokenizer = loading.load_tokenizer(loading.resolve("seqtune-mini"))
    spread = max(1, vocabulary // len(tokenizer))

    def spaced(ids: list[int]) -> list[int]:
        return [token * spread if token > 3 else token for token in ids]

    sources = tokens.encode(tokenizer, [row[input_key] for row in found])
    targets = tokens.encode_targets(tokenizer, [row[output_key] for row in found])
    return [{"input_ids": spaced(s), "labels": spaced(t)} for s, t in zip(sources, targets, strict=True)]
