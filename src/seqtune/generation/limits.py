"""How long an answer may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqtune.errors import InputError
from seqtune.progress import say

#: Longest answer, in tokens, unless max_new_tokens says otherwise.
LONGEST_ANSWER = 512


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
