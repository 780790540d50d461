"""Tokens a second and peak memory of answering: the ancestor's evaluation, transformers' `generate`, ours.

    python benchmarks/generate.py [--shapes flan-t5-small …] [--rounds 3] [--rows 96] [--write benchmarks/generation.md]

All in one run on one machine: every variant in a process of its own, the variants of a shape one after the other, and
that `--rounds` times over; medians. Questions of the example data, greedy, 64 new tokens. Weights are random, so that
nothing is downloaded, and such that no answer ends before its limit (`endless`): every variant writes the same number
of tokens a row. Getting ready (merging, packing) is not in the time; it is in the memory, which is the most that the
process had from the moment when the model was there (ours keeps it, in fp32, beside the packed weights).

`SHAPES` says how many rows and rounds a shape has: flan-t5-small's, which the goals are about, has more than others.

ancestor           one row at a time, drawn, 512 tokens, without an attention mask; fp32
generate N         transformers, rows sorted by length, N at a time; fp32
generate bf16 N    the same, the model in bf16
ctranslate2 N      CTranslate2 in float32, as `seqtune export` converts (two shapes; where it is installed)
ctranslate2 int8 N the same in int8
ours fp32 N        `seqtune.generation.Answerer`, batch_size N
ours N             the same, answer_precision=auto

`generate 16, 32, 64` are there so that the best of them can be what ours is compared with. After `ours fp32 16`
and `ctranslate2 16` the tokens of a sixth of the rows are compared with those of `generate` alone, row by row.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEW_TOKENS, ANCESTORS_TOKENS = 64, 512
VARIANTS = (
    "ancestor", "generate 1", "generate 16", "generate 32", "generate 64",
    "generate bf16 1", "generate bf16 16", "generate bf16 32", "generate bf16 64",
    "ctranslate2 1", "ctranslate2 16", "ctranslate2 int8 1", "ctranslate2 int8 16",
    "ours fp32 1", "ours fp32 16", "ours 1", "ours 16",
)  # fmt: skip
#: Of a shape that is measured once: fewer batch sizes; more rows at a time have been faster so far.
FEWER = tuple(variant for variant in VARIANTS if variant[-3:] != " 32" and variant != "generate bf16 16")
FEWEST = tuple(variant for variant in FEWER if not variant.startswith("ctranslate2"))
#: Rows, rounds and variants of a shape, unless told otherwise: together about 25 minutes on two cores with AMX.
SHAPES: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "flan-t5-small": (64, 2, VARIANTS),
    "mt5-small": (64, 1, FEWER),
    "bart-base": (64, 1, FEWEST),
    "flan-t5-base": (64, 1, FEWEST),
}
#: The share of the rows that a variant answers, where all would take too long.
SHARE = {
    "generate 1": 16, "generate bf16 1": 16, "ctranslate2 1": 8, "ctranslate2 int8 1": 8, "ours fp32 1": 8, "ours 1": 4,
}  # fmt: skip
COMPARED, COMPARED_SHARE = ("ours fp32 16", "ctranslate2 16"), 6


def worker(variant: str, shape: str, rows_file: str) -> dict[str, Any]:
    """Answer in this process; what was measured."""
    import shapes
    import torch

    model: Any = endless(shapes.build(shape))
    rows = json.loads(Path(rows_file).read_text())
    number = int(variant.split()[-1]) if variant != "ancestor" else 1
    count = 1 if variant == "ancestor" else max(1, len(rows) // SHARE.get(variant, 1))
    sources = [row["input_ids"] for row in rows][:count]
    made = {"ours": ours, "ctranslate2": converted}.get(variant.split()[0], theirs)
    if "generate bf16" in variant:
        model = model.bfloat16()
    forget_peak()
    answer = made(model, variant, number)
    with torch.inference_mode():
        answer(sources[:number], 8)  # whatever is done at first use
        started = time.perf_counter()
        found = answer(sources, NEW_TOKENS)
        seconds = time.perf_counter() - started
        peak = peak_bytes()
        written = {len(answer) for answer in found}
        assert written == {ANCESTORS_TOKENS if variant == "ancestor" else NEW_TOKENS}, f"answers of {written} tokens"
        measured = {"tokens_s": sum(map(len, found)) / seconds, "rows": len(found), "peak": peak}
        if variant in COMPARED:
            alone = theirs(model, "generate 1", 1)(sources[: max(1, len(rows) // COMPARED_SHARE)], NEW_TOKENS)
            measured["same"] = sum(a == b for a, b in zip(alone, found, strict=False)) / len(alone)
            measured["different"] = statistics.median(len(set(answer)) for answer in alone)
    return measured


def endless(model: Any) -> Any:
    """The model, changed so that it writes as long as it may, and no word for ever: for both sides the same weights.

    The end's row of the head is zero, and so is its logit: among 32,000 others one is above it. FLAN-T5 and mT5 have a
    head apart from their embedding; transformers 5 makes one of both in a model that is not loaded, and its words are
    then too small to matter: every answer was one word again and again. BART's would be its first token (the end); with
    positions that are as large as in no trained model, what it says changes from place to place.
    """
    import torch

    generator, head, end = torch.Generator().manual_seed(0), model.get_output_embeddings(), model.config.eos_token_id
    model.generation_config.eos_token_id = end
    if model.config.model_type in ("t5", "mt5"):
        head.weight = torch.nn.Parameter(head.weight.clone(), requires_grad=False)
        model.all_tied_weights_keys.pop("lm_head.weight", None)  # so that it is saved, for CTranslate2
        model.get_input_embeddings().weight.normal_(generator=generator)
    else:
        for stack in (model.get_encoder(), model.get_decoder()):
            stack.embed_positions.weight.normal_(std=0.5, generator=generator)
    head.weight[end] = 0
    return model


def forget_peak() -> None:
    """Begin to measure peak memory anew (Linux): else it would be that of making the model."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most memory that this process had since then. (`ru_maxrss` knows of no beginning.)"""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


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
            new = ANCESTORS_TOKENS
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


