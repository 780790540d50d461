"""Beam search over one question, step by step, as transformers does it (``GenerationMixin._beam_search``, 5.23).

At each step the likeliest ``2 · beams`` continuations of all beams are looked at: those that end and are among the
first ``beams`` are finished, with the score log-probability / length^length_penalty; the best of the others go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from seqtune.generation.wishes import Wishes

#: The score of what is not there.
NOTHING = -1.0e9


@dataclass
class _Finished:
    score: float = NOTHING
    tokens: list[int] = field(default_factory=list)
    there: bool = False


class Beams:
    """The beams of one answer.

    Attributes:
        scores: log-probability of each beam.
        written: tokens of each beam, without the start.
        done: no better answer is to be found.
    """

    def __init__(self, wishes: Wishes):
        self.wishes = wishes
        self.scores = [0.0] + [NOTHING] * (wishes.beams - 1)  # all begin alike: the first alone counts
        self.written: list[list[int]] = [[] for _ in range(wishes.beams)]
        self.done = False
        self._finished = [_Finished() for _ in range(wishes.beams)]
        self._hopeful = True

    @staticmethod
    def looked_at(wishes: Wishes) -> int:
        """How many continuations a step looks at."""
        return max(2, 1 + len(wishes.ends)) * wishes.beams

    @property
    def best(self) -> list[int]:
        """The tokens of the best finished beam; of the best unfinished one where none is."""
        first = self._finished[0]
        return first.tokens if first.tokens else self.written[0]

    def go_on(self, found: list[tuple[float, int, int]]) -> list[int]:
        """Take a step.

        Args:
            found: (log-probability, beam, token) of the likeliest continuations, best first, `looked_at` of them.

        Returns:
            Of each beam, whose continuation it is.
        """
        wishes, beams = self.wishes, self.wishes.beams
        length = len(self.written[0]) + 1
        longer = [(score, beam, token, [*self.written[beam], token]) for score, beam, token in found]
        ends = [token in wishes.ends or length >= wishes.limit for _, _, token, _ in longer]
        running = sorted(
            ((score + NOTHING * end, beam, tokens) for (score, beam, _, tokens), end in zip(longer, ends, strict=True)),
            key=lambda each: -each[0],
        )[:beams]
        full = wishes["early_stopping"] is True and all(each.there for each in self._finished)
        fresh = []
        for rank, ((score, _, _, tokens), end) in enumerate(zip(longer, ends, strict=True)):
            counts = end and rank < beams
            lost = NOTHING * (full + (not self._hopeful) + (not counts))
            fresh.append(_Finished(score / length ** wishes["length_penalty"] + lost, tokens, counts))
        self._finished = sorted([*self._finished, *fresh], key=lambda each: -each.score)[:beams]
        self.scores = [score for score, _, _ in running]
        self.written = [tokens for _, _, tokens in running]
        self._hopeful = self._hopeful and self._may_improve(length)
        all_there = all(each.there for each in self._finished)
        self.done = not self._hopeful or (all_there and wishes["early_stopping"] is True) or all(ends)
        return [beam for _, beam, _ in running]

    def _may_improve(self, length: int) -> bool:
        penalty = self.wishes["length_penalty"]
        if self.wishes["early_stopping"] == "never" and penalty > 0.0:
            length = self.wishes.limit
        if not all(each.there for each in self._finished):
            worst = NOTHING
        else:
            worst = min(each.score for each in self._finished)
        return self.scores[0] / length**penalty > worst
