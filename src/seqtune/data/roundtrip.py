"""What a tokenizer can't give back of the rows: how many of them, which characters, and what they become.

What is lost on the way in the model can't read, what is lost on the way out it can't write. `models.pieces` mends it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from seqtune.data.checks import counted
from seqtune.data.columns import batches
from seqtune.data.findings import Finding
from seqtune.data.tokens import apply_template, encode, encode_targets
from seqtune.models import pieces
from seqtune.progress import advance, say, warn

#: Rows that are looked at: sets are in the order of a hash, so that the first ones are a sample.
LOOKED_AT = 20_000
#: Examples that are kept, and characters of each around the loss.
EXAMPLES, AROUND = 5, 40
#: Rows in work at a time.
STEP = 1_000


def characters_to_preserve(
    train_set: Dataset, tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any]
) -> list[str]:
    """The characters of the training rows that the tokenizer can't give back, the most frequent first; said aloud.

    Args:
        train_set: the training rows.
        tokenizer: of the base model.
        settings: the knobs ``preserve_characters`` (if it is off, there are none) and ``input_template``.
    """
    if not settings["preserve_characters"]:
        return []
    rows_with: Counter[str] = Counter()
    for sources, references in batches(train_set, "input", "reference"):
        for text in (*apply_template(settings["input_template"], sources), *references):
            rows_with.update(_characters(text))
    found = sorted(pieces.lost(tokenizer, rows_with), key=lambda each: (-rows_with[each], each))
    kept = found[: pieces.MOST]
    if kept:
        shown = ", ".join(pieces.name_of(each) for each in kept[:12])
        say(f"characters with pieces of their own: {shown}{f' and {len(kept) - 12} more' if len(kept) > 12 else ''}")
    if len(found) > len(kept):
        warn(f"{len(found) - len(kept)} characters more would be lost: at most {pieces.MOST} are given pieces")
    return kept


def loss(train_set: Dataset, tokenizer: PreTrainedTokenizerBase, template: str) -> dict[str, Any]:
    """What becomes of the training rows when they are encoded and decoded again.

    Args:
        train_set: the training rows; the first `LOOKED_AT` are looked at.
        tokenizer: that the model is given.
        template: of the inputs.

    Returns:
        ``rows`` that lose something on either side, ``of`` how many that were looked at, ``characters`` with the number
        of rows that lose each (most first), ``examples`` with ``row``, ``side``, ``before`` and ``after``.
    """
    looked_at = train_set.select(range(min(len(train_set), LOOKED_AT)))
    lost_of: dict[str, bool] = {}
    rows_with: Counter[str] = Counter()
    examples: list[dict[str, Any]] = []
    rows = 0
    done = 0
    for numbers, inputs, references in batches(looked_at, "row", "input", "reference", size=STEP):
        sides = {
            "source": (sources := apply_template(template, inputs), encode(tokenizer, sources)),
            "target": (references, encode_targets(tokenizer, references)),
        }
        failing: dict[int, set[str]] = {}
        for side, (texts, ids) in sides.items():
            back = tokenizer.batch_decode(ids, skip_special_tokens=True)
            for place, (before, after) in enumerate(zip(texts, back, strict=True)):
                if before.strip() == after.strip():
                    continue
                unknown = _characters(before) - lost_of.keys()
                lost_of.update(dict.fromkeys(unknown, False), **dict.fromkeys(pieces.lost(tokenizer, unknown), True))
                lost = {each for each in _characters(before) if lost_of[each]}
                if len(examples) < EXAMPLES and place not in failing:
                    examples.append({"row": numbers[place], "side": side, **_around(before, after)})
                failing.setdefault(place, set()).update(lost)
        rows += len(failing)
        rows_with.update(each for lost in failing.values() for each in lost)
        done += len(numbers)
        advance("what the tokenizer loses", done, len(looked_at), "rows")
    ordered = sorted(rows_with.items(), key=lambda item: (-item[1], item[0]))
    return {"rows": rows, "of": len(looked_at), "characters": dict(ordered), "examples": examples}


def finding(found: Mapping[str, Any], preserved: bool) -> Finding:
    """The loss as a check of the data.

    Args:
        found: as `loss` gives it.
        preserved: whether ``preserve_characters`` is on.
    """
    rows, of = found["rows"], found["of"]
    if not rows:
        return Finding("tokenizer_loss", "PASS", "the tokenizer gives every row back as it was", 0, of)
    named = [f"{pieces.name_of(each)} ({count:,})" for each, count in found["characters"].items()]
    shown = ", ".join(named[:12]) + (f" and {len(named) - 12} more" if len(named) > 12 else "")
    mend = "--preserve-characters gives each of them a piece of its own, and trains it with the adapter."
    return Finding(
        "tokenizer_loss",
        "WARN" if rows >= 0.001 * of else "PASS",
        f"{rows:,} of {counted(of, 'row')} ({rows / of:.1%}) are not what they were after the tokenizer"
        + (f"; lost: {shown} (rows)" if named else ""),
        rows,
        of,
        tuple(_line(each) for each in found["examples"]),
        "" if preserved else mend,
    )


def _characters(text: str) -> set[str]:
    """The characters of a text; a space only where one might be lost: beside white space, or at an end."""
    found = set(text)
    if not ("  " in text or any(f"{each} " in text for each in "\n\t\r") or text != text.strip(" ")):
        found.discard(pieces.SPACE)
    return found


def _around(before: str, after: str) -> dict[str, str]:
    """The two texts around the first place where they differ."""
    shorter = min(len(before), len(after))
    same = next((place for place in range(shorter) if before[place] != after[place]), shorter)
    start = max(0, same - AROUND // 2)
    cut = {"before": before[start : start + AROUND], "after": after[start : start + AROUND]}
    return {
        name: ("…" if start else "") + part + ("…" if start + AROUND < len(whole) else "")
        for (name, part), whole in zip(cut.items(), (before, after), strict=True)
    }


def _line(example: Mapping[str, Any]) -> str:
    return f"row {example['row']:,}  {_visible(example['before'])} → {_visible(example['after'])}"


def _visible(text: str) -> str:
    return "“" + text.replace("\n", "⏎").replace("\t", "⇥") + "”"
