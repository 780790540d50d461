"""What a word is: for ROUGE, token F1 and BLEU, in any script."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Literal

TokenizerName = Literal["english", "unicode"]

LARGEST_ENGLISH_SHARE = 0.005  # of letters outside ASCII: a name or a loan word here and there

# scx, script extensions: a mark such as the Japanese long-vowel sign belongs to every script that uses it
_SPACELESS = "".join(rf"\p{{scx={script}}}" for script in ("Hani", "Hira", "Kana", "Thai", "Laoo", "Khmr", "Mymr"))
_TOKEN = rf"[[\p{{L}}\p{{N}}]&&[{_SPACELESS}]]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_SPACELESS}]]+"


class UnicodeTokenizer:
    """Words of any script, for ``rouge_score``, whose own tokenizer keeps ``[a-z0-9]`` and so nothing of Japanese.

    A token is a run of letters, marks and digits. Scripts written without spaces between words (Han, Hiragana,
    Katakana, Thai, Lao, Khmer, Myanmar) give one token a character, with its combining marks. Text is compared in
    Unicode's NFKC form and case-folded; nothing is stemmed.
    """

    def __init__(self) -> None:
        import regex

        self._token = regex.compile(_TOKEN, regex.VERSION1)

    def tokenize(self, text: str) -> list[str]:
        """The tokens of ``text`` in order."""
        return self._token.findall(unicodedata.normalize("NFKC", text).casefold())


def choose_tokenizer(references: Sequence[str]) -> tuple[TokenizerName, str]:
    """The tokenizer that suits these reference answers, and why.

    "english" (Google's, with Porter stemming) as long as at most 0.5 % of the letters lie outside ASCII, for it drops
    every other letter; else "unicode". The choice looks at references alone, so that both models are scored alike.
    """
    letters = outside = 0
    for reference in references:
        for character in reference:
            if character.isalpha():
                letters += 1
                outside += not character.isascii()
    share = outside / letters if letters else 0.0
    found = f"{100 * share:.1f} % of the letters in the reference answers are outside ASCII"
    if share > LARGEST_ENGLISH_SHARE:
        return "unicode", f"{found}: words of every script are kept, without stemming"
    return "english", f"{found}: ROUGE's own tokenizer, with stemming"


def bleu_tokenizer(references: Sequence[str], tokenizer: TokenizerName) -> Literal["13a", "intl", "char"]:
    """sacrebleu's name of the tokenizer that BLEU uses; none of them needs a download.

    "13a" for English; else "char" where most letters are of scripts written without spaces, and "intl" for the rest.
    """
    import regex

    if tokenizer == "english":
        return "13a"
    text = "".join(references)
    letters = len(regex.findall(r"\p{L}", text))
    spaceless = len(regex.findall(rf"[\p{{L}}&&[{_SPACELESS}]]", text, flags=regex.VERSION1))
    return "char" if 2 * spaceless > letters else "intl"
