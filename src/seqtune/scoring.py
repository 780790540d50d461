"""What a model makes of a set of rows: its answers, its losses, its scores; and base against tuned.

Metric names and their scales: ``loss`` is nats a target token, ``bits_per_byte`` bits a byte of the answer (UTF-8;
comparable across tokenizers), all others 0–100.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqtune import generation, metrics
from seqtune.data import tokens

#: The metric that the verdict is about.
VERDICT_METRIC = "rougeL"

Answers = dict[str, list[Any]]


def answers_of(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    sample: Dataset,
    tokenized_sample: Dataset,
    settings: Mapping[str, Any],
    stage: str,
) -> Answers:
    """The model's answers to the rows of a set and its losses on their references, column by column.

    Returns:
        Lists with an entry per row: ``predictions`` and ``references`` (text), ``nll`` (nats, summed over the target),
        ``target_tokens`` and ``target_bytes`` (of what the loss is over: the reference, or what the limit left of it).
    """
    rows = tokens.as_rows(tokenized_sample)
    knobs = {name: settings[name] for name in generation.GENERATE_KNOBS}
    predictions = generation.answer(
        model,
        tokenizer,
        [row["input_ids"] for row in rows],
        batch_size=settings["per_device_eval_batch_size"],
        random_state=settings["random_state"],
        stage=stage,
        precision=settings["answer_precision"],
        **knobs,
    )
    nll, count = generation.score(
        model, rows, generation.pad_token_id(tokenizer), settings["per_device_eval_batch_size"]
    )
    references = list(sample["reference"])
    whole = [len(ids) for ids in tokens.encode_targets(tokenizer, references)]
    scored_text = [
        reference if n == full else str(tokenizer.decode(row["labels"], skip_special_tokens=True))
        for reference, row, n, full in zip(references, rows, count, whole, strict=True)
    ]
    return {
        "predictions": predictions,
        "references": references,
        "nll": nll,
        "target_tokens": count,
        "target_bytes": [len(text.encode()) for text in scored_text],
    }


def set_metrics(answers: Answers, rouge_tokenizer: metrics.TokenizerName) -> dict[str, float]:
    """Loss, bits per byte, ROUGE, BLEU, chrF and exact match over a set."""
    nll = sum(answers["nll"])
    return {
        "loss": nll / sum(answers["target_tokens"]),
        "bits_per_byte": metrics.bits_per_byte(nll, sum(answers["target_bytes"])),
        **metrics.set_scores(answers["predictions"], answers["references"], rouge_tokenizer),
    }


def prediction_rows(
    sample: Dataset, base: Answers, tuned: Answers, rouge_tokenizer: metrics.TokenizerName
) -> list[dict[str, Any]]:
    """A dict per row: ``row``, ``input``, ``reference``, ``base``, ``tuned``, ``scores`` of both, ``extra`` fields."""
    scores = {name: _row_scores(answers, rouge_tokenizer) for name, answers in (("base", base), ("tuned", tuned))}
    return [
        {
            "row": row["row"],
            "input": row["input"],
            "reference": row["reference"],
            "base": base["predictions"][index],
            "tuned": tuned["predictions"][index],
            "scores": {name: scores[name][index] for name in scores},
            "extra": json.loads(row["extra"]),
        }
        for index, row in enumerate(sample.to_list())
    ]


def verdict(predictions: Sequence[Mapping[str, Any]], split: str, samples: int, seed: int) -> dict[str, Any]:
    """Tuned against base by the rows' ROUGE-L: the lift, its 95 % interval by paired bootstrap, and the word for it."""
    base, tuned = ([row["scores"][model][VERDICT_METRIC] for row in predictions] for model in ("base", "tuned"))
    lift = metrics.lift(base, tuned, samples=samples, seed=seed)
    return {
        "verdict": metrics.verdict(lift),
        "metric": VERDICT_METRIC,
        "split": split,
        "lift": lift.mean,
        "low": lift.low,
        "high": lift.high,
        "confidence": 0.95,
        "rows": lift.rows,
        "sentence": metrics.verdict_sentence(VERDICT_METRIC, lift, split.replace("_", "-")),
    }


def _row_scores(answers: Answers, rouge_tokenizer: metrics.TokenizerName) -> list[dict[str, float]]:
    text_scores = metrics.row_scores(answers["predictions"], answers["references"], rouge_tokenizer)
    losses = [nll / count for nll, count in zip(answers["nll"], answers["target_tokens"], strict=True)]
    return [{"loss": loss, **scores} for loss, scores in zip(losses, text_scores, strict=True)]
