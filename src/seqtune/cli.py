"""The commands. No logic: options are made from `seqtune.settings`, the work is done by `seqtune.api` and the dataflow.

Results go to standard output, everything else to standard error. Exit status: 0 done, 1 the run failed, 2 bad usage or
bad input, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by the closing of the terminal.

Heavy imports stand inside the commands: ``--help`` and errors must not wait for PyTorch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from seqtune import __version__
from seqtune.demo import SETTINGS as DEMO_SETTINGS
from seqtune.errors import InputError, RunError, SeqtuneError
from seqtune.options import GroupedCommand, but, config_option, given, json_option, options_of
from seqtune.settings import STARTS, Settings, knobs, of_group

#: What `seqtune predict` takes besides the questions.
PREDICT_KNOBS = (
    "input_text_key",
    "model_id",
    "max_new_tokens",
    "num_beams",
    "device_type",
    "per_device_eval_batch_size",
)

#: What makes a command take less memory when it is made smaller.
MEMORY_KNOBS = ("per_device_train_batch_size", "per_device_eval_batch_size", "max_source_length")


class Commands(click.Group):
    """The commands in the order in which they are used. None of them shows a traceback for want of memory."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of definition."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            name = ctx.invoked_subcommand or ""
            smaller = [knobs()[each].option for each in MEMORY_KNOBS if each in _parameters(self, name)]
            mend = f"Try a smaller {', or a smaller '.join(smaller)}." if smaller else "Close other programs."
            raise RunError(f"out of memory while running `seqtune {name}`", mend=mend) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="seqtune")
def seqtune() -> None:
    """Fine-tune a language model on your own question-answer pairs, on the computer you have.

    \b
      seqtune demo
      seqtune finetune support.json --output-text-key answer
      seqtune predict runs/support questions.jsonl
    """


@seqtune.command(cls=GroupedCommand)
@click.argument("file", metavar="FILE", required=False)
@options_of(but("adapter_path", "checkpoints_path"), {"data_path": "FILE"})
@config_option
@json_option
@click.pass_context
def finetune(ctx: click.Context, file: str | None, config: str | None, as_json: bool, **_: Any) -> None:
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
    _tune(values, as_json)


@seqtune.command()
@click.argument("run", metavar="RUN")
@options_of([knobs()["allow_changed"]])
@json_option
@click.pass_context
def resume(ctx: click.Context, run: str, as_json: bool, **_: Any) -> None:
    """Go on with a run that was stopped or killed.

    RUN is its directory. On the same machine and versions the result is that of a run that was never stopped, bit for
    bit. A finished run is shown and left as it is.

    \b
      seqtune resume runs/support
    """
    from seqtune import claim
    from seqtune.run import Run, is_finished

    if is_finished(Path(run)):
        _show(Run(run), as_json)
        return
    _tune({**claim.inputs_of(run), **given(ctx)}, as_json)


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
    _quiet_libraries()
    with terminal.display(notes=not as_json, live=not as_json):
        from seqtune import api

        found = api.rerun(run)
    if as_json:
        _print(terminal.as_json(found, indent=2))
    elif found["same"]:
        click.echo("the same: adapter and metrics, to the last bit")
    else:
        click.echo("\n".join(["not the same:", *("  " + line for line in found["outcome"])]))
        click.echo("\n".join(["what else differs:", *("  " + line for line in found["reasons"] or ["nothing"])]))
    if not found["same"]:
        sys.exit(1)


@seqtune.command(cls=GroupedCommand)
@click.argument("run", metavar="RUN", required=False)
@options_of(
    [*of_group(["data", "model", "tokenization", "evaluation"]), knobs()["adapter_path"]],
    {**{name: "the run's own" for name in knobs() if name != "device_type"}, "adapter_path": "RUN"},
)
@config_option
@json_option
@click.pass_context
def evaluate(ctx: click.Context, run: str | None, config: str | None, as_json: bool, **_: Any) -> None:
    """Score a tuned model against its base model once more.

    RUN is a run directory, or an adapter folder in PEFT's format. It is scored on the run's own rows, with the run's
    own settings, unless told otherwise.

    \b
      seqtune evaluate runs/support --num-beams 4
      seqtune evaluate runs/support --hold-out-path new.json
    """
    values = given(ctx, config, run, "adapter_path")
    if "adapter_path" not in values:
        raise click.UsageError("Missing argument 'RUN' (or adapter_path in --config).", ctx)
    from seqtune import preflight, terminal

    preflight.check_evaluation(values)
    _quiet_libraries()
    with terminal.display(notes=not as_json, live=not as_json):
        from seqtune import api

        found = api.evaluate(**values)
    if as_json:
        _print(terminal.as_json(found, indent=2))
    else:
        terminal.show_result(found, None)


