"""The command that gives a run to others: `push`."""

from __future__ import annotations

import click

from seqtune.cli.app import quiet_libraries, seqtune
from seqtune.cli.printing import print_text
from seqtune.options import json_option


@seqtune.command()
@click.argument("run", metavar="RUN")
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--public", is_flag=True, help="Make a new repository public; else it is private.")
@click.option("--message", default="Upload adapter", show_default=True, help="Message of the commit.")
@click.option("--dry-run", is_flag=True, help="Only list what would go up.")
@json_option
def push(run: str, repository: str, public: bool, message: str, dry_run: bool, as_json: bool) -> None:
    """Publish the adapter of a run on the Hugging Face hub.

    Adapter, tokenizer, model card and the manifest without paths and examples go up; predictions, rows, logs and the
    report never do.

    \b
      seqtune push runs/support me/support-adapter --dry-run
      seqtune push runs/support me/support-adapter
    """
    quiet_libraries()
    from seqtune import publishing, terminal

    found = publishing.push(run, repository, private=not public, message=message, dry_run=dry_run)
    if as_json:
        print_text(terminal.as_json(found, indent=2))
        return
    verb = "would go" if dry_run else "went"
    click.echo(terminal.clean(f"{len(found['files'])} files {verb} to {repository}: {', '.join(found['files'])}"))
    if found["url"]:
        click.echo(terminal.clean(found["url"]))
