"""`seqtune.metrics.guards`: what each flag catches, and what it leaves alone."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqtune.metrics.guards import FLAGS, Guards, counted, repeats

QUESTION = "How do I reset the password of my account?"
RECITED = "Send the lamp to hall 9; the label is in the box."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", ["empty"]),
        (" \n\t", ["empty"]),
        ("Open Settings and press Reset.", []),
        (QUESTION, ["copies_question"]),
        ("how do i reset the password of my account", ["copies_question"]),
        (f"{QUESTION} Yes.", ["copies_question"]),
        ("reset the password of my account", ["copies_question"]),  # 6 of its 9 words
        ("the password of my account", ["copies_question"]),
        ("my account", []),
        ("The password of my account is safe.", []),
        ("the 1960s, and the 1960s, and the 1960s, and", ["repeats_itself"]),
        ("no no no no no no", ["repeats_itself"]),
        ("no no no no", []),
        (". . . . . . .", ["repeats_itself"]),
        ("Press it twice, wait, press it twice.", []),
        (RECITED, ["memorised"]),
        (RECITED.upper().replace(" ", "  "), ["memorised"]),
        ("Yes.", []),  # trained too, but anyone says so
    ],
)
def test_flags(answer, expected):
    guards = Guards([RECITED, "Yes."])
    assert guards.flags(answer, QUESTION, ["Open Settings, choose Account and press Reset."]) == expected
    assert guards.flags(answer, QUESTION, ["Open it."], at_limit=True) == sorted(
        [*expected, "at_limit"], key=[*FLAGS].index
    )


def test_a_reference_that_does_the_same_is_an_excuse():
    guards = Guards()
    assert guards.flags(QUESTION, QUESTION, ["Open it.", f"{QUESTION} So:"]) == []
    assert guards.flags("la la la la la la", "Sing!", ["la la la la la la la"]) == []


def test_scripts_without_spaces():
    guards = Guards()
    assert guards.flags("日本の首都はどこですか", "日本の首都はどこですか?", ["東京"]) == ["copies_question"]
    assert guards.flags("東京", "日本の首都はどこですか?", ["東京"]) == []


def test_counts():
    guards = Guards([RECITED])
    rows = [
        {
            "reference": reference,
            "base": "",
            "tuned": answer,
            "flags": {"base": ["empty"], "tuned": guards.flags(answer, "What?", [reference])},
        }
        for answer, reference in ((RECITED, RECITED), (RECITED, "Another."), ("no no no no no no", "x"))
    ]
    quiet = {"empty": 0, "copies_question": 0, "repeats_itself": 0, "at_limit": 0, "memorised": 0, "memorised_right": 0}
    assert counted(rows, "tuned") == {**quiet, "rows": 3, "memorised": 2, "memorised_right": 1, "repeats_itself": 1}
    assert counted(rows, "base") == {**quiet, "rows": 3, "empty": 3}
    assert counted([{"reference": "a", "base": "b", "tuned": "c"}], "base")["rows"] == 0, "a run of an older version"


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_any_text_gives_known_flags(answer, question, reference):
    assert set(Guards([reference]).flags(answer, question, [reference])) <= set(FLAGS)


@given(st.lists(st.sampled_from("ab,."), max_size=14))
def test_loops_are_those_that_a_plain_search_finds(pieces):
    loops = any(
        pieces[start : start + width] * rounds == pieces[start : start + width * rounds]
        for width in range(1, 15)
        for rounds in range(3, 15)
        if width * rounds >= 6
        for start in range(len(pieces) - width * rounds + 1)
    )
    assert repeats(" ".join(pieces)) == loops


def test_long_answers_take_no_time():
    text = " ".join(str(n * n % 997) for n in range(20_000))
    started = time.perf_counter()
    repeats(text)
    assert time.perf_counter() - started < 2
