"""Evaluation: base and tuned model answer the same rows → metrics of both → lift of tuned over base → verdict."""

from __future__ import annotations

from typing import Any, Literal

import torch
from datasets import Dataset
from hamilton.function_modifiers import cache, config
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqtune import general, generation, metrics, scoring, seeding, settings
from seqtune.engine.checkpoint import Checkpoints
from seqtune.models.loading import BaseCheckpoint
from seqtune.progress import say
from seqtune.run import TrainedAdapter
from seqtune.settings import DEFAULT


@config.when(start="base")
def evaluation_settings__base(
    versions: dict[str, str],
    training_lengths: dict[str, Any],
    length_limits: dict[str, Any],
    per_device_eval_batch_size: int = DEFAULT.per_device_eval_batch_size,
    max_new_tokens: int | None = DEFAULT.max_new_tokens,
    num_beams: int = DEFAULT.num_beams,
    do_sample: bool = DEFAULT.do_sample,
    temperature: float = DEFAULT.temperature,
    top_k: int = DEFAULT.top_k,
    top_p: float = DEFAULT.top_p,
    answer_precision: Literal["auto", "fp32", "bf16"] = DEFAULT.answer_precision,
    rouge_tokenizer: Literal["auto", "english", "unicode"] = DEFAULT.rouge_tokenizer,
    metric: str | None = DEFAULT.metric,
    similarity_model: str | None = DEFAULT.similarity_model,
    bootstrap_samples: int = DEFAULT.bootstrap_samples,
    random_state: int = DEFAULT.random_state,
) -> dict[str, Any]:
    """How the models answer and how answers are scored; the token limit is derived from the training answers."""
    given = locals()
    code, lengths, limits = given.pop("versions"), given.pop("training_lengths"), given.pop("length_limits")
    return {"versions": code, **generation.with_token_limit(lengths, limits, settings.validated(given))}


@config.when(start="presaved")
def evaluation_settings__presaved(
    saved_run: dict[str, Any],
    versions: dict[str, str],
    training_lengths: dict[str, Any],
    length_limits: dict[str, Any],
    per_device_eval_batch_size: int | None = None,
    max_new_tokens: int | None = None,
    num_beams: int | None = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    answer_precision: Literal["auto", "fp32", "bf16"] | None = None,
    rouge_tokenizer: Literal["auto", "english", "unicode"] | None = None,
    metric: str | None = None,
    similarity_model: str | None = None,
    bootstrap_samples: int | None = None,
    random_state: int | None = None,
) -> dict[str, Any]:
    """How the saved run answered and scored; what is given now comes first.

    ``metric`` is never taken from the saved run: it names code to be run, and the run may come from elsewhere.
    """
    given = locals()
    code, lengths, limits = given.pop("versions"), given.pop("training_lengths"), given.pop("length_limits")
    saved = given.pop("saved_run")["manifest"]
    values = {**settings.resolved(saved, given), "metric": metric}
    return {"versions": code, **generation.with_token_limit(lengths, limits, values)}


def rouge_words(
    validation_sample: Dataset, hold_out_sample: Dataset, evaluation_settings: dict[str, Any]
) -> dict[str, Any]:
    """Whose idea of a word ROUGE takes: Google's (English, stemmed) or one for any script; with the reason."""
    wanted = evaluation_settings["rouge_tokenizer"]
    if wanted != "auto":
        return {"value": wanted, "reason": "given"}
    value, reason = metrics.choose_tokenizer([*validation_sample["reference"], *hold_out_sample["reference"]])
    say(f"words of ROUGE: {value} ({reason})")
    return {"value": value, "reason": reason}


@cache(behavior="recompute")
def more_metrics(evaluation_settings: dict[str, Any]) -> dict[str, Any]:
    """What else scores the answers: functions of your own (`metric`), an encoder (`similarity_model`); by digest."""
    return scoring.more_metrics(evaluation_settings["metric"], evaluation_settings["similarity_model"])


def base_model_on_validation_set(
    base_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    validation_sample: Dataset,
    tokenized_validation: Dataset,
    evaluation_settings: dict[str, Any],
    rouge_words: dict[str, Any],
) -> dict:
    """The base model's answers to the validation rows, its losses on their references, and its ``precision``."""
    return scoring.answers_of(
        base_model,
        tokenizer,
        validation_sample,
        tokenized_validation,
        evaluation_settings,
        "base model answers the validation rows",
        rouge_words["value"],
    )


