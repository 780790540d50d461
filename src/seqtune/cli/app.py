"""The command group: its help, and what it says when memory runs out."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import click

from seqtune import __version__
from seqtune.errors import RunError, SeqtuneError, is_out_of_memory
from seqtune.progress import latest, timed
from seqtune.settings import knobs

#: What makes a command take less memory when it is made smaller.
MEMORY_KNOBS = ("per_device_train_batch_size", "per_device_eval_batch_size", "max_source_length")

#: The commands as the help lists them.
ORDER = (
    "check",
    "plan",
    "finetune",
    "resume",
    "rerun",
    "sweep",
    "evaluate",
    "compare",
    "runs",
    "report",
    "predict",
    "push",
    "chat",
    "serve",
    "export",
    "demo",
    "show",
    "inputs",
)


class Commands(click.Group):
    """The commands in the order in which they are used. None of them shows a traceback for want of memory."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of `ORDER`."""
        return sorted(self.commands, key=ORDER.index)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was typed."""
        with timed():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if isinstance(error, SeqtuneError) or not is_out_of_memory(error):
                raise
            name = ctx.invoked_subcommand or ""
            smaller = [knobs()[each].option for each in MEMORY_KNOBS if each in _parameters(self, name)]
            mend = f"Try a smaller {', or a smaller '.join(smaller)}." if smaller else "Close other programs."
            done = [f"the last that was reported: {latest()}"] if latest() else []
            raise RunError(f"out of memory while running `seqtune {name}`", done, mend) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="seqtune")
def seqtune() -> None:
    """Fine-tune a language model on your own question-answer pairs, on the computer you have.

    \b
      seqtune demo
      seqtune finetune support.json --output-text-key answer
      seqtune predict runs/support questions.jsonl
    """


def _parameters(group: click.Group, name: str) -> set[str | None]:
    """The names of what a command takes; of none where there is no such command."""
    return {parameter.name for parameter in group.commands[name].params} if name in group.commands else set()


def _is_news(record: logging.LogRecord) -> bool:
    """Whether Hamilton's banner with a traceback says more than our message will."""
    return not is_out_of_memory(sys.exc_info()[1])


def quiet_libraries() -> None:
    """Keep the libraries' own bars and notices off our display; they are set before the libraries are imported."""
    for name in ("hamilton.driver", "hamilton.execution.graph_functions"):
        logging.getLogger(name).addFilter(_is_news)
    # PEFT imports it where it is there, and it then misses kernels of the hub that nothing here needs.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "HAMILTON_TELEMETRY_DISABLED"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("HAMILTON_TELEMETRY_ENABLED", "false")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
