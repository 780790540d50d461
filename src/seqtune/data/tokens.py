"""From text to token ids and how many there are: the template, a set as token ids, and the same cut to limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from seqtune.data import mapped, plain
from seqtune.data.columns import BATCH

#: Longest side where the model itself has no limit (T5 has relative positions): attention costs the square of it.
UNLIMITED = 1024

PLACE = "{question}"
SIDES = ("source", "target")
FEATURES = Features({"row": Value("int64"), "input_ids": List(Value("int32")), "labels": List(Value("int32"))})


def apply_template(template: str, texts: Sequence[str]) -> list[str]:
    """The texts as the model sees them. Only ``{question}`` is replaced; other braces are text."""
    return [template.replace(PLACE, text) for text in texts]


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
    """Token ids of input texts, end-of-sequence included, cut to ``max_length`` (None: not cut); see `plain`."""
    return plain.encode(tokenizer, texts, "text", max_length) if texts else []


def encode_targets(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None = None
) -> list[list[int]]:
    """Token ids of target texts, as the decoder is to write them (mBART marks them with their language)."""
    return plain.encode(tokenizer, texts, "text_target", max_length) if texts else []


def encoded(rows: Dataset, tokenizer: PreTrainedTokenizerBase, template: str) -> Dataset:
    """The columns ``row``, ``input_ids`` and ``labels`` (int32), not cut, not padded; in the order of the rows.

    Large sets are Arrow files that are mapped, not held, and found again when nothing has changed (`mapped`).
    """

    def of(batch: dict[str, list]) -> dict[str, list]:
        return {
            "row": batch["row"],
            "input_ids": encode(tokenizer, apply_template(template, batch["input"])),
            "labels": encode_targets(tokenizer, batch["reference"]),
        }

    used = rows.select_columns(["row", "input", "reference"])
    return mapped.mapped(used, of, FEATURES, [tokenizer_identity(tokenizer), template], "tokenizing")


def cut(
    whole: Dataset,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    length_limits: Mapping[str, Mapping[str, Any]],
) -> Dataset:
    """The same token ids, cut to the limits where they are longer: by the tokenizer, which keeps the end token.

    Args:
        whole: as `encoded` makes it of ``rows``.
        rows: the texts, in the same order.
        tokenizer: of ``whole``.
        template: of ``whole``.
        length_limits: as `lengths.limits` makes them.
    """
    source, target = (length_limits[side]["value"] for side in SIDES)
    over = {
        "input_ids": set(np.flatnonzero(sizes_of(whole, "input_ids") > source).tolist()),
        "labels": set(np.flatnonzero(sizes_of(whole, "labels") > target).tolist()),
    }
    if not any(over.values()):
        return whole

    def of(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        made = {name: list(values) for name, values in batch.items()}
        for place, index in enumerate(indices):
            if index in over["input_ids"]:
                text = apply_template(template, [rows[index]["input"]])
                made["input_ids"][place] = encode(tokenizer, text, source)[0]
            if index in over["labels"]:
                made["labels"][place] = encode_targets(tokenizer, [rows[index]["reference"]], target)[0]
        return made

    known_by = [tokenizer_identity(tokenizer), template, source, target]
    return mapped.mapped(whole, of, FEATURES, known_by, "cutting", with_indices=True)


def sizes_of(tokenized_set: Dataset, column: str) -> np.ndarray:
    """How many token ids each row has in ``input_ids`` or ``labels`` (int64 [rows])."""
    arrow: Any = tokenized_set.select_columns([column]).with_format("arrow")
    length: Any = pc.__dict__["list_value_length"]  # (pyarrow makes its functions when it is imported)
    found = [
        length(arrow[start : start + BATCH].column(column)).to_numpy() for start in range(0, len(tokenized_set), BATCH)
    ]
    return np.concatenate(found).astype(np.int64) if found else np.zeros(0, dtype=np.int64)


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """All that a tokenizer's ids depend on, as text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    languages = getattr(tokenizer, "src_lang", None), getattr(tokenizer, "tgt_lang", None)
    return f"{type(tokenizer).__name__} {languages} {tokenizer.special_tokens_map} {vocabulary}"


def as_rows(tokenized_set: Dataset) -> Sequence[dict[str, Any]]:
    """The rows as plain dicts, for the training loop; of a large set they are made when they are asked for."""
    return tokenized_set.to_list() if len(tokenized_set) < mapped.FROM else mapped.Rows(tokenized_set)
