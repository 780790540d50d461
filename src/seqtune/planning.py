"""`seqtune plan`: what a run on a file will take, and which settings suit the size of the data; nothing is kept.

With the base model on this machine a little of the run is done and measured (`seqtune.rehearsal`). Without it nothing
is downloaded: rows and steps are known, tokens are guessed from characters, time and memory are not told.

Not covered: proposals are rules of thumb, each with its reason; no search for better ones (that is a sweep's work).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from seqtune import preflight, run
from seqtune.data import shards
from seqtune.driver import build_driver
from seqtune.engine import loop, sharding
from seqtune.engine.state import bytes_of_checkpoint
from seqtune.models import adapters, checkpoint
from seqtune.progress import elapsed, timed
from seqtune.rehearsal import Rehearsal, fitted
from seqtune.settings import DEFAULT, knobs, validated

#: Characters of a token, where no tokenizer is at hand: English with a vocabulary of 32,000 pieces.
CHARACTERS_A_TOKEN = 4

#: Checkpoints that may lie side by side: two that are kept and one that is being written.
CHECKPOINTS_AT_ONCE = 3

_OF_DATA = ["train_set", "validation_set", "hold_out_set", "validation_sample", "hold_out_sample"]
_OF_MODEL = [
    "training_lengths",
    "tokenized_train",
    "training_knobs",
    "base_model",
    "base_checkpoint",
    "lora_config",
    "compute_precision",
    "rehearsing",
]


def plan(data_path: str | Path, **settings: Any) -> dict[str, Any]:
    """What a run with these settings will take on this machine.

    Args:
        data_path: the file.
        **settings: any knob of a run.

    Returns:
        ``rows`` and ``tokens`` of the splits, ``steps`` (with the reason, where ``minutes`` limit them), ``seconds``
        (parts and ``total``), ``memory`` (``peak_bytes``, ``free_bytes``), ``disk`` (``needed_bytes``,
        ``free_bytes``), ``proposals`` (setting, value, reason). Time and memory are None where the base model is not
        on this machine.

    Raises:
        InputError: the file or a setting can't be used, or ``minutes`` are too few for a step.
    """
    given = validated({"data_path": str(data_path), **settings})
    with timed():
        sharding.check(given, 1)
        shards.check(given, planning=True)
        preflight.check(given)
        values = {**DEFAULT.model_dump(), **given}
        driver = build_driver({"start": "base"})
        name = values["model_id"] or values["model_id_tokenizer"] or checkpoint.DEFAULT_MODEL
        here = checkpoint.is_here(name, values["model_revision"])
        inputs = {key: value for key, value in given.items() if key in driver.takes()}
        found = driver.execute([*_OF_DATA, *(_OF_MODEL if here else [])], inputs=inputs)
        rows = {split: len(found[f"{split}_set"]) for split in ("train", "validation", "hold_out")}
        report: dict[str, Any] = {
            "model_id": name,
            "model_is_here": here,
            "rows": rows,
            "seconds": None,
            "memory": None,
        }
        if here:
            report.update(_measured(found, values, rows["train"]))
        else:
            length = loop.Plan.of(rows["train"], values)
            report["steps"] = {"total": length.total_steps, "of_an_epoch": length.steps_per_epoch, "reason": None}
            report["tokens"] = {side: _characters(found["train_set"], side) // CHARACTERS_A_TOKEN for side in _SIDES}
        report["disk"] = _disk(found if here else None, values)
    report["proposals"] = proposals(report, values)
    return report


_SIDES = {"source": "input", "target": "reference"}


def _measured(found: Mapping[str, Any], settings: Mapping[str, Any], rows: int) -> dict[str, Any]:
    lengths = found["training_lengths"]
    rehearsal: Rehearsal = found["rehearsing"]()
    parts = {"getting ready": elapsed() - rehearsal.seconds_taken}
    settings = fitted(settings, rows, lambda: rehearsal, folder=None)
    if reason := settings.get("max_steps_reason"):  # then the run rehearses too
        parts["rehearsing"] = rehearsal.seconds_taken
    length = loop.Plan.of(rows, dict(settings))
    parts |= rehearsal.seconds_of_run(length)
    return {
        "steps": {"total": length.total_steps, "of_an_epoch": length.steps_per_epoch, "reason": reason},
        "tokens": {side: lengths[side]["total"] for side in _SIDES},
        "longest": {side: {"p99": lengths[side]["p99"], "max": lengths[side]["max"]} for side in _SIDES},
        "parameters": found["base_model"].num_parameters(),
        "precision": found["compute_precision"],
        "seconds_a_step": rehearsal.seconds_a_step,
        "seconds": {**parts, "total": sum(parts.values())},
        "memory": {"peak_bytes": rehearsal.peak_bytes, "free_bytes": psutil.virtual_memory().available},
    }


def proposals(report: Mapping[str, Any], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings that suit the size of the data and of the machine better than those given, each with its reason.

    Args:
        report: what `plan` has found.
        settings: in effect.
    """
    found: list[dict[str, Any]] = []

    def propose(name: str, value: Any, reason: str) -> None:
        if settings[name] != value:
            found.append(
                {"setting": name, "option": f"{knobs()[name].option} {value}", "value": value, "reason": reason}
            )

    rows = report["rows"]["train"]
    mini = report["model_id"] == checkpoint.EMBEDDED
    for most, epochs in ((300, 15), (2_000, 8), (20_000, 4), (200_000, 2)):
        if rows <= most:
            reason = f"{rows:,} rows are few: they have to be seen often" if epochs > 4 else f"enough for {rows:,} rows"
            break
    else:
        epochs, reason = 1, f"{rows:,} rows: each need be seen once"
    if mini and epochs < 12 and rows <= 20_000:
        epochs, reason = 12, "a model as small as seqtune-mini learns slowly"
    if settings["max_steps"] is None and settings["minutes"] is None:
        propose("num_train_epochs", float(epochs), reason)
    if mini:
        propose("learning_rate", 3e-3, "a model as small as seqtune-mini takes, and needs, a high one")
        propose("target_modules", "all-linear", "seqtune-mini has to learn more than queries and values can hold")
    elif (report.get("parameters") or 0) > 500_000_000:
        propose("learning_rate", 3e-4, "large models want a lower one than small ones")
    if rows > 50_000 and settings["lora_r"] < 32:
        propose("lora_r", 32, f"{rows:,} rows hold more than a small adapter takes in")
    memory, seconds = report["memory"], report["seconds"]
    if memory and memory["peak_bytes"] > 0.8 * memory["free_bytes"]:
        half = max(1, settings["per_device_train_batch_size"] // 2)
        why = "the run would take more than four fifths of the free memory"
        propose("per_device_train_batch_size", half, why)
        propose("gradient_accumulation_steps", 2 * settings["gradient_accumulation_steps"], "so that a step stays one")
    if seconds and seconds["answers"] > max(60.0, seconds["training"]):
        fewer = max(50, int(settings["max_eval_rows"] * seconds["training"] / seconds["answers"]))
        propose("max_eval_rows", fewer, "answering the scored rows would take longer than training")
    return found


def _characters(rows: Any, side: str) -> int:
    return sum(map(len, rows[_SIDES[side]][:]))


def _disk(found: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> dict[str, int]:
    """Bytes that checkpoints, adapter and tokenizer will take, and those free where the run directory is to be."""
    needed = 0
    if found is not None:
        model = adapters.attach(found["base_model"], found["lora_config"], "plan")
        tokenizer = sum(each.stat().st_size for each in Path(found["base_checkpoint"].tokenizer_path).glob("*token*"))
        one = bytes_of_checkpoint(model)
        needed = CHECKPOINTS_AT_ONCE * one + one // 4 + tokenizer
    out = Path(settings["out"] or run.free_directory(settings["data_path"])).absolute()
    place = next(folder for folder in (out, *out.parents) if folder.exists())
    return {"needed_bytes": needed, "free_bytes": shutil.disk_usage(place).free}
