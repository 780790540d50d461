"""The command that hands a tuned model to other runtimes: `export`."""

from __future__ import annotations

import click

from seqtune.cli.app import quiet_libraries, seqtune
from seqtune.cli.printing import print_text
from seqtune.options import json_option

#: As `seqtune.export.TARGETS`, which is not imported for the help; a test holds that they are equal.
TARGETS = ("merged", "adapter", "ctranslate2", "onnx", "gguf")
QUANTIZATIONS = ("float32", "bfloat16", "int8", "int8_float32", "q8_0")


@seqtune.command()
@click.argument("run", metavar="RUN")
@click.option("--to", type=click.Choice(TARGETS), required=True, help="For which runtime.")
@click.option("--out", metavar="FOLDER", required=True, help="The folder to make.")
@click.option(
    "--quantization",
    type=click.Choice(QUANTIZATIONS),
    help="Arithmetic of the weights; but float32 with ctranslate2 and (q8_0) gguf alone.",
)
@click.option("--model-id", metavar="ID", help="Where the base model is now, if not where it was.")
@click.option("--overwrite", is_flag=True, help="Replace the export that is in --out.")
@json_option
def export(
    run: str, to: str, out: str, quantization: str | None, model_id: str | None, overwrite: bool, as_json: bool
) -> None:
    """Hand a tuned model to another runtime.

    RUN is a run directory, or an adapter folder in PEFT's format. The export is checked against the original: it
    answers rows of the run's validation set, and where it differs by more than a stated bound, nothing is written.
    load.py in it shows how it is loaded. ctranslate2 and onnx need `pip install 'seqtune[export]'`, gguf (T5's kind,
    for llama.cpp) `pip install 'seqtune[gguf]'`.

    \b
      seqtune export runs/support --to merged --out support-model
      seqtune export runs/support --to ctranslate2 --quantization int8 --out int8
    """
    from seqtune import preflight, terminal

    preflight.check_saved(run)
    preflight.check_model(model_id)
    quiet_libraries()
    with terminal.display(notes=not as_json, live=False):
        from seqtune.export import write

        found = write(run, to, out, quantization=quantization, overwrite=overwrite, model_id=model_id)
    if as_json:
        print_text(terminal.as_json(found, indent=2))
    else:
        print_text(f"{out}: {to}, {found['quantization']}; `{found['load']}` shows how it is loaded")
