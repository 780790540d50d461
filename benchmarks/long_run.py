"""Whether memory stays flat: resident memory over 2,000 steps of seqtune-mini on rows of all lengths.

python benchmarks/long_run.py [--steps 2000] --data FILE --keys QUESTION REPLY
"""

from __future__ import annotations

import argparse
from pathlib import Path

import shapes
import torch

from seqtune import progress
from seqtune.engine import hardware, loop
from seqtune.models import adapters, loading
from seqtune.settings import DEFAULT


def resident() -> float:
    """MB that the process holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "examples" / "support.json")
    parser.add_argument("--keys", nargs=2, default=["question", "reply"])
    arguments = parser.parse_args()
    device = torch.device("cpu")
    base = loading.load_model(loading.resolve("seqtune-mini"), device)
    rows = shapes.rows(arguments.data, *arguments.keys, 2000, base.config.vocab_size)
    settings = {**DEFAULT.model_dump(), "max_steps": arguments.steps, "eval_steps": 10**9}
    held: list[float] = []
    every = max(1, arguments.steps // 20)

    def look(seen: progress.Progress) -> None:
        if seen.done % every == 0:
            held.append(resident())
            print(f"step {seen.done:5}  {held[-1]:7.1f} MB", flush=True)

    model = adapters.attach(base, adapters.lora_config(base, "x", settings), "x")
    with progress.listening(look):
        loop.train(
            model, rows, rows[:8], settings, device=device,
            precision=hardware.choose_precision("auto", device)["value"], pad_token_id=base.config.pad_token_id,
        )  # fmt: skip
    half = held[len(held) // 2 :]
    print(f"second half: {min(half):.1f} to {max(half):.1f} MB, {max(half) / min(half) - 1:.2%} apart")


if __name__ == "__main__":
    main()
