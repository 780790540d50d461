"""The commands that show: `report`, `show`, `inputs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seqtune.cli.app import quiet_libraries, seqtune
from seqtune.cli.printing import print_text, write_text
from seqtune.options import given, options_of
from seqtune.settings import STARTS, Settings, knobs


@seqtune.command()
@click.argument("run", metavar="RUN")
@options_of([knobs()["report_text"]])
@click.option("--output", metavar="FILE", help="Write to FILE instead of RUN/report.html.")
@click.pass_context
def report(ctx: click.Context, run: str, output: str | None, **_: Any) -> None:
    """Make the page of a run anew.

    RUN is its directory; the run may be finished, stopped or still at work. The page has no text of its rows unless it
    is asked for.

    \b
      seqtune report runs/support --report-text all
      seqtune report runs/support --report-text sample --output to-show.html
    """
    values = given(ctx)
    from seqtune import terminal
    from seqtune.run import Run, is_unfinished

    if not is_unfinished(Path(run)):
        Run(run)  # refuses what is no run before PyTorch is imported
    quiet_libraries()
    with terminal.display():
        from seqtune import api

        written = api.report(run, output=output, **values)
    print_text(terminal.clean(str(written)))


@seqtune.command()
@click.option("--format", "kind", type=click.Choice(["mermaid", "svg", "html"]), default="mermaid", show_default=True)
@click.option("--output", metavar="FILE", help="Write to FILE instead of standard output.")
@click.option("--start", type=click.Choice(STARTS), default="base", show_default=True, help="Which way in.")
def show(kind: str, output: str | None, start: str) -> None:
    """Draw the dataflow as Mermaid, SVG or HTML."""
    quiet_libraries()
    from seqtune import picture
    from seqtune.driver import build_driver

    drawn = getattr(picture, kind)(build_driver({"start": start}))
    if output is None:
        print_text(drawn)
        return
    write_text(output, drawn, "--output")


@seqtune.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--schema", is_flag=True, help="As a JSON Schema.")
@click.option("--markdown", is_flag=True, help="As a Markdown table.")
def inputs(as_json: bool, schema: bool, markdown: bool) -> None:
    """List every input: type, bounds, default, unit and use."""
    from seqtune import tables, terminal

    if schema:
        print_text(terminal.as_json(Settings.model_json_schema(), indent=2))
    elif as_json:
        print_text(terminal.as_json(tables.rows(), indent=2))
    elif markdown:
        print_text(tables.markdown())
    else:
        terminal.show_inputs(tables.rows())
