"""From a checkpoint on this disk to a tokenizer and a model.

Weights are read from safetensors alone and no code that comes with a model is ever run.

Here too, so that callers need one import: finding the checkpoint (`checkpoint.resolve`), several module trees over one
set of weights (`sharing.shared_copy`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seqtune.errors import InputError
from seqtune.models import quantized
from seqtune.models.checkpoint import DEFAULT_MODEL, EMBEDDED, BaseCheckpoint, embedded_folder, resolve
from seqtune.models.quiet import quiet
from seqtune.models.sharing import shared_copy, weights_sha256

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "DEFAULT_MODEL",
    "EMBEDDED",
    "BaseCheckpoint",
    "check_fit",
    "embedded_folder",
    "load_fitting_tokenizer",
    "load_model",
    "load_tokenizer",
    "resolve",
    "shared_copy",
    "weights_sha256",
]


def load_tokenizer(checkpoint: BaseCheckpoint) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    For one that marks languages (mBART, M2M100, NLLB), answers are taken to be in the language of the questions unless
    the checkpoint says otherwise.

    Raises:
        InputError: its files can't be read, or it has no padding token.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint.tokenizer_path, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and tokenizers' bare Exception
        raise InputError(
            f"{checkpoint.tokenizer_id}: the tokenizer can't be loaded",
            [f"from {checkpoint.tokenizer_path}", *str(error).splitlines()[:3]],
            "Give --model-id-tokenizer a model with a tokenizer that transformers knows; code that comes with a model "
            "is not run.",
        ) from None
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"{checkpoint.tokenizer_id}: the tokenizer has no padding token",
            mend="Use the tokenizer the model was trained with; that of an encoder-decoder model has one.",
        )
    if getattr(tokenizer, "src_lang", None) and hasattr(tokenizer, "tgt_lang") and not tokenizer.tgt_lang:
        tokenizer.tgt_lang = tokenizer.src_lang
    return tokenizer


def load_fitting_tokenizer(checkpoint: BaseCheckpoint) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, checked against the model's configuration.

    Raises:
        InputError: as `load_tokenizer` and `check_fit`.
    """
    from transformers import AutoConfig

    tokenizer = load_tokenizer(checkpoint)
    check_fit(AutoConfig.from_pretrained(checkpoint.path, local_files_only=True), tokenizer)
    return tokenizer


def load_model(checkpoint: BaseCheckpoint, device: torch.device) -> PreTrainedModel:
    """The model of a checkpoint in fp32 (or 4 bits) on a device, in eval mode, every parameter frozen.

    Raises:
        InputError: the files can't be read, or lack weights that the architecture needs; or it is to be in 4 bits and
            that can't be done here.
    """
    import torch
    from transformers import AutoModelForSeq2SeqLM

    options = quantized.options(device) if checkpoint.load_in_4bit else {}
    try:
        with quiet():
            model, info = AutoModelForSeq2SeqLM.from_pretrained(
                checkpoint.path,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # reported below, with the missing ones, rather than at the first
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # safetensors, transformers and torch each raise their own
        raise InputError(
            f"{checkpoint.model_id}: the model can't be loaded",
            [f"from {checkpoint.path}", *str(error).splitlines()[:3]],
            "If it was downloaded or copied, do that again: a file may be cut short.",
        ) from None
    # What is missing would be filled with random numbers. What is there beyond need (a classifier's head) does no harm.
    missing = set(info["missing_keys"])
    if checkpoint.architecture in ("T5Model", "MT5Model") and not getattr(model.config, "scale_decoder_outputs", False):
        # These have a head of their own (unlike the first T5, which scales its outputs instead). Where a checkpoint was
        # saved without it, transformers puts the embedding in its place without a word.
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        missing |= {"lm_head.weight"} if head.weight is embedding.weight else set()
    problems = [f"missing   {name}" for name in sorted(missing)]
    for each in sorted(info["mismatched_keys"], key=str):
        name, found, expected = each[:3]
        problems.append(f"{name}   found {tuple(found)}, expected {tuple(expected)} by config.json")
    if problems:
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise InputError(
            f"{checkpoint.model_id}: the weights do not make a whole {type(model).__name__}",
            [*problems[:5], *more],
            "Give --model-id a checkpoint of the whole encoder-decoder model with its language-model head.",
        )
    model = model.requires_grad_(False).eval()
    return quantized.settled(model) if checkpoint.load_in_4bit else model.to(device)


def check_fit(model_or_config: PreTrainedModel | PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that makes ids for which the model has no embedding.

    Raises:
        InputError: with both numbers.
    """
    known: Any = model_or_config
    if hasattr(known, "get_input_embeddings"):
        rows = known.get_input_embeddings().weight.shape[0]
    else:
        rows = known.get_text_config().vocab_size
    # Not len(): a vocabulary can have gaps, and then its highest id is above its size.
    needed = max(tokenizer.get_vocab().values()) + 1
    if needed > rows:
        raise InputError(
            "tokenizer and model do not belong together",
            [f"the tokenizer makes ids up to {needed - 1:,}", f"the model has embeddings for ids up to {rows - 1:,}"],
            "Leave out --model-id-tokenizer, or give the tokenizer the model was trained with.",
        )
