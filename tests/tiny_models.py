"""Tiny models of every supported family, with a tiny tokenizer, built in process and saved as a checkpoint.

For tests of whatever needs a model but not a good one: the weights are random (and the same every time).
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LongT5Config,
    LongT5ForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)
from transformers.utils import logging as transformers_logging

FAMILIES = ("t5", "flan-t5", "mt5", "umt5", "longt5", "bart", "mbart", "pegasus")

VOCABULARY = 400
#: Size of a token's state.
WIDTH = 32
#: How many positions the tiny BART, mBART and Pegasus have.
POSITIONS = 128

SENTENCES = [
    "How do I reset my password?",
    "Open Settings, choose Account and press Reset password; the mail arrives within 5 minutes.",
    "Where can I see my invoices?",
    "Your invoices are under Billing. The last 24 months are kept.",
    "The light on the device blinks red. What now?",
    "Red means no network: unplug it for 10 seconds and plug it in again.",
    "Can I change my plan in the middle of the month?",
    "Yes. The difference is credited on your next invoice.",
    "Which countries do you ship to?",
    "We ship to 31 countries; delivery takes 3 to 7 working days.",
]

_T5_SIZES = {
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "relative_attention_num_buckets": 8,
    "dropout_rate": 0.1,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_BART_SIZES = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "dropout": 0.1,
}


def tiny(family: str, folder: Path, width: int = WIDTH) -> Path:
    """Save a tiny model of the family, with its tokenizer, in the folder, and return the folder."""
    tokenizer = tiny_tokenizer(family)
    model = tiny_model(family, len(tokenizer), width)
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    if bars:
        transformers_logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
    return folder


def tiny_model(family: str, vocab_size: int = VOCABULARY, width: int = WIDTH) -> PreTrainedModel:
    """A tiny model of the family in eval mode, with the same weights every time."""
    inner = width * 3 // 2
    t5 = {**_T5_SIZES, "vocab_size": vocab_size, "d_model": width, "d_kv": width // 4, "d_ff": inner}
    bart = {
        **_BART_SIZES,
        "vocab_size": vocab_size,
        "d_model": width,
        "encoder_ffn_dim": inner,
        "decoder_ffn_dim": inner,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        match family:
            case "t5":
                model = T5ForConditionalGeneration(T5Config(**t5))
            case "flan-t5":
                # FLAN-T5's config.json says tie_word_embeddings: false, which transformers takes to mean that the
                # decoder's outputs are not scaled. It ties the head all the same; only a checkpoint with both weights,
                # and these different, unties it.
                config = T5Config(**t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
                model = _untied(T5ForConditionalGeneration(config))
            case "mt5":
                model = _untied(MT5ForConditionalGeneration(MT5Config(**t5)))
            case "umt5":
                model = _untied(UMT5ForConditionalGeneration(UMT5Config(**t5)))
            case "longt5":
                config = LongT5Config(**t5, local_radius=7, encoder_attention_type="local")
                model = LongT5ForConditionalGeneration(config)
            case "bart":
                model = BartForConditionalGeneration(
                    BartConfig(
                        **bart,
                        bos_token_id=0,
                        pad_token_id=1,
                        eos_token_id=2,
                        decoder_start_token_id=2,
                        forced_eos_token_id=2,
                    )
                )
                # What facebook/bart-large-cnn ships.
                taste = {"num_beams": 4, "no_repeat_ngram_size": 3, "length_penalty": 2.0, "early_stopping": True}
                model.generation_config.update(
                    **taste, min_length=56, max_length=142, forced_bos_token_id=0, forced_eos_token_id=2
                )
            case "mbart":
                model = MBartForConditionalGeneration(
                    MBartConfig(**bart, bos_token_id=0, pad_token_id=1, eos_token_id=2, forced_eos_token_id=2)
                )
            case "pegasus":
                model = PegasusForConditionalGeneration(
                    PegasusConfig(
                        **bart, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, forced_eos_token_id=1
                    )
                )
                model.generation_config.update(num_beams=8, length_penalty=0.8, max_length=64)
            case _:
                raise ValueError(f"no tiny {family}; there are {', '.join(FAMILIES)}")
        for weight in model.parameters():  # the usual 0.02 would make every answer the same token
            if weight.dim() > 1 and weight.requires_grad:
                nn.init.normal_(weight, std=0.3)
    return model.eval()


@functools.cache
def _trained(family: str) -> str:
    """A byte-level BPE tokenizer of the family's kind, as JSON."""
    fairseq = family in ("bart", "mbart")
    special = ["<s>", "<pad>", "</s>", "<unk>"] if fairseq else ["<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    extra = ["en_XX"] if family == "mbart" else []
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(extra), special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens(extra)
    template = {"bart": "<s> $A </s>", "mbart": "$A </s> en_XX"}.get(family, "$A </s>")
    ids = [(token, tokenizer.token_to_id(token)) for token in template.split() if token != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer.to_str()


def tiny_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A tokenizer trained on a few sentences, with the special tokens and the template of the family."""
    fairseq = family in ("bart", "mbart")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(family)),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        **({"bos_token": "<s>"} if fairseq else {}),
        **({"additional_special_tokens": ["en_XX"]} if family == "mbart" else {}),
    )


def _untied(model: PreTrainedModel) -> PreTrainedModel:
    """Give the model an output head of its own, as FLAN-T5, mT5 and umT5 have."""
    model.lm_head.weight = nn.Parameter(torch.empty_like(model.lm_head.weight))
    model.all_tied_weights_keys.pop("lm_head.weight", None)
    return model


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder, to be spoilt."""
    shutil.copytree(source, target)
    return target
