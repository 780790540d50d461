"""From text to token ids: the template, lengths and their limits, and what a limit cuts off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoConfig, PreTrainedTokenizerBase

from seqtune.errors import InputError
from seqtune.models import families
from seqtune.progress import say, warn

#: Longest side where the model itself has no limit (T5 has relative positions): attention costs the square of it.
UNLIMITED = 1024

PLACE = "{question}"
PERCENTILES = (50, 90, 95, 99)
SIDES = ("source", "target")


def apply_template(template: str, texts: Sequence[str]) -> list[str]:
    """The texts as the model sees them. Only ``{question}`` is replaced; other braces are text."""
    return [template.replace(PLACE, text) for text in texts]


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
    """Token ids of input texts, end-of-sequence included, cut to ``max_length`` (None: not cut)."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), truncation=max_length is not None, max_length=max_length, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


def encode_targets(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None = None
) -> list[list[int]]:
    """Token ids of target texts, as the decoder is to write them (mBART marks them with their language)."""
    if not texts:
        return []
    encoded = tokenizer(
        text_target=list(texts), truncation=max_length is not None, max_length=max_length, verbose=False
    )
    return [list(ids) for ids in encoded["input_ids"]]


def measure(train_set: Dataset, tokenizer: PreTrainedTokenizerBase, template: str) -> dict[str, dict[str, int]]:
    """For ``source`` and ``target``: the percentiles ``p50`` … ``p99`` and the maximum of the lengths, in tokens."""
    measured = {}
    for side, sizes in _sizes(train_set, tokenizer, template).items():
        at = {f"p{p}": int(np.percentile(sizes, p, method="higher")) for p in PERCENTILES}
        measured[side] = {**at, "max": int(sizes.max()), "total": int(sizes.sum())}
    return measured


def limits(
    training_lengths: Mapping[str, Mapping[str, int]], settings: Mapping[str, Any], model_path: str
) -> dict[str, dict[str, Any]]:
    """For ``source`` and ``target``: the limit in tokens (``value``), why it is that (``reason``), ``positions``.

    Given limits are taken as they are; else it is what the model can take. Batches are padded to their own longest row,
    so that a generous limit costs nothing. ``positions`` is how many the model has, None where it has no limit.

    Raises:
        InputError: a given limit is more than the model can take.
    """
    decided = {}
    config = AutoConfig.from_pretrained(model_path)
    for side, positions in zip(SIDES, families.position_limits(config), strict=True):
        given = settings[f"max_{side}_length"]
        if given is not None and positions is not None and given > positions:
            raise InputError(
                f"max_{side}_length = {given}   expected at most {positions}, the model's number of positions",
                mend=f"Leave out --max-{side}-length to use what the model takes.",
            )
        if given is not None:
            value, reason = given, "given"
        elif positions is not None:
            value, reason = positions, "the model's number of positions"
        else:
            value, reason = UNLIMITED, "the limit where the model has none"
        decided[side] = {"value": value, "reason": reason, "positions": positions}
        at = "  ".join(f"{name} {training_lengths[side][name]}" for name in ("p50", "p95", "p99", "max"))
        say(f"{side} length: at most {value} tokens ({reason}); training rows: {at}")
    return decided


def tokenized(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, template: str, length_limits: Mapping[str, Mapping[str, Any]]
) -> Dataset:
    """The columns ``row``, ``input_ids`` and ``labels``, cut to the limits, not padded."""
    sources = apply_template(template, list(rows["input"]))
    return Dataset.from_dict(
        {
            "row": list(rows["row"]),
            "input_ids": encode(tokenizer, sources, length_limits["source"]["value"]),
            "labels": encode_targets(tokenizer, list(rows["reference"]), length_limits["target"]["value"]),
        }
    )


def cut_report(
    sets: Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    length_limits: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, dict[str, int]]]:
    """For each set and side: how many ``rows`` are cut and how many ``tokens`` they lose."""
    report: dict[str, dict[str, dict[str, int]]] = {}
    for name, rows in sets.items():
        report[name] = {}
        for side, sizes in _sizes(rows, tokenizer, template).items():
            limit = length_limits[side]["value"]
            over = sizes[sizes > limit] - limit
            report[name][side] = {"rows": int(over.size), "tokens": int(over.sum())}
            if over.size:
                warn(
                    f"{over.size} of {sizes.size} {name.replace('_', '-')} rows have a {side} of more than "
                    f"{limit} tokens: "
                    f"{int(over.sum()):,} tokens ({over.sum() / sizes.sum():.1%}) are cut off "
                    f"({length_limits[side]['reason']}; --max-{side}-length changes it)"
                )
    return report


def as_rows(tokenized_set: Dataset) -> list[dict[str, Any]]:
    """The rows as plain dicts, for the training loop."""
    return tokenized_set.to_list()


def _sizes(rows: Dataset, tokenizer: PreTrainedTokenizerBase, template: str) -> dict[str, np.ndarray]:
    sources = encode(tokenizer, apply_template(template, list(rows["input"])))
    targets = encode_targets(tokenizer, list(rows["reference"]))
    return {
        "source": np.array([len(ids) for ids in sources], dtype=np.int64),
        "target": np.array([len(ids) for ids in targets], dtype=np.int64),
    }
