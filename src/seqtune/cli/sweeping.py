"""The command that tries settings: `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seqtune.cli.app import quiet_libraries, seqtune
from seqtune.cli.printing import print_text
from seqtune.options import GroupedCommand, but, config_option, given, json_option, options_of


@seqtune.command(cls=GroupedCommand)
@click.argument("file", metavar="FILE", required=False)
@click.option("--try", "tries", metavar="NAME=VALUES", multiple=True, help="A setting and what to try: see above.")
@click.option("--trials", type=click.IntRange(min=1), default=12, show_default=True, help="How many runs.")
@click.option("--prune/--no-prune", default=True, help="Stop runs that fall behind.  [default: yes]")
@click.option("--on", metavar="ray[://…]", help="Trials side by side on a Ray cluster: ray starts one here.")
@click.option("--workers", type=click.IntRange(min=1), help="With --on: how many at once.  [default: as of finetune]")
@options_of(
    but("adapter_path", "checkpoints_path", "overwrite", "allow_changed", "work_dir"),
    {"data_path": "FILE", "out": "sweeps/NAME-OF-THE-FILE"},
)
@config_option
@json_option
@click.pass_context
def sweep(
    ctx: click.Context,
    file: str | None,
    tries: tuple[str, ...],
    trials: int,
    prune: bool,
    on: str | None,
    workers: int | None,
    config: str | None,
    as_json: bool,
    **_: Any,
) -> None:
    """Try settings on FILE and keep the best run.

    Trials are compared by their validation loss; only the best is scored on the hold-out rows. A sweep that was stopped
    goes on when the same command is given again. A range is LOW..HIGH or LOW..HIGH:log, a list has commas (| where
    values have commas); without --try, the learning rate, target modules and rank are tried.

    \b
      seqtune sweep support.json --trials 12
      seqtune sweep support.json --try learning_rate=1e-4..3e-3:log
      seqtune sweep support.json --try lora_r=8,16,32 --try lora_dropout=0..0.2
    """
    values = given(ctx, config, file)
    if "data_path" not in values:
        raise click.UsageError("Missing argument 'FILE' (or data_path in --config).", ctx)
    from seqtune.sweep import space

    wanted = space.parsed(tries or space.USUAL)
    both = [each.name for each in wanted if each.name in values]
    if both:
        raise click.UsageError(f"{', '.join(both)}: given, and tried with --try; one of them.", ctx)
    out = Path(values.pop("out", None) or Path("sweeps") / Path(values["data_path"]).name.split(".")[0])
    quiet_libraries()
    from seqtune import terminal

    with terminal.display(notes=not as_json, live=not as_json):
        from seqtune.sweep import study

        where = {"on": on, "workers": workers}
        result = study.sweep(values.pop("data_path"), wanted, out=out, trials=trials, prune=prune, **where, **values)
    if as_json:
        print_text(terminal.as_json(result, indent=2))
        return
    from seqtune.run import Run

    best = Run(result["run"])
    for each in sorted(result["trials"], key=lambda each: (each["loss"] is None, each["loss"] or 0.0)):
        loss = "–" if each["loss"] is None else f"{each['loss']:.4f}"
        settings = "  ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                             for name, value in each["settings"].items())  # fmt: skip
        print_text(f"{each['directory']}  {loss:>8}  {each['state']:<8}  {settings}")
    terminal.show_result(best.manifest, str(best.path))
    print_text(f"the sweep      {out}/report.html")
