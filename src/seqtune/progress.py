"""How a long step says how far it is, without knowing who listens.

Steps call `advance` and `say`; the command line listens with `listening` and draws one live display. Nobody need
listen: then progress is dropped, and what is said goes to the logger ``seqtune`` alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

logger = logging.getLogger("seqtune")

Item = TypeVar("Item")
#: Fewer rows than these are done with in a moment: steps that only look at them report nothing.
MANY = 50_000


@dataclass(frozen=True)
class Progress:
    """One report: ``done`` of ``total`` units of ``stage``, with figures such as the loss."""

    stage: str
    done: int
    total: int
    unit: str
    figures: dict[str, float] = field(default_factory=dict)


Listener = Callable[[Progress], None]
#: Is shown the log of a training, a dict a step, after each; after a measurement the model too, in evaluation mode.
Watcher = Callable[[Sequence[dict[str, Any]], Any], None]
_listener: ContextVar[Listener | None] = ContextVar("seqtune_progress_listener", default=None)
_watcher: ContextVar[Watcher | None] = ContextVar("seqtune_training_watcher", default=None)
_begun: ContextVar[float | None] = ContextVar("seqtune_begun", default=None)
_silent: ContextVar[bool] = ContextVar("seqtune_progress_silent", default=False)
_latest: ContextVar[str] = ContextVar("seqtune_latest_progress", default="")


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send every `advance` inside the block to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def overhearing(listener: Listener) -> Iterator[None]:
    """Send every `advance` inside the block to ``listener`` too, beside whoever listens already."""
    before = _listener.get()

    def both(report: Progress) -> None:
        if before is not None:
            before(report)
        listener(report)

    with listening(both):
        yield


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Show every training inside the block to ``watcher`` too, which must leave log and model as they are."""
    before = _watcher.get()

    def both(log: Sequence[dict[str, Any]], model: Any) -> None:
        if before is not None:
            before(log, model)
        watcher(log, model)

    token = _watcher.set(both)
    try:
        yield
    finally:
        _watcher.reset(token)


def show(log: Sequence[dict[str, Any]], model: Any = None) -> None:
    """Let whoever watches see the log of a training; after a measurement the model too, in evaluation mode."""
    watcher = _watcher.get()
    if watcher is not None and not _silent.get():
        watcher(log, model)


@contextmanager
def silently() -> Iterator[None]:
    """Inside the block nothing is said or reported but warnings: it is a rehearsal."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def advance(stage: str, done: int, total: int, unit: str, **figures: float) -> None:
    """Report that ``done`` of ``total`` units of the stage are behind us."""
    if _silent.get():
        return
    _latest.set(f"{stage}, {done:,} of {total:,} {unit}")
    listener = _listener.get()
    if listener is not None:
        listener(Progress(stage, done, total, unit, figures))


def along(items: Iterable[Item], stage: str, total: int, unit: str = "rows") -> Iterator[Item]:
    """The items, reporting now and then how many of ``total`` have been taken; nothing where they are not `MANY`."""
    if total < MANY:
        yield from items
        return
    done = 0
    for done, item in enumerate(items, 1):
        yield item
        if done % 1000 == 0:
            advance(stage, done, total, unit)
    if done % 1000:
        advance(stage, done, total, unit)


@contextmanager
def timed() -> Iterator[None]:
    """The time of a command or a run begins with the block; a block inside another belongs to it."""
    if _begun.get() is not None:
        yield
        return
    tokens = _begun.set(time.monotonic()), _latest.set("")
    try:
        yield
    finally:
        _begun.reset(tokens[0])
        _latest.reset(tokens[1])


def elapsed() -> float:
    """Seconds since the outermost `timed` block began; 0 outside of one."""
    begun = _begun.get()
    return 0.0 if begun is None else time.monotonic() - begun


def latest() -> str:
    """What was reported last, in words: ``training, 12 of 300 steps``; empty before anything was."""
    return _latest.get()


@contextmanager
def part_of(before: int, total: int) -> Iterator[None]:
    """Inside the block reports count from ``before``, of ``total`` units: it is a part of something longer."""
    outer = _listener.get()
    if outer is None or not total:
        yield
        return

    def shifted(report: Progress) -> None:
        outer(Progress(report.stage, before + report.done, total, report.unit, report.figures))

    with listening(shifted):
        yield


def say(text: str) -> None:
    """State a decision or a fact about the run, with its reason."""
    if not _silent.get():
        logger.info(text)


def warn(text: str) -> None:
    """State something that the user should look at before trusting the result."""
    logger.warning(text)
