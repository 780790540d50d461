"""Pre-train the embedded base model: a visible loop over the task mixture, on a GPU or a CPU.

How it goes fast: where the processor can, the model runs in bfloat16 while the optimiser keeps float32 copies of the
weights; several examples share a row, so that all batches have one shape and hardly any padding (`packing.py`); other
processes make the batches (`feeding.py`); on a GPU the loss is one compiled program; the matrices inside the layers are
trained with Muon, the embedding, norms and position biases with AdamW (`checkpoint.py`).

A batch depends on the seed, its number and the progress only. With `--steps` the progress is the share of the steps,
so two runs on one CPU give the same losses; with `--minutes` it is the share of the time. Checkpoints are safetensors
and JSON; a run started again with the same --out goes on from the last of them, so that log.jsonl may hold the steps
since then twice.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import corpus as corpora
import feeding
import mixture
import torch
from checkpoint import optimisers, restore, save
from model import Size, held_out, loss_of, measure, new_model, on_device
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer

WARM_UP = 0.02  # share of the training
CLIP = 1.0


def train(args: argparse.Namespace) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes of `feeding` are as many as there are cores
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("medium")
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    corpus, held = corpora.load(args.corpus)
    size = Size(args.width, args.feed_forward, *args.layers)
    recipe = mixture.Recipe(args.denoisers, args.supervised)
    model = new_model(tokenizer, size)
    args.out.mkdir(parents=True, exist_ok=True)
    choices = {**dataclasses.asdict(size), **dataclasses.asdict(recipe), "matrices_by": args.matrices_by}
    (args.out / "choices.json").write_text(json.dumps(choices) + "\n", encoding="utf-8")
    with (
        feeding.batches(tokenizer, corpus, recipe, args.rows, args.seed, args.workers) as batches,
        sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]),
        (args.out / "log.jsonl").open("a", encoding="utf-8") as log,
    ):
        steps(args, model, batches, held_out(held, tokenizer), log)


def steps(args: argparse.Namespace, model, batches, held, log) -> None:
    """The loop, from the last checkpoint or the start to the end of the training."""
    device, dtype = torch.device(args.device), torch.bfloat16 if args.bf16 else torch.float32
    weights = {name: value.detach().to(device, copy=True).requires_grad_() for name, value in model.named_parameters()}
    made = optimisers(weights, args.muon_lr, args.adam_lr, args.matrices_by)
    state = {"step": 0, "tokens": 0, "seconds": 0.0}
    if (args.out / "checkpoint" / "state.json").exists():
        state = restore(args.out / "checkpoint", weights, made)
    working = {name: value.detach().to(dtype).requires_grad_() for name, value in weights.items()}
    full, low = list(weights.values()), list(working.values())
    loss_and_graph = torch.compile(loss_of, dynamic=False) if args.compile else loss_of
    began = time.monotonic() - state["seconds"]

    def progress(step: int) -> float:
        return min(1.0, step / args.steps if args.steps else (time.monotonic() - began) / (60 * args.minutes))

    sums = torch.zeros(2, device=device, dtype=torch.float64)  # losses and pieces since the last line of the log
    for arrays in batches(state["step"], progress):
        now = progress(state["step"])
        if now >= 1:
            break
        batch = on_device(arrays, device)
        loss = loss_and_graph(working, model.config, batch)
        loss.backward()
        for value, copy in zip(full, low, strict=True):
            value.grad, copy.grad = copy.grad.float(), None  # (with --no-bf16 the two are one memory)
        torch.nn.utils.clip_grad_norm_(full, CLIP)
        rate = min(1.0, now / WARM_UP + 0.01) * (1 - now)
        for optimiser in made:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * rate
            optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_(low, full)
        sums += torch.stack([loss.detach(), (batch["source"] != 0).sum() + (batch["target"] != 0).sum()])
        state["step"] += 1
        if state["step"] % args.log_every == 0:
            total, pieces = sums.tolist()
            sums.zero_()
            state["tokens"] += int(pieces)
            row = {**state, "seconds": round(time.monotonic() - began, 1), "loss": round(total / args.log_every, 4)}
            row["progress"] = round(now, 4)
            if state["step"] % args.measure_every == 0:
                row.update(measure(working, model.config, held))
            print(json.dumps(row), file=log, flush=True)
        if state["step"] % args.save_every == 0:
            state["seconds"] = time.monotonic() - began
            save(args.out / "checkpoint", weights, made, state)
    state["seconds"] = round(time.monotonic() - began, 1)
    state["tokens"] += int(sums[1])
    save(args.out / "checkpoint", weights, made, state)
    print(json.dumps({**state, "final": True, **measure(working, model.config, held)}), file=log, flush=True)


def main() -> None:
    gpu = torch.cuda.device_count() > 0  # unlike is_available(), known without a context, which forks must not have
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=corpora.DEFAULT_CORPUS)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder that tokenizer.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint/ and log.jsonl")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="stop by the clock")
    length.add_argument("--steps", type=int, help="stop after so many steps; repeatable")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the training on a CPU")
    parser.add_argument("--workers", type=int, default=cores - 1 if gpu else 0, help="processes that make batches")
    parser.add_argument("--rows", type=int, default=256 if gpu else 16, help="packed rows a step")
    bf16 = gpu or torch.cpu._is_avx512_bf16_supported()
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=bf16, help="compute in bfloat16")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=gpu, help="torch.compile the loss")
    parser.add_argument("--width", type=int, default=Size.width)
    parser.add_argument("--feed-forward", type=int, default=Size.feed_forward)
    parser.add_argument("--layers", type=int, nargs=2, default=(Size.encoder_layers, Size.decoder_layers))
    parser.add_argument("--denoisers", choices=("t5", "ul2"), default=mixture.Recipe.denoisers)
    parser.add_argument("--supervised", type=float, default=mixture.Recipe.supervised)
    parser.add_argument("--matrices-by", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.02)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--measure-every", type=int, default=400)
    parser.add_argument("--save-every", type=int, default=500)
    args = parser.parse_args()
    if args.measure_every % args.log_every or args.save_every % args.log_every:
        parser.error("--measure-every and --save-every are multiples of --log-every")  # its sums are not saved
    train(args)


if __name__ == "__main__":
    main()
