"""The commands that make a run: `finetune`, `resume`, `rerun`, `demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from seqtune.cli.app import quiet_libraries, seqtune
from seqtune.cli.ending import Stopped
from seqtune.cli.printing import print_text, show_run
from seqtune.demo import SETTINGS as DEMO_SETTINGS
from seqtune.errors import SeqtuneError
from seqtune.launch import launched
from seqtune.options import (
    GroupedCommand,
    but,
    config_option,
    given,
    json_option,
    live_option,
    options_of,
    track_option,
)
from seqtune.run import is_finished
from seqtune.settings import knobs


@seqtune.command(cls=GroupedCommand)
@click.argument("file", metavar="FILE", required=False)
@options_of(but("adapter_path", "checkpoints_path"), {"data_path": "FILE"})
@click.option("--on", metavar="ray[://…]", help="Train on a Ray cluster: ray starts one here, ray://HOST:PORT is one.")
@click.option("--workers", type=click.IntRange(min=1), help="With --on: how many.  [default: one a GPU, or a machine]")
@click.option("--storage", metavar="URI", help="With --on: where workers that don't see OUT keep checkpoints (s3://…).")
@config_option
@live_option
@track_option
@json_option
@click.pass_context
def finetune(
    ctx: click.Context,
    file: str | None,
    on: str | None,
    workers: int | None,
    storage: str | None,
    config: str | None,
    live: bool,
    track: str | None,
    as_json: bool,
    **_: Any,
) -> None:
    """Tune a model on FILE and score it against the base model.

    FILE is JSON, JSON Lines, CSV, TSV or Parquet, a saved dataset folder, or a dataset id of the Hugging Face hub.
    What comes out is a run directory: the adapter, its scores, predictions and a report. A run that was stopped goes on
    when the same command is given again.

    \b
      seqtune finetune support.json --model-id seqtune-mini --num-train-epochs 5
      seqtune finetune --config settings.yaml --out runs/second
    """
    values = given(ctx, config, file)
    if "data_path" not in values:
        raise click.UsageError("Missing argument 'FILE' (or data_path in --config).", ctx)
    _tune(values, as_json, live, track=track, on=on, workers=workers, storage=storage)


@seqtune.command()
@click.argument("run", metavar="RUN")
@options_of([knobs()["allow_changed"]])
@live_option
@track_option
@json_option
@click.pass_context
def resume(ctx: click.Context, run: str, live: bool, track: str | None, as_json: bool, **_: Any) -> None:
    """Go on with a run that was stopped or killed.

    RUN is its directory. On the same machine and versions the result is that of a run that was never stopped, bit for
    bit. A finished run is shown and left as it is.

    \b
      seqtune resume runs/support
    """
    from seqtune import claim
    from seqtune.run import Run, is_finished

    if is_finished(Path(run)):
        show_run(Run(run), as_json)
        return
    _tune({**claim.inputs_of(run), **given(ctx)}, as_json, live, track=track)


@seqtune.command()
@click.argument("run", metavar="RUN")
@json_option
def rerun(run: str, as_json: bool) -> None:
    """Make a finished run again, and say whether the same comes out.

    RUN is its directory, which stays as it is. Exit status 1 where the result is another one.

    \b
      seqtune rerun runs/support
    """
    from seqtune import terminal
    from seqtune.run import Run

    Run(run)
    quiet_libraries()
    with terminal.display(notes=not as_json, live=not as_json):
        from seqtune import api

        found = api.rerun(run)
    if as_json:
        print_text(terminal.as_json(found, indent=2))
    elif found["same"]:
        click.echo("the same: adapter and metrics, to the last bit")
    else:
        click.echo("\n".join(["not the same:", *("  " + line for line in found["outcome"])]))
        click.echo("\n".join(["what else differs:", *("  " + line for line in found["reasons"] or ["nothing"])]))
    if not found["same"]:
        sys.exit(1)


@seqtune.command(cls=GroupedCommand)
@options_of(
    but("data_path", "adapter_path", "checkpoints_path"), {name: str(value) for name, value in DEMO_SETTINGS.items()}
)
@live_option
@json_option
@click.pass_context
def demo(ctx: click.Context, live: bool, as_json: bool, **_: Any) -> None:
    """Tune the embedded model on the example data, without a network.

    It takes a few minutes. Any setting can be changed.
    """
    from seqtune import demo as example

    values = {"data_path": str(example.example_data()), **DEMO_SETTINGS, **given(ctx)}
    run = _tune(values, as_json, live)
    if not as_json:
        from seqtune import terminal

        click.echo("\nThe best, the middle and the worst answer on the hold-out rows:")
        terminal.show_answers(example.three_answers(run.predictions["hold_out"]))


def _tune(values: dict[str, Any], as_json: bool, live: bool, **where: Any) -> Any:
    """Check, train, deliver and show; returns the `Run`."""
    if live and as_json:
        raise click.UsageError("--live is for people and --json for programs: give one of them.")
    from seqtune import claim, preflight, terminal

    if launched()[0] > 0:
        return _follow(values)

    out = values.get("out")
    if launched()[1] == 1 or not out or not is_finished(Path(out)):  # else the others must learn of it too: `finetune`
        with terminal.display(notes=not as_json, live=False):
            finished = claim.finished(values)
        if finished is not None:
            show_run(finished, as_json)
            return finished
        preflight.check(values)  # what can be refused is refused before PyTorch is imported
    values = {**values, "out": claim.place(values)}
    quiet_libraries()
    try:
        with terminal.display(notes=not as_json, live=not as_json):
            from seqtune import api

            run = api.finetune(**values, live=live, **where)
    except Stopped as stop:
        stop.text = f"stopped; {claim.how_to_go_on(values['out'])}"
        raise
    show_run(run, as_json)
    return run


def _follow(values: dict[str, Any]) -> Any:
    """In a process that was launched beside the first: train with it, and leave speaking to it."""
    quiet_libraries()
    from seqtune import api
    from seqtune.engine.ranks import RankGoneError

    try:
        return api.finetune(**values)
    except RankGoneError:
        sys.exit(1)
    except SeqtuneError as error:
        error.headline = f"process {launched()[0]}: {error.headline}"
        raise
