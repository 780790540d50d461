"""Are the time and memory that `seqtune plan` names those that the run then takes?

Six combinations of model and file; plan and run each in a process of its own, one after the other.

    python benchmarks/plan_accuracy.py DATA_FOLDER [--only MODEL] [--write FILE]

DATA_FOLDER holds support.json (instruction, response) and nl2bash.json (description, command).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from shapes import build

HERE = Path(__file__).parents[1]
EXAMPLES = (HERE / "examples" / "support.json", "question", "reply")

#: Model, file, keys, further settings. The shapes have random weights and seqtune-mini's tokenizer.
COMBINATIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("seqtune-mini", "examples", {"num_train_epochs": 6}),
    ("seqtune-mini", "support.json", {"max_samples": 1500}),
    ("seqtune-mini", "nl2bash.json", {"max_samples": 4000}),
    ("flan-t5-small", "examples", {"num_train_epochs": 2}),
    ("flan-t5-small", "support.json", {"max_samples": 400, "max_eval_rows": 40, "max_new_tokens": 64}),
    ("bart-base", "nl2bash.json", {"max_samples": 500, "max_eval_rows": 40, "max_new_tokens": 32}),
)
KEYS = {"support.json": ("instruction", "response"), "nl2bash.json": ("description", "command")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--only", choices=sorted({model for model, _, _ in COMBINATIONS}), help="this model's alone")
    arguments = parser.parse_args()
    lines = [
        "| model | file | time: planned, taken | ratio | memory: planned, taken | ratio |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for model, file, settings in COMBINATIONS:
            if arguments.only not in (None, model):
                continue
            path, question, answer = (arguments.data / file, *KEYS[file]) if file in KEYS else EXAMPLES
            options = [
                "--model-id",
                _model(model, Path(folder)),
                "--input-text-key",
                question,
                "--output-text-key",
                answer,
            ]
            for name, value in settings.items():
                options += [f"--{name.replace('_', '-')}", str(value)]
            planned, _, _ = _run(["plan", str(path), "--json", *options])
            out = Path(folder) / "run"
            _, seconds, peak = _run(["finetune", str(path), "--json", "--overwrite", "--out", str(out), *options])
            plan = json.loads(planned)
            of_time, of_memory = plan["seconds"]["total"] / seconds, plan["memory"]["peak_bytes"] / peak
            lines.append(
                f"| {model} | {file} | {plan['seconds']['total']:.0f} s, {seconds:.0f} s | {of_time:.2f} | "
                f"{plan['memory']['peak_bytes'] / 2**20:.0f} MiB, {peak / 2**20:.0f} MiB | {of_memory:.2f} |"
            )
            print(lines[-1], flush=True)
    if arguments.write:
        arguments.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _run(arguments: list[str]) -> tuple[str, float, int]:
    """What the command printed, the seconds it took, and its peak memory in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "seqtune", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    printed = process.stdout.read()
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"seqtune {' '.join(arguments)}\n{said}")
    return printed, time.perf_counter() - started, usage.ru_maxrss * 1024


def _model(name: str, folder: Path) -> str:
    """The embedded model's name, or a folder with a model of the shape."""
    if name == "seqtune-mini":
        return name
    place = folder / name
    if not place.is_dir():
        from seqtune.models import loading

        model = build(name)
        tokenizer = loading.load_tokenizer(loading.resolve("seqtune-mini"))
        model.config.eos_token_id, model.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    return str(place)


if __name__ == "__main__":
    main()
