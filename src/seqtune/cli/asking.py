"""The commands that use a tuned model: `evaluate`, `predict`."""

from __future__ import annotations

import sys
from typing import Any

import click

from seqtune.cli.app import quiet_libraries, seqtune
from seqtune.cli.printing import print_text
from seqtune.options import GroupedCommand, config_option, given, json_option, options_of
from seqtune.settings import knobs, of_group

#: What `seqtune predict` takes besides the questions.
PREDICT_KNOBS = (
    "input_text_key",
    "model_id",
    "max_new_tokens",
    "num_beams",
    "device_type",
    "per_device_eval_batch_size",
)


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
    quiet_libraries()
    with terminal.display(notes=not as_json, live=not as_json):
        from seqtune import api

        found = api.evaluate(**values)
    if as_json:
        print_text(terminal.as_json(found, indent=2))
    else:
        terminal.show_result(found, None)


@seqtune.command()
@click.argument("run", metavar="RUN")
@click.argument("file", metavar="FILE|-")
@click.option(
    "--output", metavar="FILE", help="Write to FILE (.jsonl, .csv, .tsv, .parquet), with the rows' other columns."
)
@click.option(
    "--answer-key", metavar="TEXT", default="output", show_default=True, help="Column of the answers in --output."
)
@click.option("--overwrite", is_flag=True, help="Replace the file that is at --output.")
@options_of(
    [knob for knob in knobs().values() if knob.name in PREDICT_KNOBS],
    {name: "the run's own" for name in PREDICT_KNOBS if name != "device_type"},
)
@click.option("--on", metavar="ray[://…]", help="Answer on a Ray cluster: ray starts one here, ray://HOST:PORT is one.")
@click.option("--workers", type=click.IntRange(min=1), help="With --on: how many.  [default: one a GPU, or a machine]")
@click.pass_context
def predict(
    ctx: click.Context,
    run: str,
    file: str,
    output: str | None,
    answer_key: str,
    overwrite: bool,
    on: str | None,
    workers: int | None,
    **_: Any,
) -> None:
    """Answer questions with a tuned model.

    FILE is of any kind that `finetune` reads, or text with a question a line (.txt); - is standard input: a JSON
    object, a JSON string or a plain question a line. Each answer is a line {"input": ..., "output": ...}; or with
    --output a row of that file. Files of any length take the same memory (on Ray all texts are held). A prediction into
    a file that was stopped goes on when the same command is given again.

    \b
      seqtune predict runs/support questions.jsonl > answers.jsonl
      seqtune predict runs/support questions.csv --output answers.csv
      echo "How do I reset it?" | seqtune predict runs/support -
    """
    values = given(ctx)
    if output is not None and file == "-":
        raise click.UsageError("--output takes a FILE that can be read again; - goes to standard output.", ctx)
    from seqtune import preflight, questions, terminal
    from seqtune.predicting import writers
    from seqtune.predicting.columns import Columns

    saved = (preflight.check_saved(run)["manifest"] or {}).get("settings", {})
    key = values.pop("input_text_key", None) or saved.get("input_text_key") or knobs()["input_text_key"].default
    preflight.check_model(values.get("model_id"))
    columns = Columns()
    found = None
    if output is not None:
        writers.check(output, overwrite)
    if file != "-":
        found = questions.look_through(file, key, columns.see if output is not None else lambda row: None)
    quiet_libraries()
    # Into a pipe, answers and errors alone; a person is told of the device and of a download.
    seen = sys.stderr.isatty()
    live = file != "-" and (output is not None or not sys.stdout.isatty())
    with terminal.display(notes=seen or output is not None, live=live):
        texts = questions.read("-", key) if found is None else (text for text, _ in found.rows())
        if on is not None or workers is not None:
            from seqtune import batch

            values["batch_size"] = values.pop("per_device_eval_batch_size", None)
            if output is None or found is None:
                for text, answer in batch.answers(run, list(texts), on or "", workers, **values):
                    print_text(terminal.as_json({"input": text, "output": answer}))
            else:
                batch.to_file(
                    run, found, columns, output, on or "", workers,
                    answer_key=answer_key, overwrite=overwrite, **values,
                )  # fmt: skip
            return
        from seqtune import api
        from seqtune.predicting import filling

        model = api.load(run, **{name: values.pop(name) for name in ("device_type", "model_id") if name in values})
        batch_size = values.pop("per_device_eval_batch_size", None)
        if output is not None and found is not None:
            filling.to_file(
                model, found, columns, output,
                answer_key=answer_key, overwrite=overwrite, tell=not seen, batch_size=batch_size, **values,
            )  # fmt: skip
            return
        ahead = 1 if file == "-" and sys.stdin.isatty() else api.CHUNK
        total = found.total if found is not None else None
        for text, answer in filling.answered(model, texts, total, chunk=ahead, batch_size=batch_size, **values):
            print_text(terminal.as_json({"input": text, "output": answer}))
