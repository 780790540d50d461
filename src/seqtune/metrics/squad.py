"""Exact match and token F1 as SQuAD's evaluation script has them.

Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 6.1; the script
``evaluate-v2.0.py`` decides where the paper does not. It lower-cases, takes out ASCII punctuation and the articles a,
an, the, and splits at white space. That leaves Japanese one word, so for text that is not English the words are those
of `words.UnicodeTokenizer`, punctuation of every script is no word, and articles stay.
"""

from __future__ import annotations

import re
import string
from collections import Counter

from seqtune.metrics.words import TokenizerName, UnicodeTokenizer

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class SquadWords:
    """Words as SQuAD takes them.

    Args:
        tokenizer: "english" is SQuAD's own way, "unicode" that for any script.
    """

    def __init__(self, tokenizer: TokenizerName):
        self._unicode = UnicodeTokenizer() if tokenizer == "unicode" else None

    def __call__(self, text: str) -> list[str]:
        """The words of an answer, in order; of a text without any ("🙂"), the text itself in any script's way."""
        if self._unicode is None:
            return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
        return self._unicode.tokenize(text) or text.split()


def exact_match(answer: list[str], reference: list[str]) -> float:
    """100 where both have the same words, else 0."""
    return 100.0 if answer == reference else 0.0


def f1(answer: list[str], reference: list[str]) -> float:
    """Harmonic mean of the shares of words that the two have in common, 0 to 100; 100 where neither has a word."""
    if not answer or not reference:
        return exact_match(answer, reference)
    common = sum((Counter(answer) & Counter(reference)).values())
    return 200.0 * common / (len(answer) + len(reference))
