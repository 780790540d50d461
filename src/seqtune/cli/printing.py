"""What several commands print."""

from __future__ import annotations

from typing import Any

import click


def print_text(text: str) -> None:
    """Write UTF-8 to standard output whatever the locale."""
    click.echo(text.encode("utf-8"))


def show_run(run: Any, as_json: bool) -> None:
    """A finished run, for a person or a program."""
    from seqtune import terminal

    if as_json:
        print_text(terminal.as_json({"path": str(run.path), **run.manifest}, indent=2))
    else:
        terminal.show_result(run.manifest, str(run.path))
