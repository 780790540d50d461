"""How a long step says how far it is, without knowing who listens.

Steps call `advance` and `say`; the command line listens with `listening` and draws one live display. Nobody need
listen: then progress is dropped, and what is said goes to the logger ``seqtune`` alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

logger = logging.getLogger("seqtune")


@dataclass(frozen=True)
class Progress:
    """One report: ``done`` of ``total`` units of ``stage``, with figures such as the loss."""

    stage: str
    done: int
    total: int
    unit: str
    figures: dict[str, float] = field(default_factory=dict)


Listener = Callable[[Progress], None]
_listener: ContextVar[Listener | None] = ContextVar("seqtune_progress_listener", default=None)
_latest: ContextVar[str] = ContextVar("seqtune_latest_progress", default="")


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send every `advance` inside the block to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def advance(stage: str, done: int, total: int, unit: str, **figures: float) -> None:
    """Report that ``done`` of ``total`` units of the stage are behind us."""
    _latest.set(f"{stage}, {done:,} of {total:,} {unit}")
    listener = _listener.get()
    if listener is not None:
        listener(Progress(stage, done, total, unit, figures))


def begin() -> None:
    """Forget what an earlier command in this process has reported."""
    _latest.set("")


def latest() -> str:
    """What was reported last, in words: ``training, 12 of 300 steps``; empty before anything was."""
    return _latest.get()


def say(text: str) -> None:
    """State a decision or a fact about the run, with its reason."""
    logger.info(text)


def warn(text: str) -> None:
    """State something that the user should look at before trusting the result."""
    logger.warning(text)
