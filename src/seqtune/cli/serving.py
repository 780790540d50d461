"""The commands that answer people and programs: `chat`, `serve`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from seqtune.cli.app import quiet_libraries, seqtune
from seqtune.errors import InputError
from seqtune.options import given, options_of
from seqtune.serve.settings import ServeSettings
from seqtune.settings import knobs, validated

#: What the extra brings.
NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@seqtune.command()
@click.argument("run", metavar="RUN")
@click.option("--compare", is_flag=True, help="Show the base model's answer beside it.")
@click.option(
    "--save-to",
    metavar="FILE",
    default="corrections.json",
    show_default=True,
    help="Where /save keeps corrected pairs.",
)
@options_of([knobs()["device_type"]])
@click.pass_context
def chat(ctx: click.Context, run: str, compare: bool, save_to: str, device_type: str | None) -> None:
    """Ask a tuned model in the terminal.

    Answers come as they are written. Each question stands for itself: that is what the model was tuned on. /save keeps
    a corrected pair in a file that `finetune` reads, /undo takes it out again, /again draws another answer, /help lists
    them all.

    \b
      seqtune chat runs/support --compare
    """
    values = given(ctx)
    from seqtune import preflight

    saved = (preflight.check_saved(run)["manifest"] or {}).get("settings", {})
    quiet_libraries()
    from seqtune import terminal

    with terminal.display(live=False):
        from seqtune import chatting
        from seqtune.serve.shelf import Shelf

        tuned, base = Shelf.filled([run], **values).entries.values()
        shown = {f"{base.name}, base": base, f"{tuned.name}, tuned": tuned} if compare else {tuned.name: tuned}
        speakers = {name: chatting.speaker(entry.model) for name, entry in shown.items()}
        keys = [saved.get(name) or knobs()[name].default for name in ("input_text_key", "output_text_key")]
        chatting.note("/help says what else there is than asking; Ctrl-D ends")
        pairs = chatting.Pairs(Path(save_to), (keys[0], keys[1]))
        chatting.talk(speakers, pairs, chatting.ask, chatting.show, chatting.note)


@seqtune.command()
@click.argument("runs", metavar="RUN [RUN ...]", nargs=-1, required=True)
@options_of(list(knobs(ServeSettings).values()))
@click.pass_context
def serve(ctx: click.Context, runs: tuple[str, ...], **options: Any) -> None:
    """Serve tuned models to OpenAI's clients, with a page to ask.

    Each RUN is a model of its folder's name; its base model is one too. Models of one base share its weights. The page
    is at /, figures are at /metrics, the state is at /health.

    \b
      seqtune serve runs/support
      seqtune serve runs/support runs/returns --port 8080 --max-batch-size 32
    """
    values = {
        name: value for name, value in options.items() if ctx.get_parameter_source(name) != ParameterSource.DEFAULT
    }
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
