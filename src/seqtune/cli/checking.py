"""The commands that look before anything is trained: `check` at the data, `plan` at the whole run."""

from __future__ import annotations

import sys
from typing import Any

import click

from seqtune.cli import printing
from seqtune.cli.app import quiet_libraries, seqtune
from seqtune.options import GroupedCommand, but, config_option, given, json_option, options_of
from seqtune.settings import of_group


@seqtune.command(cls=GroupedCommand)
@click.argument("file", metavar="FILE", required=False)
@options_of(
    [knob for knob in of_group(["data", "model", "tokenization"]) if knob.name != "device_type"],
    {"data_path": "FILE"},
)
@click.option("--rejects", metavar="FILE", help="Write the rows that can't be used, and why, to FILE (JSON Lines).")
@config_option
@json_option
@click.pass_context
def check(
    ctx: click.Context, file: str | None, config: str | None, rejects: str | None, as_json: bool, **_: Any
) -> None:
    """Say what is wrong with FILE, all of it at once.

    Nothing is trained. With --model-id, tokens are looked at too: how long rows are, and what the tokenizer loses.
    Every check ends in PASS, WARN (it can be trained on, but know this) or FAIL (it can't). Exit status 2 if one fails,
    else 0.

    \b
      seqtune check support.json
      seqtune check support.json --model-id google/flan-t5-small
      seqtune check support.csv --on-bad-rows skip --rejects rejects.jsonl
    """
    values = given(ctx, config, file)
    if "data_path" not in values:
        raise click.UsageError("Missing argument 'FILE' (or data_path in --config).", ctx)
    quiet_libraries()
    from seqtune import checking, terminal
    from seqtune.data import intake
    from seqtune.data.findings import worst

    with terminal.display(notes=not as_json, live=not as_json):
        findings, rejected = checking.check(values)
    if as_json:
        content = {"verdict": worst(findings), "findings": [finding.as_dict() for finding in findings]}
        printing.print_text(terminal.as_json(content, indent=2))
    else:
        terminal.show_findings(findings)
    if rejects is not None:
        printing.write_text(rejects, intake.rejects_text(rejected), "--rejects")
    if worst(findings) == "FAIL":
        sys.exit(2)


@seqtune.command(cls=GroupedCommand)
@click.argument("file", metavar="FILE", required=False)
@options_of(but("adapter_path", "checkpoints_path", "allow_changed", "overwrite", "work_dir"), {"data_path": "FILE"})
@config_option
@json_option
@click.pass_context
def plan(ctx: click.Context, file: str | None, config: str | None, as_json: bool, **_: Any) -> None:
    """Say what a run on FILE will take, before it is started.

    Rows, tokens, steps, time, memory and disk on this machine, measured by doing a little of the run where the base
    model is here; nothing is downloaded. And which settings suit the size of the data, with reasons.

    \b
      seqtune plan support.json --model-id seqtune-mini
      seqtune plan support.json --num-train-epochs 5 --json
    """
    values = given(ctx, config, file)
    if "data_path" not in values:
        raise click.UsageError("Missing argument 'FILE' (or data_path in --config).", ctx)
    from seqtune import preflight, terminal

    preflight.check(values)
    quiet_libraries()
    with terminal.display(notes=not as_json, live=not as_json):
        from seqtune import planning

        found = planning.plan(**values)
    if as_json:
        printing.print_text(terminal.as_json(found, indent=2))
    else:
        terminal.show_plan(found)
