"""Ctrl-C, SIGTERM and SIGHUP while training: the step is finished and saved, then the signal has its way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from seqtune.errors import InputError, RunError
from seqtune.progress import warn

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass
class Stop:
    """Whether somebody has asked the run to stop.

    Attributes:
        signal_number: of the first signal that came; 0 while none has.
    """

    signal_number: int = 0
    _before: dict[int, Any] = field(default_factory=dict)

    def obey(self, number: int = 0) -> None:
        """Do what the signal would have done at once.

        Args:
            number: of a signal that another process of the run was sent; ours unless given.
        """
        number, self.signal_number = number or self.signal_number, 0
        before = self._before.get(number, signal.SIG_DFL)
        signal.signal(number, before)
        if isinstance(before, Callable):
            before(number, None)
        else:
            os.kill(os.getpid(), number)


@contextmanager
def finishing_the_step(wanted: bool) -> Iterator[Stop]:
    """Inside, the first signal only makes a note of itself; a second one leaves at once.

    Signals that are ignored (nohup) stay so. Python delivers signals to the main thread alone: elsewhere nothing is
    changed.

    Args:
        wanted: whether to do so at all.
    """
    stop = Stop()
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        if stop.signal_number:
            stop.signal_number = number
            stop.obey()
            return
        stop.signal_number = number
        warn("stopping: this step is finished and saved first (once more to leave at once)")

    for number in SIGNALS:
        before = signal.getsignal(number)
        if before not in (signal.SIG_IGN, None):
            stop._before[number] = signal.signal(number, note)
    try:
        yield stop
    except (InputError, RunError) as error:
        if stop.signal_number:  # it has its way, but what went wrong is not left unsaid
            warn("; ".join([error.headline, *error.details]))
        raise
    finally:
        for number, before in stop._before.items():
            signal.signal(number, before)
        if stop.signal_number:  # it came behind the last step, or the step failed
            stop.obey()
