"""The commands that answer people and programs: `chat`, `serve`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import click
from click.core import ParameterSource

from seqtune.cli.app import quiet_libraries, seqtune
from seqtune.errors import InputError
from seqtune.options import options_of
from seqtune.serve.settings import ServeSettings
from seqtune.settings import knobs, validated

#: What the extra brings.
NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@seqtune.command()
@click.argument("runs", metavar="RUN [RUN ...]", nargs=-1, required=True)
@options_of(list(knobs(ServeSettings).values()))
@click.pass_context
def serve(ctx: click.Context, runs: tuple[str, ...], **given: Any) -> None:
    """Serve tuned models to OpenAI's clients, with a page to ask.

    Each RUN is a model of its folder's name; its base model is one too. Models of one base share its weights. The page
    is at /, figures are at /metrics, the state is at /health.

    \b
      seqtune serve runs/support
      seqtune serve runs/support runs/returns --port 8080 --max-batch-size 32
    """
    values = {name: value for name, value in given.items() if ctx.get_parameter_source(name) != ParameterSource.DEFAULT}
    settings = validated(values, ServeSettings)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(f"serve needs {', '.join(missing)}", mend="pip install 'seqtune[serve]'")
    from seqtune import preflight

    for path in runs:
        preflight.check_saved(path)
    quiet_libraries()
    from seqtune import terminal

    with terminal.display(live=False):
        from seqtune.serve import running

        running.serve(runs, running.checked(settings))
