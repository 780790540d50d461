"""Tokenization: base checkpoint → tokenizer → lengths of the training rows → limits → token ids, and what was cut.

A tokenized set is a `datasets.Dataset` with the columns ``row``, ``input_ids`` and ``labels`` (lists of token ids, not
padded, end-of-sequence included).
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

from datasets import Dataset
from hamilton.function_modifiers import cache, config
from transformers import PreTrainedTokenizerBase

from seqtune import checking, settings
from seqtune.data import lengths, roundtrip, streaming, tokens
from seqtune.models import adapters, loading, pieces
from seqtune.models.loading import BaseCheckpoint
from seqtune.settings import DEFAULT


@config.when(start="base")
@cache(behavior="recompute")
def base_checkpoint__base(
    model_id: str | None = DEFAULT.model_id,
    model_id_tokenizer: str | None = DEFAULT.model_id_tokenizer,
    model_revision: str | None = DEFAULT.model_revision,
    load_in_4bit: bool = DEFAULT.load_in_4bit,
) -> BaseCheckpoint:
    """Which base model: its files on this machine, revision and SHA-256; fetched from the hub where need be."""
    return replace(loading.resolve(model_id, model_id_tokenizer, model_revision), load_in_4bit=load_in_4bit)


@config.when(start="presaved")
@cache(behavior="recompute")
def base_checkpoint__presaved(
    saved_run: dict[str, Any],
    model_id: str | None = None,
    model_id_tokenizer: str | None = None,
    model_revision: str | None = None,
    load_in_4bit: bool | None = None,
) -> BaseCheckpoint:
    """The base model that the saved adapter was trained on; another one is an error.

    ``load_in_4bit`` alone may be given anew: the same adapter over the base in 4 bits, or in full.
    """
    return adapters.resolve_base(saved_run, model_id, model_id_tokenizer, model_revision, load_in_4bit)


@cache(behavior="recompute", format="live")
def base_tokenizer(base_checkpoint: BaseCheckpoint) -> PreTrainedTokenizerBase:
    """The base model's tokenizer; one whose ids do not fit the model is an error."""
    return loading.load_fitting_tokenizer(base_checkpoint)


@config.when(start="base")
def tokenization_settings__base(
    versions: dict[str, str],
    input_template: str = DEFAULT.input_template,
    preserve_characters: bool = DEFAULT.preserve_characters,
    max_source_length: int | None = DEFAULT.max_source_length,
    max_target_length: int | None = DEFAULT.max_target_length,
) -> dict[str, Any]:
    """How text becomes token ids."""
    given = locals()
    return {"versions": given.pop("versions"), **settings.validated(given)}


@config.when(start="presaved")
def tokenization_settings__presaved(
    saved_run: dict[str, Any],
    versions: dict[str, str],
    input_template: str | None = None,
    preserve_characters: bool | None = None,
    max_source_length: int | None = None,
    max_target_length: int | None = None,
) -> dict[str, Any]:
    """How the saved run made token ids of text; what is given now comes first."""
    given = locals()
    manifest, code = given.pop("saved_run")["manifest"], given.pop("versions")
    return {"versions": code, **settings.resolved(manifest, given)}


@config.when(start="base")
def preserved_characters__base(
    train_set: Dataset, base_tokenizer: PreTrainedTokenizerBase, tokenization_settings: dict[str, Any]
) -> list[str]:
    """The characters that are given pieces of their own: those that would be lost, if `preserve_characters` is on."""
    return roundtrip.characters_to_preserve(train_set, base_tokenizer, tokenization_settings)


@config.when(start="presaved")
@cache(behavior="recompute")
def preserved_characters__presaved(saved_run: dict[str, Any]) -> list[str]:
    """The characters that were given pieces of their own when the adapter was trained."""
    return pieces.saved(saved_run["adapter"])


@cache(behavior="recompute", format="live")
def tokenizer(base_tokenizer: PreTrainedTokenizerBase, preserved_characters: list[str]) -> PreTrainedTokenizerBase:
    """The tokenizer: the base model's, with pieces for characters that it would lose where that was asked for."""
    return pieces.with_pieces(base_tokenizer, preserved_characters)


def tokenizer_loss(
    train_set: Dataset, tokenizer: PreTrainedTokenizerBase, tokenization_settings: dict[str, Any]
) -> dict[str, Any]:
    """What the tokenizer can't give back of the training rows: how many, which characters, examples."""
    return roundtrip.loss(train_set, tokenizer, tokenization_settings["input_template"])


