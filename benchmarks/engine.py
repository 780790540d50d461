"""Rows a second and peak memory of a LoRA step: the ancestor's recipe, the best Trainer, our two engines.

    python benchmarks/engine.py [--shapes flan-t5-small mt5-small …] [--rounds 3] [--write benchmarks/results.md]

All in one run on one machine: every variant in a process of its own (so that its peak memory is its own), the variants
of a shape one after the other, and that `--rounds` times over; medians. The same rows, the same LoRA (r 16 on queries
and values, dropout 0.2), 8 rows an optimizer step, AdamW, the model's own dropout on; weights are random, so that
nothing is downloaded. That the engines compute the same is `benchmarks/agreement.py`'s to show.

ancestor   Seq2SeqTrainer, fp32, every row padded to the 95th percentile of all, longer ones cut
trainer    Seq2SeqTrainer, bf16 autocast, grouped by length, padded to the longest of a batch, whichever attention is
           the faster one for the family (plain for T5, fused for BART)
reference  seqtune, engine=reference, precision=auto
fast fp32  seqtune, engine=fast, precision=fp32
fast       seqtune, engine=fast, precision=auto; both fast ones with group_by_length, as the trainer

`--variants "trainer sdpa"` is the trainer with fused attention for T5 too, `--variants "trainer plain"` the trainer as
its two switches make it: bf16, grouped by the length of the question alone, the attention that transformers picks.
`--variants "fast ungrouped"` is the fast engine with its rows in random order, as in runs of less than 2,000 steps.
With `--device cuda` all variants run in this process, with `--rows-per-step` rows a step; the peak is the GPU's memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VARIANTS = ("ancestor", "trainer", "reference", "fast fp32", "fast")
SHAPES = ("flan-t5-small", "mt5-small", "flan-t5-base", "bart-base")
ROWS_PER_STEP = 8
#: Steps that are timed; as many as leave the slow variants a minute or two.
STEPS = {"ancestor": 3, "trainer": 12, "reference": 12, "fast fp32": 12, "fast": 80}
WARM_UP = {"fast": 4}
#: The same on a GPU. Most shapes of batches are recorded (`speed.graphs`) within the first two epochs of 2,500 rows.
GPU_STEPS, GPU_WARM_UP = {"fast": 60}, {"fast": 160}


def worker(
    variant: str, shape: str, rows_file: str, device: str = "cpu", rows_per_step: int = ROWS_PER_STEP
) -> dict[str, Any]:
    """Train in this process; what was measured."""
    import flops
    import shapes
    import torch

    from seqtune.models import adapters

    on_gpu = device != "cpu"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    base = shapes.build(shape, device)
    settings = {
        "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.2, "target_modules": None, "use_dora": False,
        "use_rslora": False,
    }  # fmt: skip
    torch.manual_seed(0)
    model = adapters.attach(base, adapters.lora_config(base, shape, settings), shape).to(device)
    rows = json.loads(Path(rows_file).read_text())
    warm = GPU_WARM_UP.get(variant, 5) if on_gpu else WARM_UP.get(variant, 1)
    timed_steps = GPU_STEPS.get(variant, 30) if on_gpu else STEPS.get(variant, 24)
    run = by_trainer if variant.startswith(("ancestor", "trainer")) else by_seqtune
    measured = run(variant, model, rows, warm + timed_steps, device, rows_per_step)
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    inner = model.get_base_model()
    seconds = sum(measured["seconds"][warm:])
    useful = sum(flops.per_row(inner, s, t) for step in measured["lengths"][warm:] for s, t in step)
    real = sum(s + t for step in measured["lengths"][warm:] for s, t in step)
    padded = sum(measured["positions"][warm:])
    # Steps of sorted rows differ in length: rows of the file's mean length a second, whichever steps were timed. (Of
    # the ancestor every row is as long.)
    mean = sum(len(row["input_ids"]) + len(row["labels"]) for row in rows) / len(rows)
    timed = rows_per_step * timed_steps if variant == "ancestor" else real / mean
    return {
        "rows_s": timed / seconds,
        "tokens_s": real / seconds,
        "flops_s": useful / seconds,
        "padding": 1 - real / padded,
        "peak": peak,
    }


def by_trainer(
    variant: str, model: Any, rows: list[dict[str, Any]], steps: int, device: str, rows_per_step: int
) -> dict[str, Any]:
    """transformers' Seq2SeqTrainer."""
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

    from seqtune.engine import batching

    inner = model.get_base_model()
    pad = inner.config.pad_token_id
    best = variant != "ancestor"
    source, target = (int(np.percentile([len(r[k]) for r in rows], 95)) for k in ("input_ids", "labels"))
    measured: dict[str, Any] = {"seconds": [], "lengths": [], "positions": []}
    plain = variant == "trainer plain"
    if best and not plain and "T5" in type(inner).__name__:
        inner.set_attn_implementation("eager" if variant == "trainer" else "sdpa")
    if best:
        torch.backends.cuda.enable_cudnn_sdp(False)  # plans anew for each shape: 89 rows/s with it, 258 without

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        if not best:
            batch = [{"input_ids": r["input_ids"][:source], "labels": r["labels"][:target]} for r in batch]
            fillers = {"input_ids": [pad] * source, "labels": [-100] * target}
            batch = [*batch, fillers]
        tensors = batching.collate(batch, pad)
        if not best:  # the filler made every row as long as the percentile; it goes again
            tensors = {name: tensor[:-1] for name, tensor in tensors.items()}
            tensors["attention_mask"] = (tensors["input_ids"] != pad).long()
            batch = batch[:-1]
        measured["lengths"].append([(len(r["input_ids"]), len(r["labels"])) for r in batch])
        measured["positions"].append(tensors["input_ids"].numel() + tensors["labels"].numel())
        return tensors

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if device != "cpu":
                torch.cuda.synchronize()
            measured["seconds"].append(time.perf_counter() - self.started)

    arguments = Seq2SeqTrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=rows_per_step,
        max_steps=steps,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        bf16=best,
        train_sampling_strategy="group_by_length" if best else "random",
        length_column_name="length",
        use_cpu=device == "cpu",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    lengths = [len(r["input_ids"]) + (0 if plain else len(r["labels"])) for r in rows]
    dataset = Dataset.from_list([{**r, "length": length} for r, length in zip(rows, lengths, strict=True)])
    trainer = Seq2SeqTrainer(model, arguments, train_dataset=dataset, data_collator=collate, callbacks=[Clock()])
    trainer.train()
    for name in ("lengths", "positions"):  # batches that were fetched ahead
        measured[name] = measured[name][:steps]
    return measured


