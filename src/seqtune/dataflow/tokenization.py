"""Tokenization: base checkpoint → tokenizer → lengths of the training rows → limits → token ids, and what was cut.

A tokenized set is a `datasets.Dataset` with the columns ``row``, ``input_ids`` and ``labels`` (lists of token ids, not
padded, end-of-sequence included).
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from hamilton.function_modifiers import cache, config
from transformers import PreTrainedTokenizerBase

from seqtune import settings
from seqtune.data import tokens
from seqtune.models import adapters, loading
from seqtune.models.loading import BaseCheckpoint
from seqtune.settings import DEFAULT


@config.when(start="base")
@cache(behavior="recompute")
def base_checkpoint__base(
    model_id: str | None = DEFAULT.model_id,
    model_id_tokenizer: str | None = DEFAULT.model_id_tokenizer,
    model_revision: str | None = DEFAULT.model_revision,
) -> BaseCheckpoint:
    """Which base model: its files on this machine, revision and SHA-256; fetched from the hub where need be."""
    return loading.resolve(model_id, model_id_tokenizer, model_revision)


@config.when(start="presaved")
@cache(behavior="recompute")
def base_checkpoint__presaved(
    saved_run: dict[str, Any],
    model_id: str | None = None,
    model_id_tokenizer: str | None = None,
    model_revision: str | None = None,
) -> BaseCheckpoint:
    """The base model that the saved adapter was trained on; another one is an error."""
    return adapters.resolve_base(saved_run, model_id, model_id_tokenizer, model_revision)


@cache(behavior="recompute", format="live")
def tokenizer(base_checkpoint: BaseCheckpoint) -> PreTrainedTokenizerBase:
    """The tokenizer; one whose ids do not fit the base model is an error."""
    return loading.load_fitting_tokenizer(base_checkpoint)


@config.when(start="base")
def tokenization_settings__base(
    versions: dict[str, str],
    input_template: str = DEFAULT.input_template,
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
    max_source_length: int | None = None,
    max_target_length: int | None = None,
) -> dict[str, Any]:
    """How the saved run made token ids of text; what is given now comes first."""
    given = locals()
    manifest, code = given.pop("saved_run")["manifest"], given.pop("versions")
    return {"versions": code, **settings.resolved(manifest, given)}


def training_lengths(
    train_set: Dataset, tokenizer: PreTrainedTokenizerBase, tokenization_settings: dict[str, Any]
) -> dict[str, Any]:
    """Percentiles of the lengths of the training rows (of these alone), in tokens: inputs and targets."""
    return tokens.measure(train_set, tokenizer, tokenization_settings["input_template"])


def length_limits(
    training_lengths: dict[str, Any], tokenization_settings: dict[str, Any], base_checkpoint: BaseCheckpoint
) -> dict[str, Any]:
    """The longest input and target, in tokens, each with the reason."""
    return tokens.limits(training_lengths, tokenization_settings, base_checkpoint.path)


def tokenized_train(
    train_set: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    tokenization_settings: dict[str, Any],
    length_limits: dict[str, Any],
) -> Dataset:
    """The training set as token ids."""
    return tokens.tokenized(train_set, tokenizer, tokenization_settings["input_template"], length_limits)


def tokenized_validation(
    validation_sample: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    tokenization_settings: dict[str, Any],
    length_limits: dict[str, Any],
) -> Dataset:
    """The scored validation rows as token ids."""
    return tokens.tokenized(validation_sample, tokenizer, tokenization_settings["input_template"], length_limits)


def tokenized_hold_out(
    hold_out_sample: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    tokenization_settings: dict[str, Any],
    length_limits: dict[str, Any],
) -> Dataset:
    """The scored hold-out rows as token ids."""
    return tokens.tokenized(hold_out_sample, tokenizer, tokenization_settings["input_template"], length_limits)


def cut_rows(
    train_set: Dataset,
    validation_sample: Dataset,
    hold_out_sample: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    tokenization_settings: dict[str, Any],
    length_limits: dict[str, Any],
) -> dict[str, Any]:
    """What the limits cut off in each set: rows and tokens, of inputs and of targets. Said aloud where it is any."""
    sets = {"train": train_set, "validation": validation_sample, "hold_out": hold_out_sample}
    return tokens.cut_report(sets, tokenizer, tokenization_settings["input_template"], length_limits)
