"""Options of the command line, made from the knobs of `seqtune.settings`, and what was given with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click
from click.core import ParameterSource

from seqtune.errors import InputError
from seqtune.settings import GROUPS, Knob, knobs, read_config, validated

_TYPES = {int: click.INT, float: click.FLOAT, str: click.STRING}
_METAVARS = {int: "INT", float: "NUMBER", str: "TEXT"}


class GroupedCommand(click.Command):
    """A command whose help lists the knobs group by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each group under its name."""
        groups = {knob.name: knob.group for knob in knobs().values()}
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(groups.get(parameter.name or "", "general"), []).append(record)
        for name in (*GROUPS, "general"):
            if name in sections:
                with formatter.section(name.capitalize()):
                    formatter.write_dl(sections[name])


def options_of(
    each: Iterable[Knob], defaults: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option for each knob, of its type, with its help and default.

    Args:
        each: the knobs, in order.
        defaults: what the help says of a default, where it is not the knob's own.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for knob in reversed(list(each)):
            default = (defaults or {}).get(knob.name, knob.default_text)
            facts = "; ".join(part for part in (knob.unit, knob.bounds_text, f"default: {default}") if part)
            if knob.type is bool:
                name, kind, metavar = f"{knob.option}/--no-{knob.option[2:]}", None, None
            else:
                name, kind = knob.option, click.Choice(knob.choices) if knob.choices else _TYPES[knob.type]
                metavar = None if knob.choices else _METAVARS[knob.type]
            function = click.option(
                name, knob.name, type=kind, metavar=metavar, default=None, help=f"{knob.help}  [{facts}]"
            )(function)
        return function

    return decorate


def but(*names: str) -> list[Knob]:
    """All knobs but these."""
    return [knob for knob in knobs().values() if knob.name not in names]


def given(
    ctx: click.Context, config: str | None = None, argument: str | None = None, name: str = "data_path"
) -> dict[str, Any]:
    """The knobs of the config file and, over them, those of the command line; what was not given is left out.

    Args:
        ctx: of the command.
        config: a YAML or TOML file.
        argument: the command's FILE or RUN, another way to give the knob ``name``.
        name: that knob.

    Raises:
        InputError: a value that its knob does not take, a config file that can't be read or has knobs that the command
            has no use for.
    """
    values = read_config(config) if config else {}
    useless = [f"{each} has no use in `seqtune {ctx.info_name}`" for each in values if each not in ctx.params]
    if useless:
        noun = "problem" if len(useless) == 1 else "problems"
        raise InputError(f"{config}: {len(useless)} {noun}", useless, f"`seqtune {ctx.info_name} --help` lists them.")
    for each in knobs():
        if each in ctx.params and ctx.get_parameter_source(each) != ParameterSource.DEFAULT:
            values[each] = ctx.params[each]
    if argument is not None:
        if ctx.params.get(name) is not None:
            raise click.UsageError(f"{argument} and {knobs()[name].option}: give one of them.", ctx)
        values[name] = argument
    return validated(values)


config_option = click.option("--config", metavar="FILE", help="Settings in a YAML or TOML file; options come first.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else.")
live_option = click.option(
    "--live", is_flag=True, help="Serve the report's page on this machine while it trains; its address is said."
)
track_option = click.option(
    "--track",
    type=click.Choice(["tensorboard", "mlflow", "wandb", "trackio"]),
    help="Follow the training with a tracker; docs/trackers.md tells where its files lie.",
)