def encoded_train(
    train_set: Dataset, tokenizer: PreTrainedTokenizerBase, tokenization_settings: dict[str, Any]
) -> Dataset:
    """The training set as token ids, not cut."""
    return tokens.encoded(train_set, tokenizer, tokenization_settings["input_template"])


def encoded_validation(
    validation_sample: Dataset, tokenizer: PreTrainedTokenizerBase, tokenization_settings: dict[str, Any]
) -> Dataset:
    """The scored validation rows as token ids, not cut."""
    return tokens.encoded(validation_sample, tokenizer, tokenization_settings["input_template"])


def encoded_hold_out(
    hold_out_sample: Dataset, tokenizer: PreTrainedTokenizerBase, tokenization_settings: dict[str, Any]
) -> Dataset:
    """The scored hold-out rows as token ids, not cut."""
    return tokens.encoded(hold_out_sample, tokenizer, tokenization_settings["input_template"])


def training_lengths(encoded_train: Dataset, versions: dict[str, str]) -> dict[str, Any]:
    """Percentiles and histograms of the lengths of the training rows alone, in tokens: inputs and targets."""
    return lengths.measure(encoded_train)


def length_limits(
    training_lengths: dict[str, Any], tokenization_settings: dict[str, Any], base_checkpoint: BaseCheckpoint
) -> dict[str, Any]:
    """The longest input and target, in tokens, each with the reason."""
    return lengths.limits(training_lengths, tokenization_settings, base_checkpoint.path)


def tokenized_train(
    encoded_train: Dataset,
    train_set: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    tokenization_settings: dict[str, Any],
    length_limits: dict[str, Any],
) -> Dataset:
    """The training set as token ids."""
    template = tokenization_settings["input_template"]
    return tokens.cut(encoded_train, train_set, tokenizer, template, length_limits)


def tokenized_validation(
    encoded_validation: Dataset,
    validation_sample: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    tokenization_settings: dict[str, Any],
    length_limits: dict[str, Any],
) -> Dataset:
    """The scored validation rows as token ids."""
    template = tokenization_settings["input_template"]
    return tokens.cut(encoded_validation, validation_sample, tokenizer, template, length_limits)


def tokenized_hold_out(
    encoded_hold_out: Dataset,
    hold_out_sample: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    tokenization_settings: dict[str, Any],
    length_limits: dict[str, Any],
) -> Dataset:
    """The scored hold-out rows as token ids."""
    template = tokenization_settings["input_template"]
    return tokens.cut(encoded_hold_out, hold_out_sample, tokenizer, template, length_limits)


@config.when(start="base")
@cache(behavior="recompute")
def training_stream__base(
    data_sources: dict[str, Any],
    data_settings: dict[str, Any],
    tokenization_settings: dict[str, Any],
    length_limits: dict[str, Any],
    validation_set: Dataset,
    hold_out_set: Dataset,
) -> dict[str, Any] | None:
    """With `streaming`: where the training rows come from, and which questions are kept away; else None."""
    if not data_settings["streaming"]:
        return None
    kept_away = {"validation": validation_set, "hold_out": hold_out_set}
    template = tokenization_settings["input_template"]
    return streaming.plan(data_sources["data"], data_settings, template, length_limits, kept_away)


def cut_rows(
    encoded_train: Dataset,
    encoded_validation: Dataset,
    encoded_hold_out: Dataset,
    length_limits: dict[str, Any],
    versions: dict[str, str],
) -> dict[str, Any]:
    """What the limits cut off in each set: rows and tokens, of inputs and of targets. Said aloud where it is any."""
    sets = {"train": encoded_train, "validation": encoded_validation, "hold_out": encoded_hold_out}
    return lengths.cut_report(sets, length_limits)


def token_findings(
    training_lengths: dict[str, Any],
    length_limits: dict[str, Any],
    cut_rows: dict[str, Any],
    tokenizer_loss: dict[str, Any],
    preserved_characters: list[str],
    encoded_train: Dataset,
    clean_rows: dict[str, Any],
    data_sources: dict[str, Any],
    base_tokenizer: PreTrainedTokenizerBase,
    base_checkpoint: BaseCheckpoint,
    versions: dict[str, str],
) -> list[dict[str, Any]]:
    """The checks that need the tokenizer: control tokens in the texts, lengths, and what is lost."""
    found = [
        *checking.control_tokens_of(clean_rows, data_sources, base_tokenizer),
        lengths.finding(training_lengths, length_limits, cut_rows, len(encoded_train)),
        roundtrip.finding(tokenizer_loss, bool(preserved_characters)),
    ]
    return checking.said(found, data_sources["data"]["path"], f" --model-id {shlex.quote(base_checkpoint.model_id)}")
