"""A run to look at while it trains: `served` is a page on this machine that moves with it.

    watching.py   what the run tells: its steps, its nodes' results, answers to a few questions at every measurement
    state.py      what is known at a moment, and the page and the JSON made of it
    server.py     the page on loopback, for whoever has its address

Nothing of a run's result depends on whether it is looked at: no random number is drawn from its generators, no weight
is touched, and what fails here is said and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from seqtune import progress
from seqtune.live.server import Server
from seqtune.live.state import State
from seqtune.live.watching import Watching

__all__ = ["served"]

#: Seconds that the server stays when the run is done, for a page that is open to fetch the report.
PARTING = 5.0


@contextmanager
def served(checkpoints: Path, name: str) -> Iterator[Watching]:
    """Serve a run while the block executes it; yields what its driver needs as an adapter.

    Args:
        checkpoints: the run's folder of them; the answers of before a stop are kept there.
        name: of the run.
    """
    state = State(name)
    watcher = Watching(state, checkpoints)
    with ExitStack() as stack:
        server = stack.enter_context(Server(state).running())
        progress.say(f"live at {server.address}")
        stack.enter_context(progress.overhearing(watcher.heard))
        stack.enter_context(progress.watching(watcher.shown))
        yield watcher
        server.part(PARTING)