@seqtune.command()
@click.argument("run", metavar="RUN")
@click.argument("file", metavar="FILE|-")
@options_of(
    [knob for knob in knobs().values() if knob.name in PREDICT_KNOBS],
    {name: "the run's own" for name in PREDICT_KNOBS if name != "device_type"},
)
@click.pass_context
def predict(ctx: click.Context, run: str, file: str, **_: Any) -> None:
    """Answer questions with a tuned model, as JSON Lines.

    FILE is of any kind that `finetune` reads, or text with a question a line (.txt); - is standard input: a JSON
    object, a JSON string or a plain question a line. Each answer is a line {"input": ..., "output": ...}.

    \b
      seqtune predict runs/support questions.jsonl > answers.jsonl
      echo "How do I reset it?" | seqtune predict runs/support -
    """
    values = given(ctx)
    from seqtune import preflight, questions, terminal

    saved = (preflight.check_saved(run)["manifest"] or {}).get("settings", {})
    key = values.pop("input_text_key", None) or saved.get("input_text_key") or knobs()["input_text_key"].default
    texts = questions.read(file, key)
    preflight.check_model(values.get("model_id"))
    _quiet_libraries()
    # Into a pipe, answers and errors alone; a person is told of the device and of a download.
    with terminal.display(notes=sys.stderr.isatty(), live=file != "-" and not sys.stdout.isatty()):
        from seqtune import api

        model = api.load(run, **{name: values.pop(name) for name in ("device_type", "model_id") if name in values})
        batch_size = values.pop("per_device_eval_batch_size", None)
        ahead = 1 if file == "-" and sys.stdin.isatty() else api.CHUNK
        for text, output in model.stream(texts, chunk=ahead, batch_size=batch_size, **values):
            _print(terminal.as_json({"input": text, "output": output}))


@seqtune.command(cls=GroupedCommand)
@options_of(
    but("data_path", "adapter_path", "checkpoints_path"), {name: str(value) for name, value in DEMO_SETTINGS.items()}
)
@json_option
@click.pass_context
def demo(ctx: click.Context, as_json: bool, **_: Any) -> None:
    """Tune the embedded model on the example data, without a network.

    It takes a few minutes. Any setting can be changed.
    """
    from seqtune import demo as example

    values = {"data_path": str(example.example_data()), **DEMO_SETTINGS, **given(ctx)}
    run = _tune(values, as_json)
    if not as_json:
        from seqtune import terminal

        click.echo("\nThe best, the middle and the worst answer on the hold-out rows:")
        terminal.show_answers(example.three_answers(run.predictions["hold_out"]))


@seqtune.command()
@click.option("--format", "kind", type=click.Choice(["mermaid", "svg", "html"]), default="mermaid", show_default=True)
@click.option("--output", metavar="FILE", help="Write to FILE instead of standard output.")
@click.option("--start", type=click.Choice(STARTS), default="base", show_default=True, help="Which way in.")
def show(kind: str, output: str | None, start: str) -> None:
    """Draw the dataflow as Mermaid, SVG or HTML."""
    _quiet_libraries()
    from seqtune import picture
    from seqtune.driver import build_driver

    drawn = getattr(picture, kind)(build_driver({"start": start}))
    if output is None:
        _print(drawn)
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
        _print(terminal.as_json(Settings.model_json_schema(), indent=2))
    elif as_json:
        _print(terminal.as_json(tables.rows(), indent=2))
    elif markdown:
        _print(tables.markdown())
    else:
        terminal.show_inputs(tables.rows())


