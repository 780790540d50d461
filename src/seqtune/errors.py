"""What can go wrong, said so that it can be mended.

Every error names where it is, what was found, what was expected and what to do; where there are several
problems it names them all at once. The command line prints ``str(error)`` and ends with ``exit_status``:
no traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class SeqtuneError(Exception):
    """A run that could not go on.

    Args:
        headline: one line: where, and what was found.
        details: further lines, one a problem; printed indented.
        mend: what to do about it; the last line.
    """

    exit_status = 1

    def __init__(self, headline: str, details: Sequence[str] = (), mend: str = ""):
        super().__init__(headline)
        self.headline = headline
        self.details = list(details)
        self.mend = mend

    def __str__(self) -> str:
        lines = [self.headline, *("  " + detail for detail in self.details)]
        return "\n".join([*lines, self.mend] if self.mend else lines)


class RunError(SeqtuneError):
    """The run failed: the machine, the disk, the numbers. Exit status 1."""


class InputError(SeqtuneError):
    """Bad usage or bad input: what the user gave can't be used. Exit status 2, before any work is done."""

    exit_status = 2


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether Python's memory, or that of the device, is used up; told without an import of PyTorch."""
    names = {each.__name__ for each in type(error).__mro__}
    said = str(error) if isinstance(error, RuntimeError) else ""  # PyTorch on a CPU and on a Mac has no type for it
    return (
        bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in said or "out of memory" in said
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint such as ``did you mean `learning_rate`?`` for a mistyped name, or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else ""
