"""Answers being written: each has its place as long as it needs one. They join and leave at any step.

Whether an answer is written alone or beside others makes no difference to it: its dice are its own, and every
row's sums are taken in the same order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from seqtune.engine.speed import native
from seqtune.generation.beams import Beams
from seqtune.generation.wishes import Wishes

#: Encodes questions (token ids) to their states, [tokens, width] each.
Encode = Callable[[Sequence[Sequence[int]]], list[Tensor]]


class Decoder(Protocol):
    """`compiled.CompiledDecoder` or `plain.PlainDecoder`; what the methods do stands there."""

    def __len__(self) -> int: ...

    def join(self, states: Sequence[Tensor], limits: Sequence[int], beams: int) -> None: ...  # noqa: D102

    def step(self, tokens: Tensor) -> Tensor: ...  # noqa: D102

    def leave(self, kept: Sequence[int]) -> None: ...  # noqa: D102

    def reorder(self, first: int, parents: Sequence[int]) -> None: ...  # noqa: D102


class Answer:
    """One answer, finished or being written.

    Args:
        question: token ids of the input, its end included.
        wishes: how it is to be answered.
        seed: of the tokens that are drawn.

    Attributes:
        tokens: what was written, without the start token; the end token is the last where the answer ended by itself.
            Of a search with beams, empty until it is finished.
        finished: whether it is whole.
    """

    def __init__(self, question: Sequence[int], wishes: Wishes, seed: int | str = 0):
        self.question, self.wishes = list(question), wishes
        self.tokens: list[int] = []
        self.finished = False
        self.beams = Beams(wishes) if wishes.beams > 1 else None
        self._dice = random.Random(f"seqtune {seed}")  # of a text: the same in every Python

    @property
    def ended(self) -> bool:
        """Whether the model ended it; else it was cut off at the limit."""
        return bool(self.tokens) and self.tokens[-1] in self.wishes.ends

    def draw(self) -> float:
        """The next of its own random numbers, in [0, 1)."""
        return self._dice.random()


class Session:
    """The answers being written over one decoder.

    Args:
        encode: gives the encoder's states.
        decoder: writes.
    """

    def __init__(self, encode: Encode, decoder: Decoder):
        self._encode, self._decoder = encode, decoder
        self.answers: list[Answer] = []

    def __len__(self) -> int:
        """Rows at work: answers, each as often as it has beams."""
        return len(self._decoder)

    def join(self, answers: Sequence[Answer]) -> None:
        """Begin with these too."""
        for beams, part in groupby(answers, key=lambda answer: answer.wishes.beams):
            fresh = list(part)
            states = self._encode([answer.question for answer in fresh])
            self._decoder.join(states, [answer.wishes.limit for answer in fresh], beams)
            self.answers += fresh

    def drop(self, answer: Answer) -> None:
        """Stop writing an answer; its place is free."""
        if answer in self.answers:
            answer.finished = True
            self._clear()

    @torch.inference_mode()
    def step(self) -> list[Answer]:
        """Write a token of every answer.

        Returns:
            Those that are finished by it; they have left.
        """
        if not self.answers:
            return []
        logits = self._decoder.step(torch.tensor([token for answer in self.answers for token in _last(answer)]))
        first, lots = 0, {}
        for answer in self.answers:
            lots.setdefault(_kind(answer), []).append((answer, first))
            first += answer.wishes.beams
        for lot in lots.values():
            self._write(lot, logits, whole=len(lots) == 1)
        return self._clear()

    def _write(self, lot: list[tuple[Answer, int]], logits: Tensor, whole: bool) -> None:
        """A token of each of the answers of a lot, which want the same; with the first of each's rows."""
        answers, wishes = [answer for answer, _ in lot], lot[0][0].wishes
        if not whole:
            logits = logits[[first + beam for _, first in lot for beam in range(wishes.beams)]]
        if wishes.beams > 1:
            self._search(lot, logits)
            return
        scores = logits
        if wishes.looks_back(len(answers[0].tokens)):
            written = torch.tensor([[wishes.start, *answer.tokens] for answer in answers], device=logits.device)
            scores = wishes.processed(written, logits, [answer.question for answer in answers])
        tokens = drawn(scores, wishes, answers) if wishes["do_sample"] else largest(scores)
        for answer, token in zip(answers, tokens, strict=True):
            answer.tokens.append(token)
            answer.finished = token in wishes.ends or len(answer.tokens) >= wishes.limit

    def _search(self, lot: list[tuple[Answer, int]], logits: Tensor) -> None:
        wishes = lot[0][0].wishes
        scores = logits.log_softmax(-1)
        if wishes.looks_back(len(_beams(lot[0][0]).written[0])):
            rows = [(answer, tokens) for answer, _ in lot for tokens in _beams(answer).written]
            written = torch.tensor([[wishes.start, *tokens] for _, tokens in rows], device=logits.device)
            scores = wishes.processed(written, scores, [answer.question for answer, _ in rows])
        sums = torch.tensor([score for answer, _ in lot for score in _beams(answer).scores], device=logits.device)
        flat = (scores + sums[:, None]).view(len(lot), -1)
        best, places = flat.topk(Beams.looked_at(wishes))
        vocabulary = logits.shape[1]
        for (answer, first), values, where in zip(lot, best.tolist(), places.tolist(), strict=True):
            beams = _beams(answer)
            found = [(value, *divmod(place, vocabulary)) for value, place in zip(values, where, strict=True)]
            self._decoder.reorder(first, beams.go_on(found))
            if beams.done:
                answer.tokens, answer.finished = beams.best, True

    def _clear(self) -> list[Answer]:
        finished = [answer for answer in self.answers if answer.finished]
        if finished:
            kept, first = [], 0
            for answer in self.answers:
                if not answer.finished:
                    kept += range(first, first + answer.wishes.beams)
                first += answer.wishes.beams
            self._decoder.leave(kept)
            self.answers = [answer for answer in self.answers if not answer.finished]
        return finished


