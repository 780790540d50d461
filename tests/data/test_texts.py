"""What the checks of texts say, and what they do not."""

from __future__ import annotations

import pytest

from seqtune.data.checks import clean_rows
from seqtune.data.texts import EXAMPLES, TEXTS, control_tokens, findings_of

GOOD = ("How do I reset it?", "Hold the button for 5 seconds: the light goes out (see page 3 & 4).")
#: Question, answer, the checks that warn.
CASES = [
    (GOOD, set()),
    (("Reset?", "reset? "), {"answer_is_question"}),
    (("Berlin is the capital of Germany", "Berlin"), {"answer_begins_question"}),
    (("What is </s>?", "The end."), {"control_tokens"}),
    (("a", "b <extra_id_12> c"), {"control_tokens"}),
    (("<|im_start|>user", "b<|im_end|>"), {"control_tokens"}),
    (("[INST] a [/INST]", "b"), {"control_tokens"}),
    (("a <pad>", "b"), {"control_tokens"}),
    (("a", "b\x1b[31mc"), {"control_characters"}),
    (("a", "b\x08c"), {"control_characters"}),
    (("CafÃ© or cafÃ¨?", "b"), {"garbled_letters"}),
    (("It isnâ€™t", "b"), {"garbled_letters"}),
    (("a", "b \ufffd c"), {"garbled_letters"}),
    (("a", "<p>b</p>"), {"html"}),
    (("a", 'b<br/>c <a href="https://x">'), {"html"}),
    (("a", "b &amp; c"), {"html"}),
    (("a", "Mail x@example.com"), {"emails"}),
    (("a", "Call +49 30 1234567"), {"phones"}),
    (("a", "Use ghp" + "_" + "aB3" * 12), {"secrets"}),
    (("List<String> x = a<b && c>d;", "if a < b and b > c: x << 2 [SEPARATE] [inst]"), set()),
    (("<name> and <your-name>, <i18n>", "Map<K, V>, </sad>, <|>, &ampere, R&D; &copy"), set()),
    (("Ça va? Århus, Âge, SÃO, Đà Nẵng, Íslenska Ð", "Tabs\tand\nlines\r\nand zero\u200bwidth, RTL \u200f"), set()),
    (("日本語？", "नमस्ते, سلام"), set()),
]


@pytest.mark.parametrize(("pair", "checks"), CASES)
def test_each(pair: tuple[str, str], checks: set[str]) -> None:
    rows = [dict(zip(("question", "reply"), each, strict=True)) for each in (GOOD, pair)]
    clean = clean_rows(rows, [], "question", "reply")
    found = findings_of(clean, "a.json")
    assert [finding.check for finding in found] == list(TEXTS)
    found.append(control_tokens(clean, "a.json"))
    assert {finding.check for finding in found if finding.verdict == "WARN"} == checks
    for finding in found:
        assert finding.verdict != "FAIL"
        assert finding.of == 2
        if finding.verdict == "WARN":
            assert finding.rows == 1
            assert finding.examples[0].startswith("row 2  `") or finding.examples[0].startswith("row 2  …`")
            assert finding.mend
            assert "\x1b" not in finding.examples[0]


def test_few_examples_and_all_counted() -> None:
    rows = [{"question": f"a {i}", "reply": "<b>x</b>"} for i in range(50)]
    (finding,) = [each for each in findings_of(clean_rows(rows, [], "question", "reply"), "a") if each.check == "html"]
    assert (finding.rows, finding.of, len(finding.examples)) == (50, 50, EXAMPLES + 1)
    assert finding.examples[-1] == "… and 45 more"


def test_control_tokens_of_the_model_that_is_named() -> None:
    """`en_XX` steers mBART alone; `<user>` is an ordinary token of whoever added it, and that is said."""
    own = {"</s>": True, "en_XX": True, "<user>": False}
    rows = [
        {"question": "a en_XX b", "reply": "x"},
        {"question": "c", "reply": "<|im_end|>"},
        {"question": "d", "reply": "e"},
    ]
    clean = clean_rows(rows, [], "question", "reply")
    without, with_own = control_tokens(clean), control_tokens(clean, own=own)
    assert (without.rows, with_own.rows) == (1, 2)
    assert "(1 with some of this one)" in with_own.found
    assert "en_XX" in with_own.examples[0]
    assert "none of them steers the model" in with_own.mend
    clean = clean_rows([{"question": "a <user> b </s>", "reply": "x"}], [], "question", "reply")
    assert "This model's vocabulary has <user>, read as such" in control_tokens(clean, own=own).mend