def by_seqtune(
    variant: str, model: Any, rows: list[dict[str, Any]], steps: int, device_type: str, rows_per_step: int
) -> dict[str, Any]:
    """`seqtune.engine.loop.train` itself, its log and its batches."""
    import torch

    from seqtune.engine import batching, hardware, loop
    from seqtune.engine.speed import graphs
    from seqtune.settings import DEFAULT

    device = torch.device(device_type)
    engine = "reference" if variant == "reference" else "fast"
    precision = "fp32" if variant == "fast fp32" else hardware.choose_precision("auto", device)["value"]
    settings = {
        **DEFAULT.model_dump(), "engine": engine, "max_steps": steps, "learning_rate": 1e-3, "eval_steps": 10**9,
        "lr_scheduler_type": "constant", "warmup_steps": 0, "per_device_train_batch_size": rows_per_step,
        "group_by_length": variant != "fast ungrouped" and engine == "fast",
    }  # fmt: skip
    passes: list[tuple[list[tuple[int, int]], int]] = []
    made = batching.collate

    def collate(batch: list[dict[str, Any]], pad: int, place: Any = None) -> dict[str, Any]:
        tensors = made(batch, pad, place)
        widths = [tensors[name].shape[1] for name in ("input_ids", "labels")]
        if engine == "fast" and device.type == "cuda":
            widths = [graphs.rounded(width) for width in widths]
        positions = len(batch) * sum(widths)
        passes.append(([(len(r["input_ids"]), len(r["labels"])) for r in batch], positions))
        return tensors

    batching.collate = collate
    state = loop.train(
        model, rows, rows[:2], settings, device=device, precision=precision, pad_token_id=model.config.pad_token_id
    )
    batching.collate = made
    lengths: list[list[tuple[int, int]]] = []
    positions: list[int] = []
    log = state.log[1:]
    del passes[-1]  # the last validation loss
    for line in reversed(log):  # the first passes were the check and the validation loss before the first step
        lengths.insert(0, [])
        positions.insert(0, 0)
        while sum(s + t for s, t in lengths[0]) < line["tokens"]:
            of_rows, number = passes.pop()
            lengths[0] += of_rows
            positions[0] += number
    return {
        "seconds": [line["seconds"] for line in log],
        "lengths": lengths,
        "positions": positions,
    }


