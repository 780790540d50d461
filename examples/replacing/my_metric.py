"""A metric of your own beside ours: in how many answers every number is right."""

import re
from typing import Any

from seqtune import scoring


def hold_out_set_metrics(
    base_model_on_hold_out_set: dict[str, list],
    finetuned_model_on_hold_out_set: dict[str, list],
    rouge_words: dict[str, Any],
) -> dict[str, dict[str, float]]:
    """Replaces the node of the same name; `run.json`, the report and the closing table show what it returns."""
    both = {"base": base_model_on_hold_out_set, "tuned": finetuned_model_on_hold_out_set}
    return {
        name: {**scoring.set_metrics(answers, rouge_words["value"]), "numbers_right": numbers_right(answers)}
        for name, answers in both.items()
    }


def numbers_right(answers: dict[str, list]) -> float:
    """Share of the answers with just the numbers of their reference, 0–100."""
    pairs = list(zip(answers["predictions"], answers["references"], strict=True))
    right = sum(re.findall(r"\d+", answer) == re.findall(r"\d+", reference) for answer, reference in pairs)
    return 100 * right / len(pairs)