def finetuned_model_on_validation_set(
    finetuned_model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    validation_sample: Dataset,
    tokenized_validation: Dataset,
    evaluation_settings: dict[str, Any],
    rouge_words: dict[str, Any],
) -> dict:
    """The tuned model's answers to the validation rows, its losses on their references, and its ``precision``."""
    return scoring.answers_of(
        finetuned_model,
        tokenizer,
        validation_sample,
        tokenized_validation,
        evaluation_settings,
        "tuned model answers the validation rows",
        rouge_words["value"],
    )


def base_model_on_hold_out_set(
    base_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    hold_out_sample: Dataset,
    tokenized_hold_out: Dataset,
    evaluation_settings: dict[str, Any],
    base_model_on_validation_set: dict,
) -> dict:
    """The base model's answers to the hold-out rows, and its losses on their references."""
    return scoring.answers_of(
        base_model,
        tokenizer,
        hold_out_sample,
        tokenized_hold_out,
        scoring.in_the_precision_of(base_model_on_validation_set, evaluation_settings),
        "base model answers the hold-out rows",
    )


def finetuned_model_on_hold_out_set(
    finetuned_model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    hold_out_sample: Dataset,
    tokenized_hold_out: Dataset,
    evaluation_settings: dict[str, Any],
    finetuned_model_on_validation_set: dict,
) -> dict:
    """The tuned model's answers to the hold-out rows, and its losses on their references."""
    return scoring.answers_of(
        finetuned_model,
        tokenizer,
        hold_out_sample,
        tokenized_hold_out,
        scoring.in_the_precision_of(finetuned_model_on_validation_set, evaluation_settings),
        "tuned model answers the hold-out rows",
    )


def validation_set_predictions(
    validation_sample: Dataset,
    base_model_on_validation_set: dict,
    finetuned_model_on_validation_set: dict,
    train_set: Dataset,
    rouge_words: dict[str, Any],
    more_metrics: dict[str, Any],
    versions: dict[str, str],
) -> list[dict[str, Any]]:
    """A dict per validation row: input, reference, both answers, their scores and flags, the row's extra fields."""
    return scoring.prediction_rows(
        validation_sample,
        base_model_on_validation_set,
        finetuned_model_on_validation_set,
        rouge_words["value"],
        train_set["reference"],
        more_metrics,
    )


def hold_out_set_predictions(
    hold_out_sample: Dataset,
    base_model_on_hold_out_set: dict,
    finetuned_model_on_hold_out_set: dict,
    train_set: Dataset,
    rouge_words: dict[str, Any],
    more_metrics: dict[str, Any],
    versions: dict[str, str],
) -> list[dict[str, Any]]:
    """A dict per hold-out row: input, reference, both answers, their scores and flags, the row's extra fields."""
    return scoring.prediction_rows(
        hold_out_sample,
        base_model_on_hold_out_set,
        finetuned_model_on_hold_out_set,
        rouge_words["value"],
        train_set["reference"],
        more_metrics,
    )


def validation_set_metrics(
    validation_set_predictions: list[dict[str, Any]], rouge_words: dict[str, Any], versions: dict[str, str]
) -> dict[str, dict[str, float]]:
    """``base`` and ``tuned`` on the validation rows. Replace this node to score with metrics of your own."""
    return scoring.metrics_of(validation_set_predictions, rouge_words["value"])


def hold_out_set_metrics(
    hold_out_set_predictions: list[dict[str, Any]], rouge_words: dict[str, Any], versions: dict[str, str]
) -> dict[str, dict[str, float]]:
    """``base`` and ``tuned`` on the hold-out rows, which neither training nor the choice of the adapter has seen."""
    return scoring.metrics_of(hold_out_set_predictions, rouge_words["value"])


def lifts(
    validation_set_predictions: list[dict[str, Any]],
    hold_out_set_predictions: list[dict[str, Any]],
    rouge_words: dict[str, Any],
    evaluation_settings: dict[str, Any],
) -> dict[str, Any]:
    """For each set and metric: base, tuned, their difference, and its 95 % interval by paired bootstrap."""
    samples, seed = evaluation_settings["bootstrap_samples"], evaluation_settings["random_state"]
    sets = {"validation": validation_set_predictions, "hold_out": hold_out_set_predictions}
    return {name: scoring.lifts(rows, rouge_words["value"], samples, seed) for name, rows in sets.items()}


