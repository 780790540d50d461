"""Answers piece by piece, for whoever watches them being written: `chat` and the server.

`GrowingText` makes text of the tokens of one answer: what it has given out is never taken back, and all of it together
is the text that `Answerer.answer` gives.

Not covered: beams, which change their mind: their answer comes in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from seqtune.generation import Answer, Answerer

#: What a decoder writes for bytes that are no character yet.
UNFINISHED = "\ufffd"

#: Tokens whose text is looked at again with every new one; that of those before is settled. What a decoder does with
#: a token depends on its neighbours alone (spaces, the bytes of a character).
NEAR = 8


def pieces(answerer: Answerer, source: Sequence[int], *, random_state: int, **knobs: Any) -> Iterator[str]:
    """The answer to one encoded input, as it is written.

    Args:
        answerer: the model.
        source: token ids of the input, end-of-sequence included.
        random_state: of draws at random.
        **knobs: of transformers' ``generate``.
    """
    wishes = answerer.wishes(**knobs)
    if answerer.engine == "transformers" or wishes.unhandled:
        yield from answerer.answer([source], batch_size=1, random_state=random_state, **knobs)
        return
    answer, text, session = Answer(source, wishes, random_state), GrowingText(answerer.tokenizer), answerer.session()
    session.join([answer])
    while not answer.finished:
        session.step()
        for token in answer.tokens[len(text.ids) :]:
            if piece := text.add(token):
                yield piece
    if rest := text.close():
        yield rest


class GrowingText:
    """The text of one answer while its tokens come.

    Args:
        tokenizer: decodes them; special tokens are left out.
        stop: the answer ends before the first of these texts, which is not part of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()):
        self.tokenizer = tokenizer
        self.stop = [each for each in stop if each]
        self.ids: list[int] = []
        self.given = ""
        self.stopped = False
        # The text so far; from where on tokens are looked at again; how much of their text is in it.
        self._settled, self._from, self._seen = "", 0, 0

    def add(self, token: int) -> str:
        """Take a token in; returns the text that is certain now and was not before."""
        self.ids.append(token)
        text = self._text()
        self._settle(text)
        text = text.lstrip().rstrip(UNFINISHED)
        self.stopped = self._cut(text) is not None
        return "" if self.stopped else self._give(self._certain(text))

    def close(self) -> str:
        """The rest, when no more tokens come."""
        text = self._decoded(0).lstrip()
        cut = self._cut(text)
        return self._give((text if cut is None else text[:cut]).rstrip())

    def _text(self) -> str:
        return self._settled + self._decoded(self._from)[self._seen :]

    def _decoded(self, first: int) -> str:
        return str(self.tokenizer.decode(self.ids[first:], skip_special_tokens=True))

    def _settle(self, text: str) -> None:
        """Look at the last tokens alone from here on, if their text shows that nothing is lost.

        A long answer would cost the square of its length else.
        """
        if len(self.ids) - self._from < 2 * NEAR or text.endswith(UNFINISHED):
            return
        first = len(self.ids) - NEAR
        last = self._decoded(first)
        if last and text.endswith(last):
            self._settled, self._from, self._seen = text, first, len(last)

    def _cut(self, text: str) -> int | None:
        """Where the first stop text begins; None where there is none."""
        return min((at for each in self.stop if (at := text.find(each)) >= 0), default=None)

    def _certain(self, text: str) -> str:
        """Without what may yet change: space that may turn out to be the end, the start of a stop."""
        for each in self.stop:
            for length in range(min(len(each) - 1, len(text)), 0, -1):
                if text.endswith(each[:length]):
                    text = text[:-length]
                    break
        return text.rstrip()

    def _give(self, text: str) -> str:
        new = text[len(self.given) :]
        self.given += new
        return new