def converted(model: Any, variant: str, number: int) -> Any:
    """CTranslate2 with the model as `seqtune export` converts it; the one in PyTorch stays in memory beside it."""
    from types import SimpleNamespace

    import ctranslate2
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    from seqtune.export import ctranslate2 as target

    names, config = [f"t{number}" for number in range(model.config.vocab_size)], model.config
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(dict(zip(names, range(len(names)), strict=True)), unk_token=names[2])),
        unk_token=names[2], pad_token=names[config.pad_token_id], eos_token=names[config.eos_token_id],
    )  # fmt: skip

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    options = {"decoder_start_token_id": config.decoder_start_token_id}
    tuned: Any = SimpleNamespace(
        model=model, tokenizer=tokenizer, options=options, save=save, save_tokenizer=tokenizer.save_pretrained
    )
    with tempfile.TemporaryDirectory() as folder:
        target.write(tuned, Path(folder), "int8" if "int8" in variant else "float32")
        forget_peak()
        threads = torch.get_num_threads()
        translator = ctranslate2.Translator(folder, device="cpu", inter_threads=1, intra_threads=threads)

    def answer(sources: list[list[int]], new: int) -> list[list[int]]:
        asked: Any = [tokenizer.convert_ids_to_tokens(source) for source in sources]
        options: dict[str, Any] = {
            "beam_size": 1, "max_decoding_length": new, "max_input_length": 0, "max_batch_size": number,
        }  # fmt: skip
        parts = [[each] for each in asked] if number == 1 else [asked]
        found = [each for part in parts for each in translator.translate_batch(part, **options)]
        return [tokenizer.convert_tokens_to_ids(each.hypotheses[0]) for each in found]  # pyright: ignore[reportReturnType]

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
        "| shape | variant | rows | tokens/s | × ancestor | × best of generate | × generate 1 | peak memory | same |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
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
            times = f"{m['rows']:.0f} × {len(variants[variant])}"
            lines.append(
                f"| {shape} | {variant} | {times} | {m['tokens_s']:,.0f} | {' | '.join(ratios)} | "
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
    parser.add_argument("--variants", nargs="+")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "examples" / "support.json")
    parser.add_argument("--keys", nargs=2, default=["question", "reply"])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(worker(*arguments.worker)))
        return
    if arguments.prepare:
        import shapes

        shape, rows, target = arguments.prepare
        vocabulary, (question, answer) = shapes.SHAPES[shape][1].vocab_size, arguments.keys
        Path(target).write_text(json.dumps(shapes.rows(arguments.data, question, answer, int(rows), vocabulary)))
        print("null")
        return

    started = time.monotonic()
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in arguments.shapes:
            rows, rounds, variants = SHAPES.get(shape, SHAPES["flan-t5-base"])
            rows, rounds, variants = arguments.rows or rows, arguments.rounds or rounds, arguments.variants or variants
            if find_spec("ctranslate2") is None:
                variants = [variant for variant in variants if not variant.startswith("ctranslate2")]
            file = Path(folder) / f"{shape}.json"
            common = ["--data", str(arguments.data), "--keys", *arguments.keys]
            in_a_process([*common, "--prepare", shape, str(rows), str(file)])
            results[shape] = {variant: [] for variant in variants}
            for turn in range(rounds):
                for variant in variants:
                    run = in_a_process(["--worker", variant, shape, str(file)])
                    results[shape][variant].append(run)
                    said = {k: round(v, 3) for k, v in run.items()}
                    print(f"{shape} round {turn + 1} {variant}: {said}", file=sys.stderr, flush=True)
    minutes = (time.monotonic() - started) / 60
    from engine import machine

    what = f"{arguments.data.name}, {NEW_TOKENS} new tokens a row, rows × rounds as stated; {minutes:.0f} minutes"
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
