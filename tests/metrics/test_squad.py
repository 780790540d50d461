"""`seqtune.metrics.squad` against SQuAD's evaluation script, and in scripts that the script does not know."""

from __future__ import annotations

import collections
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqtune.metrics import row_scores
from seqtune.metrics.squad import SquadWords, exact_match, f1


def official(gold: str, said: str) -> tuple[float, float]:
    """Exact match and F1 as ``evaluate-v2.0.py`` works them out, 0 to 1."""

    def normalize(s: str) -> str:
        exclude = set(string.punctuation)
        s = "".join(ch for ch in s.lower() if ch not in exclude)
        return " ".join(re.compile(r"\b(a|an|the)\b", re.UNICODE).sub(" ", s).split())

    gold_toks, pred_toks = normalize(gold).split(), normalize(said).split()
    exact = float(normalize(gold) == normalize(said))
    common = collections.Counter(gold_toks) & collections.Counter(pred_toks)
    num_same = sum(common.values())
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return exact, float(gold_toks == pred_toks)
    if num_same == 0:
        return exact, 0.0
    precision, recall = num_same / len(pred_toks), num_same / len(gold_toks)
    return exact, (2 * precision * recall) / (precision + recall)


PIECES = st.sampled_from(
    ["the ", "a", "an ", " cat", "cat,", "Cat's", ".", " ", "dog", "é", "東京", "\u00a0", "-", "é!"]
)


@given(st.lists(PIECES, max_size=8).map("".join), st.lists(PIECES, max_size=8).map("".join))
def test_the_english_way_is_the_scripts(answer, reference):
    words = SquadWords("english")
    said, wanted = words(answer), words(reference)
    assert (exact_match(said, wanted) / 100, f1(said, wanted) / 100) == pytest.approx(
        official(reference, answer), abs=1e-12
    )


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "overlap"),
    [
        ("the Denver Broncos.", "Denver Broncos", 100, 100),  # articles, case and the full stop aside
        ("Denver", "Denver Broncos", 0, 100 * 2 / 3),  # precision 1, recall 1/2
        ("Broncos Denver Denver", "Denver Broncos", 0, 80),  # 2 of 3 and 2 of 2
        ("", "", 100, 100),
        ("the", "a", 100, 100),
        ("", "Denver", 0, 0),
    ],
)
def test_worked_out_by_hand(answer, reference, exact, overlap):
    (row,) = row_scores([answer], [reference])
    assert (row["exact_match"], row["f1"]) == (exact, pytest.approx(overlap))


def test_scripts_without_spaces_are_taken_by_characters():
    (row,) = row_scores(["東京です。"], ["東京"], "unicode")
    assert (row["exact_match"], row["f1"]) == (0, pytest.approx(100 * 4 / 6))
    assert row_scores(["「東京」"], ["東京。"], "unicode")[0]["exact_match"] == 100
    assert row_scores(["東京です。"], ["東京"], "english")[0]["f1"] == 0, "SQuAD's own way"


def test_texts_without_a_word_are_compared_as_they_are():
    same, other = row_scores(["🙂", "🙂"], ["🙂", "🎉"], "unicode")
    assert (same["exact_match"], same["f1"], other["exact_match"], other["f1"]) == (100, 100, 0, 0)
