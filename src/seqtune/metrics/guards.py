"""What is wrong with an answer whatever the reference says: nothing in it, the question again, a loop, no end, recital.

Mean scores hide these: a model that copies questions has some words right. Each answer gets its flags, and a set is
told by counts. The rules are strict enough that a flag is worth a look, and a reference that does the same (an answer
that quotes the question, a list that repeats) excuses the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import regex

from seqtune.metrics.words import UnicodeTokenizer

#: Each flag and what it says.
FLAGS = {
    "empty": "the answer is empty",
    "copies_question": "the answer is the question, holds the whole of it, or is the larger part of it, word for word",
    "repeats_itself": "some words come three times in a row or more, six words at least",
    "at_limit": "the answer did not end by itself: it was cut at the limit of its length",
    "memorised": "the answer is one of the training answers, word for word",
}

#: Shorter questions and answers than this (words; characters where a script has no spaces) are no copies: "Yes" is not.
COPIED_WORDS = 5
#: Words of the longest stretch that is looked for three times in a row.
LONGEST_LOOP = 64
#: Words of a loop, all its rounds together.
LOOP_WORDS = 6

# A word of any script, or a single character that is neither a word's nor white space: dots can loop as well.
_PIECE = regex.compile(r"[\p{L}\p{M}\p{N}]+|[^\s\p{L}\p{M}\p{N}]")


class Guards:
    """The flags of answers, given the answers of training.

    Args:
        training_answers: what the tuned model was trained to say.
    """

    def __init__(self, training_answers: Iterable[str] = ()):
        self._words = UnicodeTokenizer()
        self._trained = {hash(_plain(text)) for text in training_answers}  # not the texts: there may be a million

    def flags(self, answer: str, question: str, references: Sequence[str], at_limit: bool = False) -> list[str]:
        """The names of what is wrong, in the order of `FLAGS`."""
        found = []
        if not answer.strip():
            found.append("empty")
        asked, said = self._words.tokenize(question), self._words.tokenize(answer)
        if _copies(said, asked) and not any(_copies(self._words.tokenize(each), asked) for each in references):
            found.append("copies_question")
        if repeats(answer) and not any(map(repeats, references)):
            found.append("repeats_itself")
        if at_limit:
            found.append("at_limit")
        if len(said) >= COPIED_WORDS and hash(_plain(answer)) in self._trained:
            found.append("memorised")
        return found


def counted(rows: Sequence[Mapping[str, Any]], model: str) -> dict[str, int]:
    """How many answers of a model have each flag.

    Args:
        rows: prediction rows with ``flags`` (those without are not counted).
        model: ``base`` or ``tuned``.

    Returns:
        ``rows``, a count for each of `FLAGS`, and ``memorised_right``: those of ``memorised`` that are the answer that
        was wanted; the others are recited and wrong.
    """
    flagged = [row for row in rows if model in (row.get("flags") or {})]
    counts = {name: sum(name in row["flags"][model] for row in flagged) for name in FLAGS}
    right = 0
    for row in flagged:
        wanted = row.get("references") or [row["reference"]]
        right += "memorised" in row["flags"][model] and _plain(row[model]) in map(_plain, wanted)
    return {"rows": len(flagged), **counts, "memorised_right": right}


def repeats(text: str) -> bool:
    """Whether a stretch of 1 to 64 words comes three times in a row or more, with six words at least in all."""
    pieces = _PIECE.findall(text.casefold())
    if len(pieces) < LOOP_WORDS:
        return False
    places: dict[str, int] = {}
    ids = np.array([places.setdefault(piece, len(places)) for piece in pieces])
    if len(places) == len(pieces):  # no word comes twice
        return False
    for width in range(1, min(LONGEST_LOOP, len(ids) // 3) + 1):
        # k rounds of a stretch are (k − 1) · width words in a row that are the words one stretch later
        wanted = max(2 * width, LOOP_WORDS - width)
        same = np.flatnonzero(np.concatenate(([True], ids[:-width] != ids[width:], [True])))
        if np.diff(same).max() - 1 >= wanted:
            return True
    return False


def _copies(said: Sequence[str], asked: Sequence[str]) -> bool:
    if min(len(said), len(asked)) < COPIED_WORDS:
        return False
    return _within(asked, said) or (2 * len(said) >= len(asked) and _within(said, asked))


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether the words of ``part`` stand in ``whole`` one after the other."""
    return f"\0{chr(0).join(part)}\0" in f"\0{chr(0).join(whole)}\0"


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