class _Stopped(BaseException):
    """Ctrl-C, SIGTERM or SIGHUP: unwinds everything, so that temporary folders go."""

    def __init__(self, signal_number: int):
        self.status = 128 + signal_number
        self.text = "stopped"


def main() -> None:
    """Run the command line; errors of ours are printed without a traceback."""
    _unwind_on_signals()
    try:
        seqtune.main(prog_name="seqtune", standalone_mode=False)
        sys.stdout.flush()
    except SeqtuneError as error:
        _fail(str(error), error.exit_status)
    except click.exceptions.NoArgsIsHelpError as error:
        _fail(error.format_message(), error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        usage = f"{context.get_usage()}\n{_try_help(context)}\n\n" if context is not None else ""
        _fail(f"{usage}{error.format_message()}", error.exit_code)
    except (_Stopped, KeyboardInterrupt, click.exceptions.Abort) as stop:
        stopped = stop if isinstance(stop, _Stopped) else _Stopped(signal.SIGINT)
        behind_echo = "\n" if stopped.status == 130 and sys.stderr.isatty() else ""  # the terminal has shown ^C
        _fail(behind_echo + stopped.text, stopped.status)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _tune(values: dict[str, Any], as_json: bool) -> Any:
    """Check, train, deliver and show; returns the `Run`."""
    from seqtune import claim, preflight, terminal

    with terminal.display(notes=not as_json, live=False):
        finished = claim.finished(values)
    if finished is not None:
        _show(finished, as_json)
        return finished
    preflight.check(values)  # what can be refused is refused before PyTorch is imported
    values = {**values, "out": claim.place(values)}
    _quiet_libraries()
    try:
        with terminal.display(notes=not as_json, live=not as_json):
            from seqtune import api

            run = api.finetune(**values)
    except _Stopped as stop:
        stop.text = f"stopped; {claim.how_to_go_on(values['out'])}"
        raise
    _show(run, as_json)
    return run


def _show(run: Any, as_json: bool) -> None:
    """A finished run, for a person or a program."""
    from seqtune import terminal

    if as_json:
        _print(terminal.as_json({"path": str(run.path), **run.manifest}, indent=2))
    else:
        terminal.show_result(run.manifest, str(run.path))


def _fail(text: str, status: int) -> NoReturn:
    from seqtune.terminal import clean

    with contextlib.suppress(OSError):  # the terminal may be gone
        click.echo(clean(text), err=True)
    sys.exit(status)


def _try_help(context: click.Context) -> str:
    return f"`{context.command_path} --help` lists the options."


def _print(text: str) -> None:
    """Write UTF-8 to standard output whatever the locale."""
    click.echo(text.encode("utf-8"))


def _unwind_on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise `_Stopped`, unless whoever started us wants it otherwise (nohup)."""

    def unwind(signum: int, frame: FrameType | None) -> None:
        raise _Stopped(signum)

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if hasattr(signal, "SIGHUP"):  # the terminal was closed
        usual[signal.SIGHUP] = signal.SIG_DFL
    for number, handler in usual.items():
        if signal.getsignal(number) == handler:
            signal.signal(number, unwind)


def _parameters(group: click.Group, name: str) -> set[str | None]:
    """The names of what a command takes; of none where there is no such command."""
    return {parameter.name for parameter in group.commands[name].params} if name in group.commands else set()


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether Python's memory, or that of the device, is used up; told without an import of PyTorch."""
    names = {each.__name__ for each in type(error).__mro__}
    said = str(error) if isinstance(error, RuntimeError) else ""  # PyTorch on a CPU and on a Mac has no type for it
    return (
        bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in said or "out of memory" in said
    )


def _is_news(record: logging.LogRecord) -> bool:
    """Whether Hamilton's banner with a traceback says more than our message will."""
    return not _is_out_of_memory(sys.exc_info()[1])


def _quiet_libraries() -> None:
    """Keep the libraries' own bars and notices off our display; they are set before the libraries are imported."""
    for name in ("hamilton.driver", "hamilton.execution.graph_functions"):
        logging.getLogger(name).addFilter(_is_news)
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "HAMILTON_TELEMETRY_DISABLED"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("HAMILTON_TELEMETRY_ENABLED", "false")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
