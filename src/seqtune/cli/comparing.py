"""The commands that look at finished runs: `compare`, `runs`."""

from __future__ import annotations

from pathlib import Path

import click

from seqtune.cli.app import seqtune
from seqtune.cli.printing import print_text
from seqtune.errors import InputError
from seqtune.options import json_option


@seqtune.command()
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True)
@click.option("--html", metavar="FILE", help="Write a page with all of it to FILE.")
@click.option("--answers", type=click.IntRange(0), default=5, show_default=True, help="Changed answers to show.")
@json_option
def compare(runs: tuple[str, ...], html: str | None, answers: int, as_json: bool) -> None:
    """Show what differs between runs: settings, scores, answers.

    Scores are compared on the rows that all of the runs have answered, with a 95 % interval of the difference; the
    first run is what the others are compared with.

    \b
      seqtune compare runs/support runs/support-2
      seqtune compare runs/a runs/b runs/c --html comparison.html
    """
    if len(runs) < 2:
        raise click.UsageError("compare takes two runs or more.", click.get_current_context())
    from seqtune import comparing, terminal

    found = comparing.compare(runs)
    if html is not None:
        from seqtune.comparing import page

        try:
            Path(html).write_text(page.render(found), encoding="utf-8")
        except OSError as error:
            raise InputError(f"{html}: can't be written ({error.strerror})", mend="Choose another --html.") from None
    if as_json:
        print_text(terminal.as_json(found, indent=2))
    else:
        from seqtune.comparing import table

        table.show_comparison(found, answers)
        if html is not None:
            click.echo(f"\npage  {terminal.clean(html)}")


@seqtune.command()
@click.argument("folder", metavar="[FOLDER]", default="runs")
@json_option
def runs(folder: str, as_json: bool) -> None:
    """List the runs of a folder, best first, with their curves.

    FOLDER is runs/ unless given. Runs of other data, or of other hold-out rows, are groups of their own.
    """
    from seqtune import terminal
    from seqtune.comparing import listing

    found = listing.runs_of(folder)
    if as_json:
        print_text(terminal.as_json(found, indent=2))
    else:
        from seqtune.comparing import table

        table.show_runs(found)
