"""Tokens a second and peak memory of answering: the ancestor's evaluation, transformers' `generate`, ours.

    python benchmarks/generate.py [--shapes flan-t5-small …] [--rounds 3] [--rows 96] [--write benchmarks/generation.md]

All in one run on one machine: every variant in a process of its own (so that its peak memory is its own), the variants
of a shape one after the other, and that `--rounds` times over; medians. Questions of the example data, greedy, 64 new
tokens; weights are random, so that nothing is downloaded (and hardly an answer ends before its limit: what is counted
are the tokens that were written). Getting ready (merging, packing) is not in the time; it is in the memory.

ancestor           one row at a time, drawn, 512 tokens, without an attention mask; fp32
generate N         transformers, rows sorted by length, N at a time; fp32
generate bf16 N    the same, the model in bf16
ours fp32 N        `seqtune.generation.Answerer`, batch_size N
ours N             the same, answer_precision=auto

`generate 16, 32, 64` are there so that the best of them can be what ours is compared with. With every fp32 run of ours,
the tokens of the first 16 rows are compared with those of `generate` alone, row by row.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCHES = (16, 32, 64)
VARIANTS = (
    "ancestor", *(f"generate {n}" for n in (1, *BATCHES)), *(f"generate bf16 {n}" for n in (1, *BATCHES)),
    *(f"ours fp32 {n}" for n in (1, 16)), *(f"ours {n}" for n in (1, 16)),
)  # fmt: skip
SHAPES = ("flan-t5-small", "mt5-small", "bart-base", "flan-t5-base")
NEW_TOKENS = 64
#: Rows that a variant answers, where all would take too long.
FEW = {"ancestor": 1, "generate 1": 6, "generate bf16 1": 6, "ours fp32 1": 12, "ours 1": 24}
COMPARED = 16


def worker(variant: str, shape: str, rows_file: str) -> dict[str, Any]:
    """Answer in this process; what was measured."""
    import shapes
    import torch

    model: Any = shapes.build(shape)
    model.generation_config.eos_token_id = model.config.eos_token_id
    rows = json.loads(Path(rows_file).read_text())
    number = int(variant.split()[-1]) if variant != "ancestor" else 1
    sources = [row["input_ids"] for row in rows][: FEW.get(variant, len(rows))]
    made = ours if variant.startswith("ours") else theirs
    if "generate bf16" in variant:
        model = model.bfloat16()
    answer = made(model, variant, number)
    with torch.inference_mode():
        answer(sources[:number], 8)  # whatever is done at first use
        started = time.perf_counter()
        found = answer(sources, NEW_TOKENS)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        measured = {"tokens_s": sum(map(len, found)) / seconds, "rows_s": len(found) / seconds, "peak": peak}
        if variant == "ours fp32 16":
            alone = theirs(model, "generate 1", 1)(sources[:COMPARED], NEW_TOKENS)
            measured["same"] = sum(a == b for a, b in zip(alone, found, strict=False)) / len(alone)
    return measured


def theirs(model: Any, variant: str, number: int) -> Any:
    """transformers' generate."""
    import torch

    from seqtune.engine import batching

    ancestor = variant == "ancestor"
    pad, end = model.config.pad_token_id, model.config.eos_token_id

    def cut(tokens: list[int]) -> list[int]:
        return tokens[: tokens.index(end) + 1] if end in tokens else tokens

    def answer(sources: list[list[int]], new: int) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in sources]
        if ancestor and new == NEW_TOKENS:
            new = 512
        for part in batching.by_length([len(source) for source in sources], number):
            batch = batching.collate([{"input_ids": sources[row]} for row in part], pad)
            if ancestor:
                batch.pop("attention_mask")
            torch.manual_seed(0)
            written = model.generate(**batch, max_new_tokens=new, do_sample=ancestor)
            for row, tokens in zip(part, written.tolist(), strict=True):
                found[row] = cut(tokens[1:])
        return found

    return answer


def ours(model: Any, variant: str, number: int) -> Any:
    """`Answerer`, with a tokenizer's special tokens and nothing else of it."""
    from seqtune.generation import Answerer

    answerer = Answerer(model, stand_in(model), "fp32" if "fp32" in variant else "auto")
    assert answerer.engine == "compiled", answerer.engine

    def answer(sources: list[list[int]], new: int) -> list[list[int]]:
        if number > 1:
            return answerer.tokens(sources, batch_size=number, random_state=0, max_new_tokens=new)
        return [answerer.tokens([source], batch_size=1, random_state=0, max_new_tokens=new)[0] for source in sources]

    return answer


def stand_in(model: Any) -> Any:
    """What of a tokenizer is needed where nothing is turned into text."""

    class Ids:
        pad_token_id, eos_token_id, unk_token_id = model.config.pad_token_id, model.config.eos_token_id, None
        all_special_ids: tuple[int, ...] = ()

        def __call__(self, text_target: str) -> dict[str, list[int]]:
            return {"input_ids": [5, self.eos_token_id]}

    return Ids()


def table(results: dict[str, dict[str, list[dict[str, float]]]]) -> list[str]:
    """Markdown: medians, and ratios of them."""
    lines = [
        "| shape | variant | tokens/s | × ancestor | × best of generate | × generate 1 | peak memory | same tokens |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for shape, variants in results.items():
        middle = {
            variant: {k: statistics.median(run[k] for run in runs) for k in runs[0]}
            for variant, runs in variants.items()
            if runs
        }
        speed = {variant: m["tokens_s"] for variant, m in middle.items()}
        best = max((speed[v] for v in speed if v.startswith("generate ") and "bf16" not in v), default=None)
        against = {"ancestor": speed.get("ancestor"), "best": best, "one": speed.get("generate 1")}
        for variant, m in middle.items():
            ratios = [f"{m['tokens_s'] / of:.1f}" if of else "–" for of in against.values()]
            same = f"{m['same']:.0%}" if "same" in m else ""
            lines.append(
                f"| {shape} | {variant} | {m['tokens_s']:,.0f} | {' | '.join(ratios)} | "
                f"{m['peak'] / 1e9:.2f} GB | {same} |"
            )
    return lines


def in_a_process(arguments: list[str]) -> Any:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "examples" / "support.json")
    parser.add_argument("--keys", nargs=2, default=["question", "reply"])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(worker(*arguments.worker)))
        return

    import shapes

    from engine import machine

    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in arguments.shapes:
            file = Path(folder) / f"{shape}.json"
            vocabulary = shapes.SHAPES[shape][1].vocab_size
            file.write_text(json.dumps(shapes.rows(arguments.data, *arguments.keys, arguments.rows, vocabulary)))
            results[shape] = {variant: [] for variant in arguments.variants}
            for turn in range(arguments.rounds):
                for variant in arguments.variants:
                    run = in_a_process(["--worker", variant, shape, str(file)])
                    results[shape][variant].append(run)
                    said = {k: round(v, 3) for k, v in run.items()}
                    print(f"{shape} round {turn + 1} {variant}: {said}", file=sys.stderr, flush=True)
    what = f"{arguments.rows} rows of {arguments.data.name}, {NEW_TOKENS} new tokens, {arguments.rounds} rounds"
    lines = [f"{time.strftime('%Y-%m-%d')}, {machine()}; {what}.", "", *table(results)]
    print("\n".join(lines))
    if arguments.write:
        new = not arguments.write.exists()
        with arguments.write.open("a", encoding="utf-8") as file:
            if new:
                file.write("# What benchmarks/generate.py printed\n\n`make bench-generate` adds to this page.\n")
            file.write("\n".join(["", *lines, ""]))


if __name__ == "__main__":
    main()
