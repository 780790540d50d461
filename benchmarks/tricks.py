"""What each of the fast engine's ways gains: the step without it, as a multiple of the step with all of them.

    python benchmarks/tricks.py [--shape flan-t5-small] [--steps 12] [--profile] --data FILE --keys QUESTION REPLY

Interleaved in one process, medians. (Without ``memory`` the pool is left and entered again for each step.) --profile
prints PyTorch's table of operators of the step with everything on instead; --random-order has rows that are not
grouped by length, --only NAME … leaves out no more than these.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import shapes
import torch

from seqtune.engine import batching, hardware, loss, speed
from seqtune.models import adapters
from seqtune.settings import DEFAULT

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="flan-t5-small")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--precision", default=hardware.choose_precision("auto", CPU)["value"])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--random-order", action="store_true", help="rows as they come, not grouped by length")
    parser.add_argument("--only", nargs="+", default=speed.TRICKS, help="the ways to leave out")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "examples" / "support.json")
    parser.add_argument("--keys", nargs=2, default=["question", "reply"])
    arguments = parser.parse_args()

    base = shapes.build(arguments.shape)
    settings = {**DEFAULT.model_dump(), "lora_dropout": 0.2}
    model = adapters.attach(base, adapters.lora_config(base, "x", settings), "x").train()
    rows = shapes.rows(arguments.data, *arguments.keys, 400, base.config.vocab_size)
    sizes = [(len(row["labels"]), len(row["input_ids"])) for row in rows]
    window = 1 if arguments.random_order else batching.WINDOW_STEPS
    order = batching.epoch_order(sizes, 8, seed=0, epoch=0, window_steps=window)[: arguments.steps]

    def step(chosen: list[int], paths: speed.FastPaths) -> None:
        passes = [batching.collate([rows[row] for row in part], 0) for part in batching.by_budget(chosen, rows)]
        targets = sum(loss.target_tokens(batch) for batch in passes)
        for number, batch in enumerate(passes):
            paths.dice.begin(0, number)
            (paths.forward(model, batch).sum() / targets).backward()
        model.zero_grad()

    def timed(without: tuple[str, ...], chosen: list[int]) -> float:
        with speed.fast_paths(model, device=CPU, precision=arguments.precision, seed=0, without=without) as paths:
            step(chosen, paths)  # kernels for this shape, pages for these tensors
            started = time.perf_counter()
            step(chosen, paths)
            return time.perf_counter() - started

    if arguments.profile:
        with speed.fast_paths(model, device=CPU, precision=arguments.precision, seed=0) as paths:
            step(order[0], paths)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                for chosen in order:
                    step(chosen, paths)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))
        return

    seconds: dict[tuple[str, ...], list[float]] = {(): [], **{(name,): [] for name in arguments.only}}
    if arguments.only == speed.TRICKS:
        seconds[speed.TRICKS] = []
    for chosen in order:
        for without, found in seconds.items():
            found.append(timed(without, chosen))
    whole: Any = statistics.median(seconds.pop(()))
    print(f"{arguments.shape}, {arguments.precision}: {whole:.3f} s a step with everything")
    for without, found in seconds.items():
        name = without[0] if len(without) == 1 else "all of them"
        print(f"without {name:12} {statistics.median(found) / whole:5.2f} ×")


if __name__ == "__main__":
    main()
