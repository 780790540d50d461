"""What to know of texts that can be used: answers that repeat the question, markup, control tokens, private data.

All of it in one pass over the rows; none of it stops a run. Not covered: what repeats itself from row to row
(`duplicates`), what a tokenizer makes of a text (`tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from seqtune.data import private
from seqtune.data.columns import batches
from seqtune.data.findings import Finding
from seqtune.data.problems import quoted

if TYPE_CHECKING:
    from datasets import Dataset

#: So many examples of each finding are kept.
EXAMPLES = 5

#: Tokens by which models of all kinds are steered. In a text they are text: see `tokens.encode`.
CONTROL_TOKENS = re.compile(
    r"</?s>|<(?:pad|unk|mask|bos|eos|cls|sep|extra_id_\d+|start_of_turn|end_of_turn)>|<\|[\w▁ ]{1,40}\|>"
    r"|\[/?INST\]|<</?SYS>>|\[(?:CLS|SEP|PAD|MASK|UNK|BOS|EOS)\]"
)
_HTML = re.compile(
    r"</?(?:a|abbr|b|blockquote|body|br|code|div|em|font|h[1-6]|head|hr|html|i|iframe|img|input|li|link|meta|ol|p|pre"
    r"|script|section|small|span|strong|style|sub|sup|table|tbody|td|th|thead|tr|u|ul)(?:\s+[a-z-]+(?:\s*=[^<>]{0,500})?)?\s*/?>"
    r"|&(?:nbsp|amp|lt|gt|quot|apos|#\d{2,5}|#x[0-9a-f]{2,5});",
    re.I,
)
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
#: UTF-8 that was once read as Windows-1252: ``Ã©`` for é, ``â€™`` for ’.
_MOJIBAKE = re.compile(r"[ÃÂÐÑ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€[\u0080-\u00bf™œ“”˜¦¢]|\ufffd")

Look = Callable[[str, str], str | None]


@dataclass
class _Tally:
    rows: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count a row."""
        self.rows += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


#: Check → what it is called in a sentence, what to do about it.
TEXTS = {
    "answer_is_question": (
        "rows whose answer is the question",
        "A model learns to repeat what it is asked. Look at these rows; take them out unless that is what you want.",
    ),
    "answer_begins_question": (
        "rows whose answer is the beginning of the question",
        "Was the answer cut off, or are the fields swapped?",
    ),
    "control_characters": ("texts with control characters", "Left over from a terminal or a printer? Take them out."),
    "garbled_letters": (
        "texts whose letters were garbled before they came here",
        "Read as the wrong encoding once (Ã© for é), or lost (\ufffd). Make the file anew from its source.",
    ),
    "html": ("texts with HTML", "The model will write HTML too. Strip the tags unless that is what you want."),
    "emails": ("texts with e-mail addresses", "A model may recite them. --mask all puts [EMAIL] in their place."),
    "phones": ("texts with phone numbers", "A model may recite them. --mask all puts [PHONE] in their place."),
    "secrets": (
        "texts with keys that look like secrets",
        "Withdraw these keys where they were made out. --mask secrets puts [SECRET] in their place.",
    ),
}


def findings_of(rows: Dataset, where: str = "") -> list[Finding]:
    """A finding for each check of `TEXTS`; control tokens have a function of their own.

    Args:
        rows: clean rows, masked where that was asked for.
        where: begins each sentence; their file, where there are several.
    """
    tallies = {check: _Tally() for check in TEXTS}
    for part in batches(rows, "row", "input", "reference", stage="looking at texts"):
        for number, question, answer in zip(*part, strict=True):
            for check, example in _seen(question, answer):
                tallies[check].add(f"row {number}  {example}")
    return [_finding(check, TEXTS[check], tallies[check], where, len(rows)) for check in TEXTS]


def control_tokens(rows: Dataset, where: str = "", own: Mapping[str, bool] | None = None) -> Finding:
    """Tokens in the texts by which models are steered.

    Args:
        rows: clean rows.
        where: begins the sentence; their file, where there are several.
        own: those of the model that is to be tuned (`plain.control_names`), besides `CONTROL_TOKENS`.
    """
    own = own or {}
    more = sorted((name for name in own if not CONTROL_TOKENS.fullmatch(name)), key=len, reverse=True)
    pattern = re.compile("|".join([*map(re.escape, more), CONTROL_TOKENS.pattern]))
    signs = ("<", "[", *(name for name in more if name[0] not in "<["))  # without one of these there is none
    tally, of_this, kept = _Tally(), 0, dict[str, None]()
    for numbers, *both in batches(rows, "row", "input", "reference", stage="looking for control tokens"):
        for number, *texts in zip(numbers, *both, strict=True):
            found = [each for text in texts if any(sign in text for sign in signs) for each in pattern.finditer(text)]
            if found:
                tally.add(f"row {number}  {_excerpt(found[0].string, found[0].start())}")
                of_this += any(each[0] in own for each in found)
                kept.update((each[0], None) for each in found if not own.get(each[0], True))
    what = "texts with control tokens of models" + (f" ({of_this:,} with some of this one)" if of_this else "")
    mend = "They are kept as plain text, in training and in use: none of them steers the model."
    if kept:
        mend = (
            f"This model's vocabulary has {', '.join(list(kept)[:5])}, read as such; the others are kept as plain text."
        )
    return _finding(
        "control_tokens", (what, f"{mend} Take out what another tool's format left over."), tally, where, len(rows)
    )


def _finding(check: str, words: tuple[str, str], tally: _Tally, where: str, total: int) -> Finding:
    what, mend = words
    if not tally.rows:
        return Finding(check, "PASS", f"{where}no {what}", of=total)
    more = [f"… and {tally.rows - EXAMPLES:,} more"] if tally.rows > EXAMPLES else []
    found = f"{where}{tally.rows:,} of {total:,} rows: {what}"
    return Finding(check, "WARN", found, tally.rows, total, (*tally.examples, *more), mend)


def _seen(question: str, answer: str) -> Iterator[tuple[str, str]]:
    """The checks that a row meets, each with an excerpt."""
    asked, said = question.strip().casefold(), answer.strip().casefold()
    if asked == said:
        yield "answer_is_question", _excerpt(answer, 0)
    elif asked.startswith(said):
        yield "answer_begins_question", f"{_excerpt(answer, 0)} begins {_excerpt(question, 0)}"
    for check, pattern, sign in _PATTERNS:
        for text in (question, answer):
            if (sign is None or any(each in text for each in sign)) and (found := pattern.search(text)):
                yield check, _excerpt(text, found.start())
                break
    private_data: dict[str, str] = {}
    for text in (question, answer):
        for kind, found_texts in private.found_in(text).items():
            private_data.setdefault(kind, quoted(private.shown(kind, found_texts[0])))
    yield from private_data.items()


#: Check, its pattern, and characters without which the pattern can't match.
_PATTERNS = (
    ("control_characters", _CONTROL, None),
    ("garbled_letters", _MOJIBAKE, "ÃÂÐÑâ\ufffd"),
    ("html", _HTML, "<&"),
)


def _excerpt(text: str, position: int) -> str:
    start = max(0, position - 15)
    rest = text[start : position + 45]
    return f"{'…' if start else ''}{quoted(rest)}{'…' if len(text) > position + 45 else ''}"
