"""What differs between encoder-decoder families, read off the model itself wherever it can be.

Shapes: B batch, T target tokens.

Not covered: decoder-only models.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from seqtune.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

#: PEFT's own word for every Linear but the output head.
ALL_LINEAR = "all-linear"

#: How families name the query and value projections of their attention: T5's, BART's and most others', BERT's (in an
#: EncoderDecoderModel), ProphetNet's.
QUERY_VALUE_NAMES = (("q", "v"), ("q_proj", "v_proj"), ("query", "value"), ("query_proj", "value_proj"))


def default_target_modules(model: PreTrainedModel) -> list[str] | str:
    """The query and value projections of the attention, as in the LoRA paper (Hu et al. 2021, section 4.2).

    All the names by which the model has them, since encoder and decoder may differ (LED's encoder: query, value; its
    decoder: q_proj, v_proj); ``all-linear`` where it has none of the known names.
    """
    endings = set(_endings(model, linear_only=True))
    found = [name for pair in QUERY_VALUE_NAMES if endings.issuperset(pair) for name in pair]
    return found or ALL_LINEAR


def target_modules(model: PreTrainedModel, wanted: str | None) -> list[str] | str:
    """The modules to adapt, for PEFT's `LoraConfig`.

    Args:
        model: the base model.
        wanted: names separated by commas, each the end of a module's dotted name (``q,v`` or ``SelfAttention.q``);
            ``all-linear``; None for `default_target_modules`.

    Raises:
        InputError: a name that is the end of no module an adapter can be put on; lists those there are.
    """
    if wanted is None:
        return default_target_modules(model)
    names = list(dict.fromkeys(name.strip() for name in wanted.split(",") if name.strip()))
    if [name.lower() for name in names] == [ALL_LINEAR]:
        return ALL_LINEAR
    modules = _adaptable(model)
    unmatched = [name for name in names if not any(path == name or path.endswith("." + name) for path in modules)]
    if unmatched or not names:
        endings = _endings(model)
        problems = [f"{name} matches no module   {did_you_mean(name, endings)}".rstrip() for name in unmatched]
        raise InputError(
            f"target_modules = {wanted!r}: {'nothing given' if not names else 'not all of it is in this model'}",
            [*problems, f"{type(model).__name__} has: {', '.join(endings)}"],
            f"Name some of these, separated by commas, or {ALL_LINEAR}.",
        )
    return names


def position_limits(config: PretrainedConfig) -> tuple[int | None, int | None]:
    """The longest source and the longest target the model has positions for, in tokens; None where any length goes.

    T5 and its kin look at distances alone. Sinusoids (Pegasus, M2M100) could be prolonged, but the model has not seen
    more of them: what the configuration states is taken as the limit.
    """
    encoder = getattr(config, "encoder", None) or config
    decoder = getattr(config, "decoder", None) or config
    source = _stated(encoder, ("max_encoder_position_embeddings", "max_position_embeddings"))
    target = _stated(decoder, ("max_decoder_position_embeddings", "max_position_embeddings"))
    return source, target


def decoder_input_ids(model: PreTrainedModel | PeftModel, labels: torch.Tensor) -> torch.Tensor:
    """What the decoder is shown to predict the labels: the labels one place to the right, behind a first token.

    The model's own shift is used where it has one. They differ: T5 and BART begin with a fixed token, mBART and PLBart
    with the last one of the target (its language), T5Gemma with ``<bos>``.

    Args:
        model: the base model, or one that PEFT has injected adapters into.
        labels: int64 [B, T], padded with -100.

    Returns:
        int64 [B, T]; padding is the model's padding token.
    """
    own = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if own is not None:
        return own(labels)
    # M2M100, NLLB-MoE, Blenderbot and SeamlessM4T shift as BART does but inside forward(), out of reach.
    config: Any = model.config
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None or pad is None:
        raise InputError(
            f"{type(model).__name__}: config.json states no "
            + " and no ".join(n for n in ("decoder_start_token_id", "pad_token_id") if getattr(config, n) is None),
            mend="Add what is missing to the config.json of the model.",
        )
    shifted_BT = labels.new_full(labels.shape, start)
    shifted_BT[:, 1:] = labels[:, :-1]
    return shifted_BT.masked_fill(shifted_BT == -100, pad)


def generation_defaults(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What transformers' ``generate`` is told before the knobs: the start of an answer, its end, and a neutral search.

    *What the model means* is kept or derived: with which token the decoder starts, which one comes first whatever the
    question, end and padding, and, unmentioned here and so left to the checkpoint, tokens it suppresses or forbids
    (``suppress_tokens``, ``bad_words_ids``) and the end it forces on an answer at the limit (``forced_eos_token_id``).
    The start is read off the tokenizer's targets, so that answering begins just as training did: mBART starts with the
    language of the answer, mBART-50 and M2M100 with ``</s>`` and then the language.

    *How one likes to search* is a knob of the run and not of the checkpoint: BART and Pegasus ship with four to eight
    beams, a least length, no repeated trigrams and a length penalty, made for summaries of news. These are set to
    neutral, so that ``num_beams=1`` is greedy and beams compare plain mean log-probabilities.

    No value is None: transformers fills a None with the checkpoint's own value.
    """
    import torch

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else model.config.pad_token_id
    own: Any = model.generation_config
    eos = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
    target = list(tokenizer(text_target="a")["input_ids"])
    start = int(decoder_input_ids(model, torch.tensor([target]))[0, 0])
    kept_out = (tokenizer.eos_token_id, tokenizer.unk_token_id)
    first = target[0] if target[0] in tokenizer.all_special_ids and target[0] not in kept_out else None
    meaning = {
        "decoder_start_token_id": start,
        # Always the first of the targets (BART's <s>, mBART-50's language): forced, it can't go wrong.
        "forced_bos_token_id": own.forced_bos_token_id if first is None else first,
        "pad_token_id": pad,
        "eos_token_id": eos,
    }
    neutral = {
        "num_beams": 1,
        "do_sample": False,
        "num_return_sequences": 1,
        "min_length": 0,
        "early_stopping": False,
        "length_penalty": 1.0,
        "repetition_penalty": 1.0,
        "encoder_repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "encoder_no_repeat_ngram_size": 0,
        "typical_p": 1.0,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
        "use_cache": True,
    }
    if own.min_new_tokens:  # else left out: transformers warns where both minima are set
        neutral["min_new_tokens"] = 0
    return {name: value for name, value in {**meaning, **neutral}.items() if value is not None}


def _adaptable(model: PreTrainedModel) -> list[str]:
    """The dotted names of the modules that LoRA can be put on, in the order of the model."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def _endings(model: PreTrainedModel, *, linear_only: bool = False) -> list[str]:
    """The last parts of the names of the modules that LoRA can be put on, each once, in the order of the model."""
    from torch import nn

    paths: Iterable[str] = _adaptable(model)
    if linear_only:
        paths = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def _stated(config: PretrainedConfig, names: Iterable[str]) -> int | None:
    """The first of these that the configuration states as a number."""
    if getattr(config, "relative_attention_num_buckets", None) and config.model_type != "prophetnet":
        return None
    return next((value for name in names if isinstance(value := getattr(config, name, None), int)), None)