def matrix_peak(device: str = "cpu") -> float:
    """The machine's own bf16 matrix-multiply peak: the best median of a few shapes, in operations a second."""
    import torch

    best = 0.0
    wide = () if device == "cpu" else ((8192, 8192, 8192),)
    for rows, inner, columns in ((1536, 512, 1024), (1536, 512, 384), (2048, 2048, 2048), (256, 512, 32128), *wide):
        left, right = torch.randn(rows, inner).bfloat16().to(device), torch.randn(inner, columns).bfloat16().to(device)
        out = torch.empty(rows, columns, dtype=torch.bfloat16, device=device)
        seconds = []
        for _ in range(25):
            started = time.perf_counter()
            torch.mm(left, right, out=out)
            if device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        best = max(best, 2.0 * rows * inner * columns / statistics.median(seconds))
    return best


def measured_in_a_process(arguments: list[str]) -> Any:
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> str:
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags]
    gpu = f"{torch.cuda.get_device_name()}; " if torch.cuda.is_available() else ""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    without = f"; ONEDNN_MAX_CPU_ISA={limit}" if limit else ""
    return f"{gpu}{name}, {os.cpu_count()} cores, {', '.join(units)}{without}; PyTorch {torch.__version__}"


def table(results: dict[str, dict[str, list[dict[str, float]]]], peaks: list[float]) -> list[str]:
    """Markdown: medians, and ratios of them."""
    peak = statistics.median(peaks)
    lines = [
        f"bf16 matrix-multiply peak: {peak / 1e9:,.0f} GFLOP/s (median of {len(peaks)})", "",
        "| shape | variant | rows/s | tokens/s | × ancestor | × trainer | useful GFLOP/s | of the peak | "
        "peak memory | of the ancestor's | padding |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    for shape, variants in results.items():
        middle = {
            variant: {k: statistics.median(run[k] for run in runs) for k in runs[0]}
            for variant, runs in variants.items()
        }
        for variant, m in middle.items():
            ratio = {name: f"{m['rows_s'] / of['rows_s']:.1f}" for name, of in middle.items()}
            memory = f"{m['peak'] / middle['ancestor']['peak']:.2f}" if "ancestor" in middle else "–"
            lines.append(
                f"| {shape} | {variant} | {m['rows_s']:.2f} | {m['tokens_s']:,.0f} | {ratio.get('ancestor', '–')} | "
                f"{ratio.get('trainer', '–')} | {m['flops_s'] / 1e9:,.0f} | {m['flops_s'] / peak:.0%} | "
                f"{m['peak'] / 1e9:.2f} GB | {memory} | {m['padding']:.1%} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=None, help="a question-answer file; else the example data")
    parser.add_argument("--keys", nargs=2, default=["question", "reply"])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rows-per-step", type=int, default=ROWS_PER_STEP)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    import shapes

    data = arguments.data or Path(__file__).parents[1] / "examples" / "support.json"
    if arguments.worker:
        print(json.dumps(worker(*arguments.worker)))
        return
    if arguments.peak:
        print(json.dumps(matrix_peak()))
        return
    if arguments.prepare:
        shape, target = arguments.prepare
        vocabulary = shapes.SHAPES[shape][1].vocab_size
        Path(target).write_text(json.dumps(shapes.rows(data, *arguments.keys, arguments.rows, vocabulary)))
        print("null")
        return

    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    peaks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in arguments.shapes:
            file = Path(folder) / f"{shapes.SHAPES[shape][1].vocab_size}.json"
            common = ["--data", str(data), "--keys", *arguments.keys, "--rows", str(arguments.rows)]
            if not file.exists():
                measured_in_a_process([*common, "--prepare", shape, str(file)])
            results[shape] = {variant: [] for variant in arguments.variants}
            on_gpu = arguments.device != "cpu"
            for turn in range(arguments.rounds):
                peaks.append(matrix_peak(arguments.device) if on_gpu else measured_in_a_process(["--peak"]))
                for variant in arguments.variants:
                    if on_gpu:
                        run = worker(variant, shape, str(file), arguments.device, arguments.rows_per_step)
                    else:
                        run = measured_in_a_process(["--worker", variant, shape, str(file)])
                    results[shape][variant].append(run)
                    short = {k: round(v, 4) if isinstance(v, float) else v for k, v in run.items()}
                    print(f"{shape} round {turn + 1} {variant}: {short}", file=sys.stderr, flush=True)
    said = f"{machine()}, {arguments.rounds} rounds, {arguments.rows_per_step} rows a step, {data.name}"
    lines = [f"{time.strftime('%Y-%m-%d')}, {said}.", "",
             *table(results, peaks)]  # fmt: skip
    print("\n".join(lines))
    if arguments.write:
        with arguments.write.open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *lines, ""]))


if __name__ == "__main__":
    main()
