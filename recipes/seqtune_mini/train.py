"""Pre-train the embedded base model: a visible loop over the task mixture, on a CPU.

How it goes fast: the model runs in bfloat16 while the optimiser keeps float32 copies of the weights; batches hold
examples of like lengths (`batching.py`); the matrices inside the layers are trained with Muon, the embedding, norms
and position biases with AdamW (`checkpoint.py`).

The data of a pool of batches depend on the seed, the pool's number and the progress only. With `--steps` the progress
is the share of the steps, so two runs on one machine give the same losses; with `--minutes` it is the share of the
time. Checkpoints are safetensors and JSON, written between pools; a run started again with the same --out goes on
from the last of them, so that log.jsonl may hold the steps since then twice.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

import corpus as corpora
import mixture
import torch
from batching import batches, encode, tensors_of
from checkpoint import optimisers, restore, save
from model import loss_of, measure, new_model
from transformers import AutoTokenizer

POOL = 8192  # examples made at once and sorted into batches
WARM_UP = 0.02  # share of the training
CLIP = 1.0


def idle_cores() -> int:
    """Cores which other programs leave free just now, at least one (Linux; elsewhere all).

    On a shared machine two threads, one of which waits for its core, are far slower than one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        running = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].split("/")[0]) - 1  # less this one
    except OSError:
        running = 0
    return max(1, cores - running)


def train(args) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads or idle_cores())
    torch.set_float32_matmul_precision("medium")
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    corpus, held = corpora.load(args.corpus)
    model = new_model(tokenizer)
    weights = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    made = optimisers(weights, args.muon_lr, args.adam_lr)
    model = model.to(torch.bfloat16).train()
    working = dict(model.named_parameters())  # the bfloat16 weights that forward and backward use
    state = {"step": 0, "pool": 0, "tokens": 0, "seconds": 0.0}
    if (args.out / "checkpoint" / "state.json").exists():
        state = restore(args.out / "checkpoint", weights, made)
    args.out.mkdir(parents=True, exist_ok=True)
    log = (args.out / "log.jsonl").open("a", encoding="utf-8")
    began = time.monotonic() - state["seconds"]

    def progress() -> float:
        share = state["step"] / args.steps if args.steps else (time.monotonic() - began) / (60 * args.minutes)
        return min(1.0, share)

    def publish() -> None:
        with torch.no_grad():
            for name, value in working.items():
                value.copy_(weights[name])

    publish()
    losses: list[float] = []
    while progress() < 1:
        rng = random.Random(f"{args.seed}/{state['pool']}")
        now = progress()
        pairs = [mixture.example(rng, corpus, now)[1:] for _ in range(POOL)]
        for rows in batches(encode(tokenizer, pairs), args.batch_tokens, rng):
            now = progress()
            if now >= 1:
                break
            if not args.threads:
                torch.set_num_threads(idle_cores())
            rate = min(1.0, now / WARM_UP + 0.01) * (1 - now)
            source, target = tensors_of(rows)
            loss = loss_of(model, source, target)
            loss.backward()
            for name, value in working.items():
                weights[name].grad = value.grad.float()
                value.grad = None
            torch.nn.utils.clip_grad_norm_(weights.values(), CLIP)
            for optimiser in made:
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * rate
                optimiser.step()
            publish()
            losses.append(loss.item())
            state["step"] += 1
            state["tokens"] += int((source != 0).sum() + (target != 0).sum())
            if state["step"] % args.log_every == 0:
                row = {**state, "loss": round(sum(losses) / len(losses), 4), "progress": round(now, 4)}
                row["seconds"] = round(time.monotonic() - began, 1)
                if state["step"] % args.measure_every == 0:
                    row.update(measure(model, held, tokenizer))
                print(json.dumps(row), file=log, flush=True)
                losses.clear()
        state["pool"] += 1
        state["seconds"] = time.monotonic() - began
        if state["pool"] % args.save_every == 0 or progress() >= 1:
            save(args.out / "checkpoint", weights, made, state)
    print(json.dumps({**state, "final": True, **measure(model, held, tokenizer)}), file=log, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=corpora.DEFAULT_CORPUS)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder that tokenizer.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint/ and log.jsonl")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="stop by the clock")
    length.add_argument("--steps", type=int, help="stop after so many steps; repeatable")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="0: as many as are idle, looked up at each step")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.02)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--measure-every", type=int, default=400)
    parser.add_argument("--save-every", type=int, default=1, help="pools between two checkpoints")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
