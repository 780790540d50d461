"""Delivery: everything that was found out → manifest and report → the run directory.

`save_best_models` is the one node that writes for keeps, and it hangs on the finished results, so that it makes no
difference in which order or company outputs are asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from hamilton.function_modifiers import cache, config
from peft import PeftConfig

from seqtune import delivering, picture, rehearsal, run, scoring
from seqtune.engine import hardware
from seqtune.models import quantized
from seqtune.models.loading import BaseCheckpoint
from seqtune.report import page, sections
from seqtune.run import TrainedAdapter
from seqtune.settings import DEFAULT


@config.when(start="base")
@cache(behavior="recompute")
def finetuning_settings__base(
    training_settings: dict[str, Any], lora_settings: dict[str, Any], compute_precision: dict[str, str]
) -> dict[str, Any]:
    """The knobs that training went by."""
    return {**training_settings, **lora_settings, "precision": compute_precision["value"]}


@config.when(start="presaved")
@cache(behavior="recompute")
def finetuning_settings__presaved(saved_run: dict[str, Any]) -> dict[str, Any]:
    """The knobs that the saved run's training went by; none where it is unknown."""
    return delivering.saved_finetuning_settings(saved_run)


@config.when(start="base")
@cache(behavior="recompute")
def derived_settings__base(
    training_settings: dict[str, Any],
    base_checkpoint: BaseCheckpoint,
    length_limits: dict[str, Any],
    evaluation_settings: dict[str, Any],
    rouge_words: dict[str, Any],
    compute_precision: dict[str, str],
    lora_config: PeftConfig,
) -> dict[str, Any]:
    """Every setting that was worked out rather than given: its value and the reason."""
    found = delivering.derived(length_limits, evaluation_settings, rouge_words, compute_precision, lora_config)
    plain = quantized.derived() if base_checkpoint.load_in_4bit else {}
    return {**found, **rehearsal.derived(training_settings), **plain}


@config.when(start="presaved")
@cache(behavior="recompute")
def derived_settings__presaved(
    length_limits: dict[str, Any],
    evaluation_settings: dict[str, Any],
    rouge_words: dict[str, Any],
    compute_precision: dict[str, str],
    lora_config: PeftConfig,
    saved_run: dict[str, Any],
) -> dict[str, Any]:
    """Every setting that was worked out, now or in the saved run: its value and the reason."""
    now = delivering.derived(length_limits, evaluation_settings, rouge_words, compute_precision, lora_config)
    return delivering.with_saved_reasons(now, saved_run)


@cache(behavior="recompute")
def data_report(
    data_summary: dict[str, Any],
    data_findings: list[dict[str, Any]],
    token_findings: list[dict[str, Any]],
    training_lengths: dict[str, Any],
    cut_rows: dict[str, Any],
    tokenizer_loss: dict[str, Any],
) -> dict[str, Any]:
    """All that is known of the data: files, rows, splits, what the checks found, lengths, what was lost or cut."""
    return {
        **data_summary,
        "findings": [*data_findings, *token_findings],
        "training_lengths": {
            side: {name: value for name, value in measured.items() if name != "histogram"}
            for side, measured in training_lengths.items()
        },
        "length_histograms": {side: measured["histogram"] for side, measured in training_lengths.items()},
        "tokenizer_loss": tokenizer_loss,
        "cut": cut_rows,
    }


@cache(behavior="recompute")
def manifest(
    data_settings: dict[str, Any],
    tokenization_settings: dict[str, Any],
    finetuning_settings: dict[str, Any],
    evaluation_settings: dict[str, Any],
    derived_settings: dict[str, Any],
    data_report: dict[str, Any],
    base_checkpoint: BaseCheckpoint,
    trained_adapter: TrainedAdapter,
    versions: dict[str, str],
    device: torch.device,
    base_model_on_validation_set: dict,
    finetuned_model_on_validation_set: dict,
    validation_set_metrics: dict[str, dict[str, float]],
    hold_out_set_metrics: dict[str, dict[str, float]],
    lifts: dict[str, Any],
    guard_rails: dict[str, Any],
    forgetting: dict[str, Any],
    signatures: dict[str, str],
    seeds_table: list[dict[str, Any]],
    verdict: dict[str, Any],
    start: str,
) -> dict[str, Any]:
    """The content of ``run.json``: settings, data, base model, versions, training, metrics and verdict."""
    answers = scoring.settled_precision(finetuned_model_on_validation_set, base_model_on_validation_set)
    return delivering.manifest(
        start=start,
        settings={**data_settings, **tokenization_settings, **finetuning_settings, **evaluation_settings},
        derived={**derived_settings, "answer_precision": answers},
        data=data_report,
        base=base_checkpoint,
        adapter=trained_adapter,
        versions=versions,
        machine=hardware.describe(device),
        metrics={"validation": validation_set_metrics, "hold_out": hold_out_set_metrics},
        found={
            "lifts": lifts,
            "guard_rails": guard_rails,
            "forgetting": forgetting,
            "signatures": signatures,
            "seeds": seeds_table,
        },
        verdict=verdict,
    )


@cache(behavior="recompute")
def training_and_validation_set_metrics(
    trained_adapter: TrainedAdapter, validation_set_metrics: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """What training measured (None where unknown), and both models on the validation rows."""
    return {
        "training": trained_adapter.training,
        "training_log": trained_adapter.log,
        "validation": validation_set_metrics,
    }


@cache(behavior="recompute")
def report_page(
    manifest: dict[str, Any],
    trained_adapter: TrainedAdapter,
    validation_set_predictions: list[dict[str, Any]],
    hold_out_set_predictions: list[dict[str, Any]],
    report_text: Literal["none", "sample", "all"] = DEFAULT.report_text,
    out: str | None = DEFAULT.out,
) -> str:
    """The content of ``report.html``: one page that needs no network."""
    return page.render(
        manifest,
        trained_adapter.log,
        {"hold_out": hold_out_set_predictions, "validation": validation_set_predictions},
        text=report_text,
        picture=picture.running_linked(sections.of_node),
        name=Path(out).absolute().name if out else "",
        learned=run.answers_while_training(Path(out) / run.CHECKPOINTS) if out else [],
    )


@cache(behavior="recompute")
def save_best_models(
    manifest: dict[str, Any],  # first, and the data before the adapter in it: a run that stops can tell of its data
    trained_adapter: TrainedAdapter,
    validation_set_predictions: list[dict[str, Any]],
    hold_out_set_predictions: list[dict[str, Any]],
    report_page: str,
    split_ids: dict[str, str],
    rejected_rows: list[dict[str, Any]],
    out: str | None = DEFAULT.out,
    overwrite: bool = DEFAULT.overwrite,
) -> dict[str, Any]:
    """Write the run directory, whole or not at all: the best adapter, manifest, predictions, log, report, rejects."""
    return delivering.deliver(
        trained_adapter,
        manifest,
        {"validation": validation_set_predictions, "hold_out": hold_out_set_predictions},
        report_page,
        split_ids,
        rejected_rows,
        out=out,
        overwrite=overwrite,
    )
