"""Texts as sets of short pieces, by which likeness is measured: every four characters in a row, hashed.

Characters rather than words, so that scripts without spaces are treated like all others; of the text without case,
spacing and punctuation (`question_key`), with empty places at both ends, so that each character is in four pieces and
counts the same. A batch of texts is one flat array, worked on at once.

Shape suffixes: R texts, S pieces of all of them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import regex
from numpy.typing import NDArray

#: Characters in a piece.
LENGTH = 4
#: Of texts with more pieces than this, a sample of them is compared (chosen by hash, the same in every text).
MOST = 256
# Letters, marks and numbers of every script stay; of the marks, not the invisible ones (variation selectors, joiners).
ASIDE = regex.compile(r"[^\p{L}\p{M}\p{N}]+|\p{Default_Ignorable_Code_Point}+")
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIXER = np.uint64(0xBF58476D1CE4E5B9)
_LOW = np.uint64(0xFFFFFFFF)


def question_key(text: str) -> str:
    """What two questions must share to be the same: their letters, marks and numbers, NFKC and casefolded.

    Of a text without any of these ("???"), the text itself, stripped.
    """
    # Folding case can undo the normal form, so that is made again (as Unicode's NFKC_Casefold does).
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return ASIDE.sub("", folded) or text.strip()


@dataclass(frozen=True)
class Shingles:
    """The pieces of a batch of texts.

    Args:
        values: uint64 [S], below 2³²; those of one text together, ascending, each once.
        ends: uint64 [R + 1]; the pieces of text ``r`` are ``values[ends[r]:ends[r + 1]]``.
    """

    values: NDArray[np.uint64]
    ends: NDArray[np.uint64]

    def sampled(self) -> tuple[Shingles, NDArray[np.uint64]]:
        """At most about `MOST` pieces of each text, and below which value all of a text's are there (uint64 [R]).

        The bound is 2³² halved until few enough are left, so that of two texts the smaller bound counts for both.
        """
        counts = np.diff(self.ends).astype(np.int64)
        halvings = np.ceil(np.log2(np.maximum(counts / MOST, 1))).astype(np.uint64)
        bounds = np.uint64(2**32) >> halvings
        if not halvings.any():
            return self, bounds
        kept = self.values < np.repeat(bounds, counts)
        before = np.concatenate([[0], np.cumsum(kept)])
        return Shingles(self.values[kept], before[self.ends.astype(np.int64)].astype(np.uint64)), bounds


def shingles_of(keys: Sequence[str]) -> Shingles:
    """The pieces of texts as `question_key` makes them. A text has at least one, as none of them is empty."""
    gap = "\0" * (LENGTH - 1)
    text = gap + gap.join(keys) + gap
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    places = len(characters) - LENGTH + 1
    hashed = np.zeros(places, dtype=np.uint64)
    for offset in range(LENGTH):
        hashed = (hashed * _ODD) ^ characters[offset : offset + places]
        hashed ^= hashed >> np.uint64(29)
    hashed *= _MIXER
    hashed ^= hashed >> np.uint64(32)
    lengths = np.fromiter(map(len, keys), dtype=np.int64, count=len(keys))
    rows = np.repeat(np.arange(len(keys), dtype=np.uint64), lengths + LENGTH - 1)
    # A row's number and a piece in one value: one sort brings the equal ones together.
    both = np.sort((rows << np.uint64(32)) | (hashed & _LOW))
    both = both[np.concatenate([[True], both[1:] != both[:-1]])] if len(both) else both
    ends = np.searchsorted(both, np.arange(len(keys) + 1, dtype=np.uint64) << np.uint64(32))
    return Shingles(both & _LOW, ends.astype(np.uint64))