def guard_rails(
    validation_set_predictions: list[dict[str, Any]],
    hold_out_set_predictions: list[dict[str, Any]],
    versions: dict[str, str],
) -> dict[str, Any]:
    """For each set and model: how many answers are empty, copy the question, repeat themselves, are cut, or recited."""
    sets = {"validation": validation_set_predictions, "hold_out": hold_out_set_predictions}
    return {name: scoring.guard_rails(rows) for name, rows in sets.items()}


def signatures(
    hold_out_set_predictions: list[dict[str, Any]], rouge_words: dict[str, Any], versions: dict[str, str]
) -> dict[str, str]:
    """sacrebleu's signatures of BLEU and chrF: the version and every choice behind the scores."""
    return scoring.signatures(hold_out_set_predictions, rouge_words["value"])


def forgetting(
    base_model: PreTrainedModel,
    finetuned_model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    evaluation_settings: dict[str, Any],
) -> dict[str, Any]:
    """What both models make of a small fixed set of general questions: what tuning has cost of the rest."""
    return general.compared(base_model, finetuned_model, tokenizer, evaluation_settings["per_device_eval_batch_size"])


@config.when(start="base")
def other_seeds__base(
    trained_adapter: TrainedAdapter,
    base_model: PreTrainedModel,
    base_checkpoint: BaseCheckpoint,
    lora_config: PeftConfig,
    tokenizer: PreTrainedTokenizerBase,
    tokenized_train: Dataset,
    tokenized_validation: Dataset,
    tokenized_hold_out: Dataset,
    hold_out_sample: Dataset,
    base_model_on_hold_out_set: dict,
    finetuned_model_on_validation_set: dict,
    training_settings: dict[str, Any],
    evaluation_settings: dict[str, Any],
    rouge_words: dict[str, Any],
    more_metrics: dict[str, Any],
    compute_precision: dict[str, str],
    device: torch.device,
    versions: dict[str, str],
    checkpoints: Checkpoints,
) -> list[dict[str, Any]]:
    """The same training with the seeds after the first (`seeds`): each one's ``seed`` and hold-out ``predictions``.

    It waits for the run's own adapter, which is never put at risk by another training.
    """
    rows = {"training": tokenized_train, "validation": tokenized_validation, "hold_out": tokenized_hold_out}
    found = []
    for seed in seeding.others(training_settings):
        answers = seeding.answers(
            seed,
            base_model,
            base_checkpoint,
            lora_config,
            tokenizer,
            rows,
            hold_out_sample,
            training_settings,
            scoring.in_the_precision_of(finetuned_model_on_validation_set, evaluation_settings),
            compute_precision["value"],
            device,
            versions,
            checkpoints,
        )
        predictions = scoring.prediction_rows(
            hold_out_sample, base_model_on_hold_out_set, answers, rouge_words["value"], more=more_metrics
        )
        found.append({"seed": seed, "predictions": predictions})
    return found


@config.when(start="presaved")
def other_seeds__presaved() -> list[dict[str, Any]]:
    """None: the adapters of other seeds are not kept."""
    return []


def seeds_table(
    other_seeds: list[dict[str, Any]],
    hold_out_set_metrics: dict[str, dict[str, float]],
    evaluation_settings: dict[str, Any],
    rouge_words: dict[str, Any],
) -> list[dict[str, Any]]:
    """For each seed its metrics on the hold-out rows; empty where there is one seed."""
    if not other_seeds:
        return []
    first = evaluation_settings["random_state"]
    return seeding.table(first, hold_out_set_metrics, other_seeds, rouge_words["value"])


def verdict(
    hold_out_set_predictions: list[dict[str, Any]],
    other_seeds: list[dict[str, Any]],
    hold_out_unseen: bool,
    evaluation_settings: dict[str, Any],
) -> dict[str, Any]:
    """Is the tuned model better than the base on the hold-out rows? The lift, its interval and a word.

    Where several seeds were trained, the interval is that of their mean, over rows and seeds.
    """
    samples, seed = evaluation_settings["bootstrap_samples"], evaluation_settings["random_state"]
    if other_seeds:
        predictions = [each["predictions"] for each in other_seeds]
        found = seeding.verdict(hold_out_set_predictions, predictions, samples, seed)
    else:
        found = scoring.verdict(hold_out_set_predictions, "hold_out", samples, seed)
    return {**found, "unseen": hold_out_unseen}