def largest(scores: Tensor) -> list[int]:
    """The first of the largest of each row."""
    if native.takes(scores) and scores.dtype == torch.float32 and native.kernels() is not None:
        found = torch.empty(len(scores), dtype=torch.long)
        native.call("first_largest", scores.contiguous(), found, *scores.shape)
        return found.tolist()
    return scores.argmax(-1).tolist()


def drawn(scores: Tensor, wishes: Wishes, answers: Sequence[Answer]) -> list[int]:
    """A token for each row, drawn by the answer's own dice: where its number falls among the summed probabilities."""
    candidates = None
    if 0 < wishes["top_k"] < scores.shape[1]:
        scores, candidates = scores.topk(wishes["top_k"])
    sums = wishes.narrowed(scores).softmax(-1).cpu().double().cumsum(-1)  # Apple's GPUs have no float64
    numbers = torch.tensor([answer.draw() for answer in answers], dtype=torch.double)
    places = torch.searchsorted(sums, (numbers * sums[:, -1])[:, None], right=True).clamp_(max=sums.shape[1] - 1)
    return (places if candidates is None else candidates.cpu().gather(1, places))[:, 0].tolist()


def _beams(answer: Answer) -> Beams:
    assert answer.beams is not None
    return answer.beams


def _last(answer: Answer) -> list[int]:
    """What each of the answer's rows wrote last."""
    written = [answer.tokens] if answer.beams is None else answer.beams.written
    return [tokens[-1] if tokens else answer.wishes.start for tokens in written]


def _kind(answer: Answer) -> tuple[str, int]:
    """Equal for answers that are written in one go: they want the same and, where that counts, are as long."""
    written = answer.tokens if answer.beams is None else answer.beams.written[0]
    counts = answer.beams is not None or answer.wishes.looks_back(len(written))
    return answer.wishes.key, len(written) if counts else -1
