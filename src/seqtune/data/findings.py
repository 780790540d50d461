"""What a check of the data has found: the one shape that `seqtune check`, the manifest and the report share.

Not covered: the checks themselves; each stands in the room that knows what it looks at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["PASS", "WARN", "FAIL"]

#: From harmless to fatal.
LEVELS: tuple[Level, ...] = ("PASS", "WARN", "FAIL")


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        check: its name, in snake case and stable: programs rely on it.
        verdict: PASS, WARN (it can be trained on, but know this) or FAIL (it can't).
        found: what was found, in a line.
        rows: rows concerned.
        of: rows looked at.
        examples: a few lines that show it, each with the place (``row 17  "reply" is empty``).
        mend: what to do about it; empty where nothing needs doing.
    """

    check: str
    verdict: Level
    found: str
    rows: int = 0
    of: int = 0
    examples: tuple[str, ...] = ()
    mend: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it, for ``run.json`` and ``--json``."""
        return {**asdict(self), "examples": list(self.examples)}


def worst(findings: Iterable[Finding]) -> Level:
    """The gravest verdict among them; PASS of none."""
    found = {finding.verdict for finding in findings}
    for level in reversed(LEVELS):
        if level in found:
            return level
    return "PASS"
