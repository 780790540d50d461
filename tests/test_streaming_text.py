"""Answers that grow piece by piece: together the pieces are the text that the tokenizer makes of all tokens."""

from __future__ import annotations

import random

import pytest

from seqtune.streaming import NEAR, GrowingText
from tiny_models import FAMILIES, tiny_tokenizer

WORDS = ("Reset", "it", "in", "5", "minutes.", "Grüße", "日本", "🙂", "don't", "x.y", "\n", ",", " ")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pieces_are_the_text(family: str):
    tokenizer, dice = tiny_tokenizer(family), random.Random(0)
    settled = 0
    for turn in range(20):
        ids = [dice.randrange(len(tokenizer)) for _ in range(60)]
        if turn % 2:
            ids = tokenizer(" ".join(dice.choices(WORDS, k=40)), add_special_tokens=False)["input_ids"]
        text = GrowingText(tokenizer)
        pieces = [text.add(token) for token in ids] + [text.close()]
        assert "".join(pieces) == str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
        settled = max(settled, text._from)
    assert settled > 2 * NEAR  # else all of it was looked at each time
