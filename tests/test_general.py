"""`seqtune.general`: the fixed set, and the two losses on it."""

from __future__ import annotations

import math

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from seqtune import general, generation
from seqtune.data import tokens


def test_the_set_is_small_and_plain():
    rows = general.rows()
    assert len(rows) == 50
    assert len({row["question"] for row in rows}) == 50
    assert all(set(row) == {"question", "answer"} and row["answer"].strip() for row in rows)


def test_losses_are_those_of_the_answers(tiny_t5):
    base = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5).eval()
    other = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5).eval()
    other.lm_head.weight.data *= 0.5
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    found = general.compared(base, other, tokenizer, 16)
    assert found["rows"] == 50
    assert found["base"]["loss"] != found["tuned"]["loss"]
    assert general.compared(base, base, tokenizer, 50)["tuned"]["loss"] == pytest.approx(
        found["base"]["loss"], rel=1e-5
    )

    nll = count = 0
    for row in general.rows():
        encoded = {
            "input_ids": tokens.encode(tokenizer, [row["question"]])[0],
            "labels": tokens.encode_targets(tokenizer, [row["answer"]])[0],
        }
        (one,), (size,) = generation.score(base, [encoded], 0, 1)
        nll, count = nll + one, count + size
    assert found["base"]["loss"] == pytest.approx(nll / count, rel=1e-4)
    size = sum(len(row["answer"].encode()) for row in general.rows())
    assert found["base"]["bits_per_byte"] == pytest.approx(nll / math.log(2) / size, rel=1e-4)
