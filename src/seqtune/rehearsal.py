"""How long a run takes and how much memory it needs, found out by doing a little of it.

A few steps of training on rows of the file, one on the longest of them, a handful of answers of the base model: all
with the run's own code, settings and weights, none of it kept. `seqtune plan` shows what comes out; with ``minutes``
given, a run turns it into a number of steps before it starts.

Not covered: more than one process (measured on the first alone); what other programs will leave of the machine later.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from datasets import Dataset
from peft import PeftConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqtune import scoring
from seqtune.data import tokens
from seqtune.durable import Disk
from seqtune.engine import hardware, loop
from seqtune.errors import InputError
from seqtune.generation import pad_token_id
from seqtune.models import adapters
from seqtune.progress import advance, elapsed, say, silently
from seqtune.run import write_json

#: Seconds that the timed steps may take together; at least `FEWEST` are taken, at most `MOST`.
PATIENCE, FEWEST, MOST = 10.0, 3, 24

#: Rows that the base model answers, and rows of the validation loss.
ANSWERED = 32

#: In the folder of the checkpoints: the number of steps that a run with a limit in minutes has begun with.
STEPS = "max_steps.json"

#: What comes after the last answer: scores, intervals, report, files. Seconds, seen in runs of 50 to 500 scored rows.
CLOSING = 4.0


@dataclass(frozen=True)
class Rehearsal:
    """What was measured.

    Args:
        seconds_a_step: an optimizer step of rows of mean length.
        seconds_a_measurement: the validation loss, once.
        seconds_of_answers: base and tuned model answer the scored rows of both sets.
        seconds_taken: by the rehearsal itself.
        peak_bytes: the most memory that this process has had so far, longest rows included.
    """

    seconds_a_step: float
    seconds_a_measurement: float
    seconds_of_answers: float
    seconds_taken: float
    peak_bytes: int

    def seconds_of_run(self, plan: loop.Plan) -> dict[str, float]:
        """What a run of this plan takes from its first step on, part by part, in seconds."""
        return {
            "training": plan.total_steps * self.seconds_a_step,
            "validation losses": (plan.evaluations + 1) * self.seconds_a_measurement,
            "answers": self.seconds_of_answers,
            "scores and report": CLOSING,
        }


def rehearse(
    base_model: PreTrainedModel,
    stable_id: str,
    lora_config: PeftConfig,
    tokenizer: PreTrainedTokenizerBase,
    tokenized_train: Dataset,
    samples: Mapping[str, tuple[Dataset, Dataset]],
    training_settings: Mapping[str, Any],
    evaluation_settings: Mapping[str, Any],
    precision: str,
    device: torch.device,
) -> Rehearsal:
    """Do a little of the run and measure it. The base model stays as it is.

    Args:
        base_model: frozen.
        stable_id: its name in the adapter's configuration.
        lora_config: of the adapter.
        tokenizer: of the base model.
        tokenized_train: the training rows.
        samples: of ``validation`` and ``hold_out``, the scored rows as text and as token ids.
        training_settings: the knobs that training goes by.
        evaluation_settings: how answers are made.
        precision: of training.
        device: where.
    """
    begun = time.perf_counter()
    rows = tokens.as_rows(tokenized_train)
    plan = loop.Plan.of(len(rows), dict(training_settings))
    validation = [rows_ for _, rows_ in samples.values()]
    few = _few(tokens.as_rows(validation[0]), ANSWERED)
    grouped = loop.is_grouped(plan, training_settings)

    def train(some: Sequence[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
        settings = {
            **training_settings,
            "max_steps": steps,
            "eval_steps": steps,
            "early_stopping_patience": 0,
            "group_by_length": grouped,
        }
        with silently(), hardware.seeded(settings["random_state"], device):
            model = adapters.attach(base_model, lora_config, stable_id)
            pad = pad_token_id(tokenizer)
            return loop.train(model, some, few, settings, device=device, precision=precision, pad_token_id=pad).log

    advance("rehearsing", 0, 4, "parts")
    first = train(rows, FEWEST)[1:]
    advance("rehearsing", 1, 4, "parts")
    steps = min(MOST, int(PATIENCE / max(1e-3, min(row["seconds"] for row in first))))
    log = train(rows, steps) if steps > FEWEST else [{}, *first]
    advance("rehearsing", 2, 4, "parts")
    longest = sorted(rows, key=lambda row: -len(row["input_ids"]) - len(row["labels"]))[: plan.rows_per_step]
    train(longest, 1)
    advance("rehearsing", 3, 4, "parts")
    timed = log[1:] if steps <= FEWEST else log[2:]  # the first step has to find its memory
    tokens_a_step = sum(_tokens(row) for row in rows) / plan.steps_per_epoch
    per_token = statistics.median(row["seconds"] / row["tokens"] for row in timed)
    of_all = [row for each in validation for row in tokens.as_rows(each)]
    measurement = log[-1]["validation_seconds"] * _share(tokens.as_rows(validation[0]), few)
    one_answer, used = _time_of_answers(base_model, tokenizer, samples["validation"], evaluation_settings)
    answers = one_answer * len(of_all)
    if evaluation_settings["answer_precision"] == "auto" and used == "bf16":
        # The validation rows are answered in both, the others in what these say; the slower is taken.
        exact = {**evaluation_settings, "answer_precision": "fp32"}
        slower = max(one_answer, _time_of_answers(base_model, tokenizer, samples["validation"], exact)[0])
        answers = one_answer * len(validation[0]) + slower * len(of_all)
    advance("rehearsing", 4, 4, "parts")
    return Rehearsal(
        seconds_a_step=per_token * tokens_a_step,
        seconds_a_measurement=measurement,
        seconds_of_answers=2 * answers,
        seconds_taken=time.perf_counter() - begun,
        peak_bytes=peak_bytes(),
    )


def fitted(
    settings: Mapping[str, Any], rows: int, rehearsing: Callable[[], Rehearsal], folder: Path | None
) -> dict[str, Any]:
    """The settings of training with as many steps as fit into ``minutes``; ``max_steps_reason`` says why so many.

    Without ``minutes``, or with ``max_steps`` given, they are what they were and nothing is rehearsed. A run that goes
    on after a stop keeps the number that it began with.

    Args:
        settings: the knobs of training.
        rows: training rows.
        rehearsing: gives what was measured.
        folder: of the checkpoints, where the number is kept.

    Raises:
        InputError: as `steps_that_fit`.
    """
    if settings["minutes"] is None or settings["max_steps"] is not None:
        return dict(settings)
    kept = folder / STEPS if folder else None
    if kept is not None and kept.is_file() and any(kept.parent.glob("step-*")):
        return {**settings, **json.loads(kept.read_text(encoding="utf-8"))}
    measured = rehearsing()
    steps, reason = steps_that_fit(settings["minutes"], elapsed(), measured, loop.Plan.of(rows, dict(settings)))
    say(f"{steps:,} steps: {reason}")
    found = {"max_steps": steps, "max_steps_reason": reason}
    if kept is not None:
        _write_durably(kept, found)
    return {**settings, **found}


def derived(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``max_steps`` with its reason, where `fitted` has found it."""
    found = settings.get("max_steps_reason")
    return {"max_steps": {"value": settings["max_steps"], "reason": found}} if found else {}


