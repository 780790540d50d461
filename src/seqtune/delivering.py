"""Putting a run together: the manifest, and the run directory in its place."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftConfig

from seqtune import card, run
from seqtune.data import intake
from seqtune.models import adapters
from seqtune.models.loading import BaseCheckpoint
from seqtune.progress import warn
from seqtune.run import TrainedAdapter
from seqtune.settings import knobs, of_group


def derived(
    length_limits: Mapping[str, Any],
    evaluation_settings: Mapping[str, Any],
    rouge_words: Mapping[str, str],
    precision: Mapping[str, str],
    lora_config: PeftConfig,
) -> dict[str, dict[str, Any]]:
    """``{setting: {"value": …, "reason": …}}`` for every setting that was worked out rather than given."""
    return {
        "max_source_length": length_limits["source"],
        "max_target_length": length_limits["target"],
        "max_new_tokens": {
            "value": evaluation_settings["max_new_tokens"],
            "reason": evaluation_settings["max_new_tokens_reason"],
        },
        "rouge_tokenizer": dict(rouge_words),
        "precision": dict(precision),
        "target_modules": {
            "value": adapters.describe_targets(lora_config),
            "reason": "the modules of the adapter's configuration",
        },
    }


def with_saved_reasons(
    derived: Mapping[str, Mapping[str, Any]], saved_run: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    """The same, with the saved run's reason wherever its value is the one in effect."""
    before = (saved_run["manifest"] or {}).get("derived", {})
    return {
        name: before[name] if name in before and before[name]["value"] == found["value"] else found
        for name, found in derived.items()
    }


def saved_finetuning_settings(saved_run: Mapping[str, Any]) -> dict[str, Any]:
    """The fine-tuning knobs in a saved run's manifest; empty where there is none."""
    saved = (saved_run["manifest"] or {}).get("settings", {})
    return {knob.name: saved[knob.name] for knob in of_group(["finetuning"]) if knob.name in saved}


def manifest(
    *,
    start: str,
    settings: Mapping[str, Any],
    derived: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, Any],
    base: BaseCheckpoint,
    adapter: TrainedAdapter,
    versions: Mapping[str, str],
    machine: Mapping[str, Any],
    metrics: Mapping[str, Any],
    found: Mapping[str, Any],
    verdict: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of ``run.json``. ``settings`` holds the values in effect: what was derived is filled in,
    but for ``answer_precision``.

    ``start`` is the dataflow's (base or presaved), ``found`` what else the evaluation found: lifts, guard rails,
    forgetting, signatures.
    """
    in_effect = {name: value for name, value in settings.items() if name in knobs()}
    for name in ("validation_path", "hold_out_path"):  # what the rows were divided by, where other rows are scored
        if settings.get(f"run_{name}", settings[name]) != settings[name]:
            in_effect[f"run_{name}"] = settings[f"run_{name}"]
    # The adapter says its own targets; in what precision to answer is settled anew wherever the run is scored.
    left = ("target_modules", "answer_precision")
    in_effect.update({name: derived[name]["value"] for name in derived if name in in_effect and name not in left})
    in_effect.update(model_id=base.stable_id, model_id_tokenizer=base.stable_tokenizer_id, model_revision=base.revision)
    in_effect["load_in_4bit"] = base.load_in_4bit
    for knob, source in (("data_path", "data"), ("validation_path", "validation"), ("hold_out_path", "hold_out")):
        if source in data["sources"]:  # absolute, so that the run can be scored again from any folder
            path = Path(data["sources"][source]["path"])
            in_effect[knob] = str(path.absolute()) if path.exists() else str(path)
    return {
        "format": run.FORMAT,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "start": start,
        "seed": in_effect["random_state"],
        "settings": in_effect,
        "derived": dict(derived),
        "data": dict(data),
        "base_model": base.as_dict(),
        "adapter": {"path": run.ADAPTER, "sha256": adapter.sha256},
        "versions": dict(versions),
        "machine": dict(machine),
        "training": adapter.training,
        "metrics": dict(metrics),
        **found,
        "verdict": dict(verdict),
    }


def deliver(
    adapter: TrainedAdapter,
    manifest: Mapping[str, Any],
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    report: str,
    split_ids: Mapping[str, str],
    rejects: Sequence[Mapping[str, Any]] = (),
    *,
    out: str | None,
    overwrite: bool,
) -> dict[str, Any]:
    """Write the run directory of `seqtune.run` at ``out``, whole or not at all.

    Returns:
        ``path`` of the run directory, ``adapter`` (its folder), ``sha256`` of the adapter, ``best_step``.

    Raises:
        RunError: it can't be written.
    """
    wanted = Path(out) if out else run.free_directory(manifest["data"]["sources"]["data"]["path"])
    place = run.place_for(wanted, overwrite)
    if place != wanted:
        warn(f"{wanted} is already there: the run is written to {place}")
    with run.publishing(place, overwrite) as folder:
        shutil.copytree(adapter.path, folder / run.ADAPTER)
        (folder / run.ADAPTER / card.NAME).write_text(card.render(manifest), encoding="utf-8")
        for split, rows in predictions.items():
            run.write_jsonl(folder / run.PREDICTIONS / f"{split}.jsonl", map(dict, rows))
        if learned := run.answers_while_training(wanted / run.CHECKPOINTS):
            run.write_jsonl(folder / run.PREDICTIONS / run.ANSWERS, learned)
        if adapter.log is not None:
            run.write_jsonl(folder / run.LOG, adapter.log)
        (folder / run.REPORT).write_text(report, encoding="utf-8")
        run.write_json(folder / run.SPLITS, dict(split_ids))
        if rejects:
            (folder / run.REJECTS).write_text(intake.rejects_text(rejects), encoding="utf-8")
        run.write_json(folder / run.MANIFEST, manifest)
    return {
        "path": str(place),
        "adapter": str(place / run.ADAPTER),
        "sha256": adapter.sha256,
        "best_step": (adapter.training or {}).get("best_step"),
    }
