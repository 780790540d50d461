"""What several commands print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seqtune.errors import InputError


def print_text(text: str) -> None:
    """Write UTF-8 to standard output whatever the locale."""
    click.echo(text.encode("utf-8"))


def write_text(path: str, text: str, option: str) -> None:
    """Write a file that an option names. Raises InputError where that can't be."""
    try:
        Path(path).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: can't be written ({reason})", mend=f"Choose another {option}.") from None


def show_run(run: Any, as_json: bool) -> None:
    """A finished run, for a person or a program."""
    from seqtune import terminal

    if as_json:
        print_text(terminal.as_json({"path": str(run.path), **run.manifest}, indent=2))
    else:
        terminal.show_result(run.manifest, str(run.path))