def _write_durably(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file that is whole or absent, also after a crash."""
    disk, partial = Disk(), path.with_name(f".{path.name}")
    write_json(partial, content)
    disk.sync(partial)
    disk.rename(partial, path)
    disk.sync(path.parent)


def steps_that_fit(minutes: float, elapsed: float, rehearsal: Rehearsal, plan: loop.Plan) -> tuple[int, str]:
    """The number of steps with which the whole run takes so long, and the reason in words.

    Args:
        minutes: for the whole run, from its start.
        elapsed: seconds of it that are over.
        rehearsal: what was measured.
        plan: of the run without a limit; at most so many steps are taken.

    Raises:
        InputError: the time does not suffice for one step; says what would.
    """
    rest = rehearsal.seconds_of_answers + CLOSING
    left = 60 * minutes - elapsed - rest
    # At most MAX_EVALUATIONS + 1 validation losses, and where steps are few, one for every half epoch.
    evaluations = loop.MAX_EVALUATIONS + 1
    steps = int((left - evaluations * rehearsal.seconds_a_measurement) / rehearsal.seconds_a_step)
    half_epochs = math.ceil(2 * max(steps, 1) / plan.steps_per_epoch)
    if half_epochs < loop.MAX_EVALUATIONS:
        steps = int((left - (half_epochs + 2) * rehearsal.seconds_a_measurement) / rehearsal.seconds_a_step)
    if steps < 1:
        needed = elapsed + rest + 3 * rehearsal.seconds_a_measurement + rehearsal.seconds_a_step
        raise InputError(
            f"minutes = {minutes:g}   not one step of training fits into that",
            [
                f"{elapsed:.0f} s are over, {rest:.0f} s go to answers and scores, "
                f"{rehearsal.seconds_a_step:.2g} s to each step"
            ],
            f"Give {math.ceil(needed / 60)} or more, or fewer answers with --max-eval-rows.",
        )
    took = f"{rehearsal.seconds_a_step:.2g} s a step measured, {rest:.0f} s kept for answers and scores"
    if steps >= plan.total_steps:
        return plan.total_steps, f"all of num_train_epochs fits into {minutes:g} minutes ({took})"
    return steps, f"what fits into {minutes:g} minutes ({took})"


def peak_bytes() -> int:
    """The most memory that this process has had (resident set, bytes)."""
    if sys.platform == "linux":  # ru_maxrss begins with what the process that started this one had
        found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _time_of_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sample: tuple[Dataset, Dataset],
    settings: Mapping[str, Any],
) -> tuple[float, str]:
    """Seconds of one row's answer and loss, in a batch of many with the longest rows in it; and its arithmetic."""
    texts, ids = sample
    order = np.random.default_rng(0).permutation(len(texts))[:ANSWERED]
    longest = sorted(range(len(ids)), key=lambda row: -len(ids[row]["input_ids"]))[
        : settings["per_device_eval_batch_size"]
    ]
    with silently():
        scoring.answers_of(model, tokenizer, texts.select(longest), ids.select(longest), settings, "rehearsing")
        started = time.perf_counter()
        found = scoring.answers_of(model, tokenizer, texts.select(order), ids.select(order), settings, "rehearsing")
    return (time.perf_counter() - started) / len(order), found["precision"]["value"]


def _few(rows: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    order = np.random.default_rng(0).permutation(len(rows))[:number]
    return [rows[int(row)] for row in order]


def _share(rows: Sequence[dict[str, Any]], few: Sequence[dict[str, Any]]) -> float:
    """How many times the tokens of a few rows all rows have."""
    return sum(map(_tokens, rows)) / sum(map(_tokens, few))


def _tokens(row: dict[str, Any]) -> int:
    return len(row["input_ids"]) + len(row["labels"])
