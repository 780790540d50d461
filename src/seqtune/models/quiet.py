"""Keeping transformers off the terminal while it loads."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars, reports and warnings off the terminal; what matters is raised as an error."""
    from huggingface_hub import utils as hub
    from transformers.utils import logging as theirs

    verbosity, bars, no_hub_bars = (
        theirs.get_verbosity(),
        theirs.is_progress_bar_enabled(),
        hub.are_progress_bars_disabled(),
    )
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.set_verbosity(verbosity)
        if bars:
            theirs.enable_progress_bar()  # the hub's bars with them, wanted or not
        if no_hub_bars:
            hub.disable_progress_bars()
