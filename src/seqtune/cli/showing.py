"""The commands that explain: `show`, `inputs`."""

from __future__ import annotations

from pathlib import Path

import click

from seqtune.cli.app import quiet_libraries, seqtune
from seqtune.cli.printing import print_text
from seqtune.errors import InputError
from seqtune.settings import STARTS, Settings


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
    try:
        Path(output).write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output}: can't be written ({error.strerror})", mend="Choose another --output.") from None


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
