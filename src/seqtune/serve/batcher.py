"""Requests that come together are answered together, and joined by those that come later.

One thread answers. Each model has a session of answers being written; a request joins it at any step, as soon as there
is a place, and leaves it when it is finished: a long answer holds nobody up, a lone request never waits for company. No
answer depends on its neighbours: draws at random have dice of their own. What our decoder does not know (a model's
architecture, a base in 4 bits, sampled beams) is answered alone, by transformers' ``generate``: one such request at a
time, and between two of its tokens the others get theirs.

A request whose client has left is skipped, or dropped at the next token. Nothing that goes wrong ends the thread: the
requests at work in that session fail, the next ones are answered.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from seqtune.generation import Answer, Session
from seqtune.generation.answering import REFILL, ROW_TOKENS, SHORT
from seqtune.serve.shelf import Entry, Shelf
from seqtune.serve.watching import Watch
from seqtune.streaming import GrowingText

logger = logging.getLogger("seqtune")

#: What a job's queue carries: a piece of text, None at the end, or why there is none.
Event = str | None | Exception


class Full(Exception):  # noqa: N818
    """The queue has no place left."""


class Failed(Exception):  # noqa: N818
    """The answer could not be computed."""


@dataclass(eq=False)
class Job:
    """One question on its way to an answer.

    Args:
        entry: the model.
        source: token ids of the question.
        knobs: how it is to be answered, of transformers' ``generate``.
        seed: of draws at random.
        stop: texts that end the answer.
        streams: whether the client wants pieces.

    Raises:
        InputError: a knob that ``generate`` does not take.
    """

    entry: Entry
    source: list[int]
    knobs: dict[str, Any]
    seed: int = field(default_factory=lambda: random.getrandbits(32))
    stop: Sequence[str] = ()
    streams: bool = False
    gone: bool = False
    over: bool = False
    reason: Literal["stop", "length"] = "length"
    waiting_since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.wishes = self.entry.wishes(**self.knobs)
        self.answer = Answer(self.source, self.wishes, self.seed)
        self.text = GrowingText(self.entry.model.tokenizer, self.stop)
        self.loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    @property
    def size(self) -> int:
        """Tokens that it may take at most, those of each beam counted."""
        return (len(self.source) + self.wishes.limit) * self.wishes.beams

    @property
    def tokens(self) -> int:
        """Tokens of the answer so far."""
        return len(self.answer.tokens)

    @property
    def alone(self) -> bool:
        """Whether it can't share a session."""
        return self.entry.model.answerer.engine == "transformers" or bool(self.wishes.unhandled)

    def leave(self) -> None:
        """Nobody waits for the answer any more."""
        self.gone = True

    async def pieces(self) -> AsyncIterator[str]:
        """The text as it comes: many pieces if it streams, else few.

        Raises:
            Failed: it could not be computed.
        """
        while (event := await self.events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    def news(self) -> list[Event]:
        """What is new of the answer since the last call: pieces of text, and the end."""
        if self.over:
            return []
        found: list[Event] = []
        if self.streams or self.stop:
            for token in self.answer.tokens[len(self.text.ids) :]:
                if piece := self.text.add(token):
                    found.append(piece)
                if self.text.stopped:
                    break
        if self.answer.finished or self.text.stopped or self.gone:
            self.over = True
            ended = self.answer.ended and not self.wishes.cut(self.answer.tokens)  # BART's last token is always the end
            self.reason = "stop" if ended or self.text.stopped else "length"
            if not self.text.stopped:
                self.text.ids = list(self.answer.tokens)
            rest = "" if self.gone else self.text.close()
            found += [rest, None] if rest else [None]
        return found


class Batcher:
    """The queue and the thread that answers.

    Args:
        shelf: the models.
        batch_size: answers being written together, of up to `ROW_TOKENS` tokens each; of shorter ones more.
        max_waiting: most jobs that may wait.
        watch: counts what is done.
    """

    def __init__(self, shelf: Shelf, batch_size: int, max_waiting: int, watch: Watch):
        self.shelf = shelf
        self.places, self.room = SHORT * batch_size, ROW_TOKENS * batch_size
        self.max_waiting = max_waiting
        self.watch = watch
        self.is_warm = False
        self.broken: set[str] = set()
        self.waiting: deque[Job] = deque()
        self.apart: Job | None = None  # the one that is answered alone just now
        self.working: dict[str, list[Job]] = {}
        self.sessions: dict[str, Session] = {}
        self.changed = threading.Condition()
        self.ending = False
        self.thread = threading.Thread(target=self._work, name="seqtune-answers", daemon=True)
        watch.waiting.set_function(lambda: len(self.waiting))
        watch.running.set_function(self.at_work)

    def start(self) -> None:
        """Warm up, then answer."""
        self.thread.start()

    def end(self, timeout: float) -> None:
        """Answer what waits, then stop; after the timeout (seconds) leave it."""
        with self.changed:
            self.ending = True
            self.changed.notify()
        self.thread.join(timeout)

    def at_work(self) -> int:
        """Answers being written."""
        return sum(len(jobs) for jobs in list(self.working.values())) + (self.apart is not None)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs, all or none.

        Raises:
            Full: there is no place for them.
        """
        with self.changed:
            if len(self.waiting) + len(jobs) > self.max_waiting:
                self._forget_gone()
            if len(self.waiting) + len(jobs) > self.max_waiting or self.ending:
                raise Full
            self.waiting.extend(jobs)
            self.changed.notify()

    def _work(self) -> None:
        for entry in self.shelf.entries.values():
            try:
                source = entry.encode("Are you there?")[: entry.longest_source]
                entry.model.answerer.answer([source], batch_size=1, random_state=0, max_new_tokens=2)
            except Exception:
                logger.exception("%s could not answer", entry.name)
                self.broken.add(entry.name)
        self.is_warm = True
        while (fresh := self._admitted()) is not None:
            self._go_on(fresh)
            if self.apart is not None:
                self._guarded([self.apart], self._answer_alone, self.apart)
                self.apart = None

    def _go_on(self, fresh: Sequence[Job]) -> None:
        """Take fresh jobs in; a token for each of those that share."""
        for name in {job.entry.name for job in fresh}:
            beginning = [job for job in fresh if job.entry.name == name]
            self._guarded([*self.working.get(name, []), *beginning], self._begin, name, beginning)
        for name in list(self.working):
            self._guarded(self.working[name], self._step, name, self.working[name])

    def _guarded(self, jobs: Sequence[Job], do: Callable[..., None], *arguments: Any) -> None:
        """Do something; where it fails, these jobs fail, and their session is given up."""
        try:
            do(*arguments)
        except Exception as error:  # whatever it is, it must not end the thread
            name = jobs[0].entry.name
            logger.error("%s: %d answers failed: %s: %s", name, len(jobs), type(error).__name__, error)
            self.watch.failures.inc()
            if not jobs[0].alone:
                self.sessions.pop(name, None)
                self.working.pop(name, None)
            failed = [job for job in jobs if not job.over]
            for job in failed:
                job.over = True
            _deliver([(job, Failed(type(error).__name__)) for job in failed])

    def _admitted(self) -> list[Job] | None:
        """Jobs that share and begin now, in their order; waits where there is nothing to do; None at the end.

        Where none is answered alone, the next such job becomes `apart`. While others are at work the free places are
        filled several at a time: an encoder's pass costs much the same for one question and for a few.
        """
        with self.changed:
            while True:
                self._forget_gone()
                if self.waiting or self.working or self.apart:
                    break
                if self.ending:
                    return None
                self.changed.wait()
            if self.apart is None:
                self.apart = next((job for job in self.waiting if job.alone), None)
            at_work = [job for jobs in self.working.values() for job in jobs]
            rows, room = sum(job.wishes.beams for job in at_work), sum(job.size for job in at_work)
            sharing, fitting = [job for job in self.waiting if not job.alone], list[Job]()
            for job in sharing:
                rows, room = rows + job.wishes.beams, room + job.size
                if (at_work or fitting) and (rows > self.places or room > self.room):
                    break
                fitting.append(job)
            if at_work and len(fitting) < len(sharing) and len(fitting) * REFILL < len(at_work):
                fitting = []
            begun = {id(job) for job in (*fitting, self.apart)}
            self.waiting = deque(job for job in self.waiting if id(job) not in begun)
            return fitting

    def _forget_gone(self) -> None:
        self.waiting = deque(job for job in self.waiting if not job.gone)

    def _begin(self, name: str, jobs: list[Job]) -> None:
        """Take jobs of one model to its session."""
        self._count_waiting(jobs)
        session = self.sessions.get(name) or jobs[0].entry.model.answerer.session()
        session.join([job.answer for job in jobs])
        self.sessions[name] = session
        self.working.setdefault(name, []).extend(jobs)

    def _answer_alone(self, job: Job) -> None:
        """Answer a job in one go, the others between its tokens; given up at the next one when its client has left."""
        self._count_waiting([job])

        def others() -> bool:
            self._go_on(self._admitted() or [])
            return job.gone

        (job.answer.tokens,) = job.entry.model.answerer.tokens(
            [job.source], batch_size=1, random_state=job.seed, stop=others, wishes=job.wishes
        )
        job.answer.finished = True
        self._tell([job])

    def _count_waiting(self, jobs: Sequence[Job]) -> None:
        now = time.monotonic()
        for job in jobs:
            self.watch.wait.observe(now - job.waiting_since)

    def _step(self, name: str, jobs: list[Job]) -> None:
        """A token for each job of a model."""
        session = self.sessions[name]
        session.step()
        self.watch.batch.observe(len(jobs))
        self._tell(jobs)
        for job in jobs:
            if job.over:
                session.drop(job.answer)
        left = [job for job in jobs if not job.over]
        if left:
            self.working[name] = left
        else:
            del self.working[name]

    def _tell(self, jobs: Sequence[Job]) -> None:
        """Count what is finished, and hand what is new to the event loop: a client that has all of it leaves."""
        events = [(job, event) for job in jobs for event in job.news()]
        for job in jobs:
            if job.over:
                name = job.entry.name
                self.watch.answered.labels(name).inc(not job.gone)
                self.watch.tokens.labels(name, "answer").inc(job.tokens)
                self.watch.tokens.labels(name, "question").inc(len(job.source))
        _deliver(events)


def _deliver(events: Sequence[tuple[Job, Event]]) -> None:
    """Hand events to the event loop, in one call."""
    if not events:
        return

    def put() -> None:
        for job, event in events:
            job.events.put_nowait(event)

    try:
        events[0][0].loop.call_soon_threadsafe(put)
    except RuntimeError:  # the loop is closed: the server has ended, and nobody waits
        logger.debug("answers without a listener")
