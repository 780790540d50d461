"""Asks an export as its user would, and what the fixture of tuned models is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

#: The run directory of a tiny model of a family.
Run = Callable[[str], Path]


def asked(folder: Path, questions: list[str]) -> list[str]:
    """What ``load.py`` of an export prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "load.py", *questions],
        cwd=folder,
        capture_output=True,
        check=False,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()
