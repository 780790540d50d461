"""Every metric as a function of sums over rows, so that the score of any resampling costs an addition a row.

Shape suffixes: R rows, K sums of a metric, and … for any number of resamplings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqtune.metrics.rows import CORPUS_METRICS, References, bleu, check_same_length, streams
from seqtune.metrics.words import TokenizerName

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """A metric of a set of answers: each row's part in the sums, and the score that sums come to.

    Args:
        parts_RK: what each row adds.
        score: from sums ``[…, K]`` to scores ``[…]``.
        is_mean: the score is the first sum divided by the second.
    """

    parts_RK: Array
    score: Callable[[Array], Array]
    is_mean: bool

    @property
    def value(self) -> float:
        """The score of all rows."""
        return float(self.score(self.parts_RK.sum(axis=0)))


def mean(values: Sequence[float], weights: Sequence[float] | None = None) -> Sums:
    """The mean of row scores; weighted, where rows count differently (a loss by its tokens)."""
    value = np.asarray(values, dtype=np.float64)
    weight = np.ones(len(value)) if weights is None else np.asarray(weights, dtype=np.float64)
    check_same_length(value, weight)
    if not (np.isfinite(value).all() and np.isfinite(weight).all()):
        raise ValueError("a score is not finite")
    return Sums(np.stack([value * weight, weight], axis=1), _ratio, True)


def corpus(name: str, answers: Sequence[str], references: References, tokenizer: TokenizerName) -> Sums:
    """``bleu`` or ``chrf`` as sacrebleu counts it: its n-gram counts by row."""
    from sacrebleu.metrics.chrf import CHRF

    metric, score = (bleu(references, tokenizer), _bleu) if name == "bleu" else (CHRF(), _chrf)
    counts = metric._extract_corpus_statistics(list(answers), streams(references))
    return Sums(np.asarray(counts, dtype=np.float64).reshape(len(answers), -1), score, False)


def of_predictions(
    rows: Sequence[Mapping[str, Any]], model: str, tokenizer: TokenizerName, names: Sequence[str] | None = None
) -> dict[str, Sums]:
    """Every metric of a model's answers in prediction rows (as in ``predictions/*.jsonl``).

    Args:
        rows: at least one, all scored by the same metrics.
        model: ``base`` or ``tuned``.
        tokenizer: of BLEU's words.
        names: the metrics that are wanted; None is all.
    """
    scores = [row["scores"][model] for row in rows]
    found: dict[str, Sums] = {}
    have = [name for name in scores[0] if all(isinstance(each.get(name), int | float) for each in scores)]
    for name in dict.fromkeys([*have, "bits_per_byte", *CORPUS_METRICS]):
        if names is not None and name not in names:
            continue
        if name in CORPUS_METRICS:
            found[name] = corpus(name, [row[model] for row in rows], references_of(rows), tokenizer)
        elif name in ("loss", "bits_per_byte"):
            sizes = [row.get("target") for row in rows]  # absent in runs of older versions
            if "loss" in have and all(isinstance(size, Mapping) for size in sizes):
                tokens = np.array([size["tokens"] for size in sizes if size], dtype=np.float64)
                losses = np.array([each["loss"] for each in scores], dtype=np.float64)
                if name == "loss":
                    found[name] = mean(losses.tolist(), tokens.tolist())
                else:
                    size = np.array([size["bytes"] for size in sizes if size], dtype=np.float64) * math.log(2)
                    found[name] = mean((losses * tokens / size).tolist(), size.tolist())
        else:
            found[name] = mean([each[name] for each in scores])
    return found


def references_of(rows: Sequence[Mapping[str, Any]]) -> list[str | Sequence[str]]:
    """The reference answers of prediction rows: ``references`` where a row has several."""
    return [row.get("references") or row["reference"] for row in rows]


def _ratio(sums: Array) -> Array:
    return sums[..., 0] / sums[..., 1]


def _bleu(sums: Array) -> Array:
    """sacrebleu's ``BLEU.compute_bleu`` with its smoothing "exp": the n-th order without a match counts 1 / 2ⁿ."""
    said, wanted, correct, total = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:10]
    with np.errstate(divide="ignore", invalid="ignore"):
        brevity = np.where(said < wanted, np.exp(1 - wanted / said), 1.0)
        without = correct == 0
        precision = np.where(without, 0.5 ** np.cumsum(without, axis=-1), correct) / total
        score = 100 * brevity * np.exp(np.log(precision).mean(axis=-1))
    return np.where((total == 0).any(axis=-1) | without.all(axis=-1), 0.0, score)


def _chrf(sums: Array) -> Array:
    """sacrebleu's ``CHRF`` with character 1- to 6-grams and beta 2; orders that a side lacks are left out."""
    parts = sums.reshape(*sums.shape[:-1], 6, 3)
    said, wanted, matched = parts[..., 0], parts[..., 1], parts[..., 2]
    counts = (said > 0) & (wanted > 0)
    orders = np.maximum(counts.sum(axis=-1), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(counts, matched / said, 0.0).sum(axis=-1) / orders
        recall = np.where(counts, matched / wanted, 0.0).sum(axis=-1) / orders
        score = 100 * 5 * precision * recall / (4 * precision + recall)
    return np.where(precision + recall > 0, score, 0.0)
