"""The same training with other seeds: how much of a result is training's own luck.

The first seed's adapter is the run's. The others are trained in the same way on the same rows (the division of the data
does not change), answer the hold-out rows, and are let go; their scores stay. What a seed changes is the adapter's
first weights, dropout, and the order of the batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqtune import metrics, scoring, store
from seqtune.data import tokens
from seqtune.engine import hardware, loop
from seqtune.engine.checkpoint import Checkpoints
from seqtune.generation import pad_token_id
from seqtune.metrics import bootstrap, sums, verdicts
from seqtune.models import adapters
from seqtune.models.loading import BaseCheckpoint
from seqtune.progress import say


def others(training_settings: Mapping[str, Any]) -> list[int]:
    """The seeds besides ``random_state``: the numbers that follow it."""
    first = training_settings["random_state"]
    return [(first + n) % 2**32 for n in range(1, training_settings["seeds"])]


def answers(
    seed: int,
    base_model: PreTrainedModel,
    base_checkpoint: BaseCheckpoint,
    lora_config: PeftConfig,
    tokenizer: PreTrainedTokenizerBase,
    rows: Mapping[str, Dataset],
    sample: Dataset,
    training_settings: Mapping[str, Any],
    evaluation_settings: Mapping[str, Any],
    precision: str,
    device: torch.device,
    versions: Mapping[str, str],
    checkpoints: Checkpoints,
) -> scoring.Answers:
    """Train with a seed and answer the hold-out rows.

    Args:
        seed: in place of ``random_state``.
        base_model: stays as it is.
        base_checkpoint: of it.
        lora_config: of the adapter.
        tokenizer: of the rows.
        rows: tokenized ``training``, ``validation`` and ``hold_out``.
        sample: the hold-out rows as text.
        training_settings: of the run.
        evaluation_settings: of the run.
        precision: of training.
        device: where to compute.
        versions: as `store.versions`.
        checkpoints: of the run; this training keeps its own beside them, and goes on from them.
    """
    say(f"once more with seed {seed}")
    settings = {**training_settings, "random_state": seed}
    folder = checkpoints.folder / f"seed-{seed}" if checkpoints.folder is not None else None
    with hardware.seeded(seed, device):
        model = adapters.attach(base_model, lora_config, base_checkpoint.stable_id)
        training = {name: rows[name] for name in ("training", "validation")}
        loop.train(
            model,
            tokens.as_rows(rows["training"]),
            tokens.as_rows(rows["validation"]),
            settings,
            device=device,
            precision=precision,
            pad_token_id=pad_token_id(tokenizer),
            checkpoints=replace(checkpoints, folder=folder),
            made_of=store.made_of(
                training, base_checkpoint, tokenizer, lora_config, settings, precision, device, versions
            ),
        )
    stage = f"tuned model of seed {seed} answers the hold-out rows"
    return scoring.answers_of(model, tokenizer, sample, rows["hold_out"], evaluation_settings, stage)


def verdict(
    first: Sequence[Mapping[str, Any]], others: Sequence[Sequence[Mapping[str, Any]]], samples: int, seed: int
) -> dict[str, Any]:
    """The verdict over rows and seeds (`verdicts.over_seeds`), and each seed's own lift in ``by_seed``.

    Args:
        first: the hold-out prediction rows of the run's own adapter.
        others: the same of the other seeds.
        samples: resamplings.
        seed: of the drawing.
    """
    metric = scoring.VERDICT_METRIC
    base = sums.mean([row["scores"]["base"][metric] for row in first])
    tuned = [sums.mean([row["scores"]["tuned"][metric] for row in rows]) for rows in (first, *others)]
    found = bootstrap.lifts(
        {metric: base},
        [{metric: each} for each in tuned],
        questions=scoring.questions_of(first),
        samples=samples,
        seed=seed,
    )[metric]
    by_seed = [each.value - base.value for each in tuned]
    return {**scoring.worded(verdicts.over_seeds(found, by_seed), "hold_out", len(by_seed)), "by_seed": by_seed}


def table(
    first_seed: int,
    first: Mapping[str, Mapping[str, float]],
    others: Sequence[Mapping[str, Any]],
    words: metrics.TokenizerName,
) -> list[dict[str, Any]]:
    """For each seed ``seed``, ``metrics`` (of the hold-out rows) and ``run`` (None: its adapter was not kept)."""
    rows: list[dict[str, Any]] = [{"seed": first_seed, "metrics": {"hold_out": dict(first)}, "run": "."}]
    for each in others:
        found = scoring.metrics_of(each["predictions"], words)
        rows.append({"seed": each["seed"], "metrics": {"hold_out": found}, "run": None})
    return rows
