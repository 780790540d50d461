"""From a request to jobs of the batcher, and from their pieces to a response or a stream of events."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from seqtune.errors import InputError
from seqtune.serve import wire
from seqtune.serve.batcher import Batcher, Failed, Full, Job
from seqtune.serve.refusing import Refused
from seqtune.serve.settings import ServeSettings
from seqtune.serve.shelf import Entry, Shelf

Found = TypeVar("Found")

#: More characters for each token of the limit are no text: refused before they are tokenized.
CHARACTERS = 64


class Gone(Exception):  # noqa: N818
    """The client has left: there is nobody to answer."""


class Answers:
    """Answers requests with the models of a shelf.

    Args:
        shelf: the models.
        batcher: computes.
        settings: limits and deadline.
    """

    def __init__(self, shelf: Shelf, batcher: Batcher, settings: ServeSettings):
        self.shelf = shelf
        self.batcher = batcher
        self.settings = settings
        self.reading = asyncio.Lock()

    def entry(self, name: str) -> Entry:
        """The model of that name. Raises `Refused` (404) where there is none."""
        if name not in self.shelf.entries:
            raise Refused(
                404,
                f"there is no model {name!r}; there are {', '.join(self.shelf.names)}",
                param="model",
                code="model_not_found",
            )
        return self.shelf.entries[name]

    def question_of(self, messages: Sequence[wire.Message]) -> tuple[str, int]:
        """The last message of the user, and how many messages that leaves out.

        Raises:
            Refused: 422 where there is none, or others are there and are to be refused.
        """
        asked = [message.text for message in messages if message.role == "user"]
        if not asked:
            raise Refused(422, "messages has no message of the user: there is no question", param="messages")
        ignored = len(messages) - 1
        if ignored and self.settings.on_context == "refuse":
            raise Refused(
                422,
                f"messages has {len(messages)} messages; this model answers single questions: send one, of the user",
                param="messages",
            )
        return asked[-1], ignored

    async def jobs(self, asked: wire.Asked, questions: Sequence[str]) -> list[Job]:
        """A job for each question and choice, queued.

        Raises:
            Refused: 400 a question is too long; 404 no such model; 422 too many choices or too long an answer; 503 the
                queue is full, the models are not warm yet, or this one can't answer.
        """
        entry = self.entry(asked.model)
        if not self.batcher.is_warm:
            raise Refused(503, "the models are not loaded yet", code="not_ready", retry_after=2)
        if entry.name in self.batcher.broken:
            raise Refused(503, f"{entry.name} could not answer when it was tried; the log of the server says why")
        copies = asked.n or 1
        if len(questions) * copies > wire.CHOICES:
            found = f"{len(questions)} prompts with n = {copies}"
            raise Refused(422, f"{found}: at most {wire.CHOICES} choices a request", param="n")
        if len(questions) * copies > self.settings.max_waiting:
            found = f"{len(questions) * copies} choices"
            raise Refused(422, f"{found}: this server lets {self.settings.max_waiting} wait (--max-waiting)", param="n")
        limit = self._limit(entry, asked)
        knobs = {**asked.knobs(entry.model.settings), "max_new_tokens": limit}
        seeds = [_seed(asked.seed, copy) for copy in range(copies)]
        # Beside the event loop, for a long text takes its time; one by one, for a tokenizer has state (languages).
        async with self.reading:
            sources = [await asyncio.to_thread(self._source, entry, text) for text in questions]
            try:
                jobs = [
                    Job(entry, source, knobs, seed, asked.stops, streams=bool(asked.stream))
                    for source in sources
                    for seed in seeds
                ]
            except InputError as error:
                raise Refused(422, " ".join([error.headline, *error.details])) from None
        try:
            self.batcher.submit(jobs)
        except Full:
            waiting = len(self.batcher.waiting)
            raise Refused(
                503,
                f"the queue is full: {waiting} of {self.settings.max_waiting} places are taken",
                code="queue_full",
                retry_after=1 + math.ceil(waiting / self.settings.max_batch_size) + random.randrange(2),
            ) from None
        return jobs

    async def whole(self, jobs: Sequence[Job], request: Request) -> list[str]:
        """The answer of each job.

        Raises:
            Refused: 500 it could not be computed; 503 the deadline has passed.
            Gone: the client has left.
        """

        async def texts() -> list[str]:
            return ["".join([piece async for piece in job.pieces()]) for job in jobs]

        try:
            async with asyncio.timeout(self.settings.deadline):
                return await _unless_gone(texts(), request)
        except Gone:
            self.batcher.watch.left.inc()
            raise
        except TimeoutError:
            raise self._too_late() from None
        except Failed as error:
            raise Refused(500, f"the answer could not be computed ({error})", code="failed") from None
        finally:
            for job in jobs:
                job.leave()

    async def events(
        self,
        jobs: Sequence[Job],
        request: Request,
        event: Callable[[int, str | None, str | None], dict[str, Any]],
        last: Callable[[], dict[str, Any]] | None,
    ) -> AsyncGenerator[bytes]:
        """Server-sent events of a stream, ``[DONE]`` last; an error after the start is an event too.

        Args:
            jobs: in the order of the choices.
            request: watched for its end.
            event: makes an event of a choice's index, piece and reason to end; (index, None, None) begins it.
            last: makes the event of the usage; None where it was not asked for.
        """
        found: asyncio.Queue[tuple[int, str | None, str | None] | Exception] = asyncio.Queue()

        async def gather(index: int, job: Job) -> None:
            try:
                async for piece in job.pieces():
                    found.put_nowait((index, piece, None))
                found.put_nowait((index, None, job.reason))
            except Failed as error:
                found.put_nowait(Refused(500, f"the answer could not be computed ({error})", code="failed"))

        async def leaving() -> None:
            await _left(request)
            found.put_nowait(Gone())

        tasks = [asyncio.create_task(gather(index, job)) for index, job in enumerate(jobs)]
        tasks.append(asyncio.create_task(leaving()))
        late = asyncio.get_running_loop().call_later(self.settings.deadline, found.put_nowait, self._too_late())
        left, ended = len(jobs), False
        try:
            for index in range(len(jobs)):
                yield sse(event(index, None, None))
            while left:
                if isinstance(each := await found.get(), Exception):
                    raise each
                left -= each[2] is not None
                yield sse(event(*each))
            if last is not None:
                yield sse(last())
            ended = True
            yield b"data: [DONE]\n\n"
        except Refused as error:
            ended = True
            yield sse(error.body())
        except Gone:
            pass
        finally:
            if not ended:
                self.batcher.watch.left.inc()
            late.cancel()
            for job in jobs:
                job.leave()
            for task in tasks:
                task.cancel()

    @staticmethod
    def usage(jobs: Sequence[Job]) -> wire.Usage:
        """The tokens of all choices; a question that was answered several times counts once."""
        read = sum({id(job.source): len(job.source) for job in jobs}.values())
        written = sum(job.tokens for job in jobs)
        return wire.Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    def _limit(self, entry: Entry, asked: wire.Asked) -> int:
        most = min(self.settings.max_new_tokens, entry.longest_answer)
        if asked.limit is not None and asked.limit > most:
            raise Refused(422, f"max_tokens = {asked.limit}: at most {most} for {entry.name}", param="max_tokens")
        return min(most, asked.limit or entry.model.settings["max_new_tokens"])

    def _source(self, entry: Entry, text: str) -> list[int]:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise Refused(422, "the question holds a lone surrogate, which is no character")
        if len(text) > CHARACTERS * entry.longest_source:
            raise Refused(
                400,
                f"the question has {len(text):,} characters; "
                f"{entry.name} takes at most {entry.longest_source:,} tokens",
                code="context_length_exceeded",
            )
        ids = entry.encode(text)
        if len(ids) > entry.longest_source:
            raise Refused(
                400,
                f"the question has {len(ids):,} tokens; {entry.name} takes at most {entry.longest_source:,}",
                code="context_length_exceeded",
            )
        return ids

    def _too_late(self) -> Refused:
        return Refused(
            503, f"not answered within {self.settings.deadline:g} seconds", code="deadline_exceeded", retry_after=5
        )


def _seed(given: int | None, copy: int) -> int:
    """The seed of one of several answers to a question; any, where none was given."""
    return random.getrandbits(32) if given is None else (given + copy) % 2**32


def sse(content: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


async def _unless_gone(work: Coroutine[Any, Any, Found], request: Request) -> Found:
    """What the work comes to; `Gone` as soon as the client leaves."""
    doing = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise Gone
        return doing.result()
    finally:
        for task in (doing, leaving):
            task.cancel()


async def _left(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends events as they come, and ends their source whatever happens."""

    def __init__(self, events: AsyncGenerator[bytes], headers: dict[str, str]):
        super().__init__(None, 200, {**headers, "cache-control": "no-store"}, "text/event-stream")
        self.events = events
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        async with aclosing(self.events) as events:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
