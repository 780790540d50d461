from __future__ import annotations

import pytest

from seqtune import generation
from seqtune.data import tokens
from seqtune.errors import InputError


@pytest.mark.parametrize(
    ("longest", "limit", "positions", "given", "expected", "reason"),
    [
        (40, 1024, None, None, 50, "has 40 tokens"),
        (3, 1024, None, None, 4, "has 3 tokens"),
        (1000, 1024, None, None, 512, "at most 512"),
        (1000, 1024, None, 7, 7, "given"),
        (300, 128, 128, None, 127, "128 positions"),
        (300, 20, 128, None, 25, "has 20 tokens"),
    ],
)
def test_the_token_limit_is_derived(
    longest: int, limit: int, positions: int | None, given: int | None, expected: int, reason: str
):
    limits = {"target": {"value": limit, "positions": positions}}
    decided = generation.with_token_limit({"target": {"max": longest}}, limits, {"max_new_tokens": given})
    assert decided["max_new_tokens"] == expected
    assert reason in decided["max_new_tokens_reason"]


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(InputError, match="at most 127: the decoder has 128 positions"):
        generation.with_token_limit(
            {"target": {"max": 9}}, {"target": {"value": 9, "positions": 128}}, {"max_new_tokens": 128}
        )


def test_the_template_takes_no_other_braces_for_its_own():
    texts = ["awk '{print $1}'", "{question}"]
    assert tokens.apply_template("do: {question} {x}", texts) == ["do: awk '{print $1}' {x}", "do: {question} {x}"]
