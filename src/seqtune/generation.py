"""Answers of a model: batched, sorted by length, with attention masks, greedy unless told otherwise.

Used by evaluation, `predict` and `seqtune.load`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from seqtune.engine import batching, loss
from seqtune.errors import InputError, did_you_mean
from seqtune.models import families
from seqtune.progress import advance, say

#: Longest answer, in tokens, unless max_new_tokens says otherwise.
LONGEST_ANSWER = 512

#: Knobs that are handed to transformers' ``generate`` under the same name.
GENERATE_KNOBS = ("max_new_tokens", "num_beams", "do_sample", "temperature", "top_k", "top_p")


def with_token_limit(
    training_lengths: Mapping[str, Mapping[str, int]],
    length_limits: Mapping[str, Mapping[str, Any]],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """The settings with ``max_new_tokens`` decided, and ``max_new_tokens_reason`` beside it.

    Derived, it is the longest training target and a quarter more (so that an answer may be longer than any seen, and
    one that never ends is noticed), at most `LONGEST_ANSWER` and what the decoder has positions for.

    Raises:
        InputError: a given limit is more than the decoder has positions for.
    """
    positions = length_limits["target"]["positions"]
    ceiling = positions - 1 if positions else None  # the first position is the start token's
    given = settings["max_new_tokens"]
    if given is not None and ceiling is not None and given > ceiling:
        raise InputError(
            f"max_new_tokens = {given}   expected at most {ceiling}: the decoder has {positions} positions"
        )
    if given is not None:
        return {**settings, "max_new_tokens_reason": "given"}
    longest = min(training_lengths["target"]["max"], length_limits["target"]["value"])
    limit = min(LONGEST_ANSWER, longest + max(1, longest // 4), ceiling or LONGEST_ANSWER)
    reason = f"the longest training target has {longest} tokens; a quarter more, at most {LONGEST_ANSWER}"
    if limit == ceiling:
        reason = f"the decoder has {positions} positions"
    say(f"answers: at most {limit} tokens ({reason})")
    return {**settings, "max_new_tokens": limit, "max_new_tokens_reason": reason}


def answer(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[list[int]],
    *,
    batch_size: int,
    random_state: int,
    stage: str = "answering",
    **knobs: Any,
) -> list[str]:
    """The model's answer to each encoded input, in the order of the inputs.

    Args:
        model: in evaluation mode.
        tokenizer: decodes the answers; special tokens are left out.
        sources: token ids of each input, end-of-sequence included.
        batch_size: inputs answered together.
        random_state: seeds the drawing of tokens with ``do_sample``; the generators of the process are left alone.
        stage: what to call this in the progress display.
        **knobs: of transformers' ``generate``; they override the checkpoint's own taste (see
            `families.generation_defaults`).
    """
    device = next(model.parameters()).device
    unknown = [name for name in knobs if name not in GenerationConfig().to_dict()]
    if unknown:
        known = GenerationConfig().to_dict()
        raise InputError(
            "generate has no such knob", [f"{name}   {did_you_mean(name, known)}".rstrip() for name in unknown]
        )
    options = {**families.generation_defaults(model, tokenizer), **knobs}
    if not options.get("do_sample"):
        for name in ("temperature", "top_k", "top_p"):  # without sampling they mean nothing, and generate warns
            options.pop(name, None)
    config = GenerationConfig(**options)
    pad = pad_token_id(tokenizer)
    generate: Callable[..., torch.Tensor] = model.generate  # pyright: ignore[reportAssignmentType] (PEFT forwards it)
    answers = [""] * len(sources)
    done = 0
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode():
        torch.manual_seed(random_state)
        for part in batching.by_length([len(source) for source in sources], batch_size):
            batch = batching.collate([{"input_ids": sources[row]} for row in part], pad, device)
            written = generate(**batch, generation_config=config)
            for row, text in zip(part, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
                answers[row] = text.strip()
            done += len(part)
            advance(stage, done, len(sources), "rows")
    return answers


def score(
    model: PreTrainedModel | PeftModel, rows: Sequence[dict[str, Any]], pad_token_id: int, batch_size: int
) -> tuple[list[float], list[int]]:
    """For each tokenized row, in their order: its targets' negative log-likelihood in nats, and their number."""
    device = next(model.parameters()).device
    nll, tokens = [0.0] * len(rows), [0] * len(rows)
    for part in batching.by_length([len(row["input_ids"]) + len(row["labels"]) for row in rows], batch_size):
        row_nll, row_tokens = loss.row_losses(
            model, batching.collate([rows[row] for row in part], pad_token_id, device)
        )
        for row, value, count in zip(part, row_nll, row_tokens, strict=True):
            nll[row], tokens[row] = value, count
    return nll, tokens


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokenizer's padding id; 0 where it has none (padding is masked, so that its value never matters)."""
    pad = tokenizer.pad_token_id
    return pad if isinstance(pad, int) else 0
