"""Whether the fast engine computes the same: loss curves side by side, and the ROUGE of what comes out.

    python benchmarks/agreement.py curves --data FILE --keys QUESTION REPLY [--steps 200]
    python benchmarks/agreement.py rouge --data FILE --keys QUESTION REPLY [--seeds 1 2 3] [--rows 400]
    python benchmarks/agreement.py noise --data FILE --keys QUESTION REPLY

curves  seqtune-mini, the same rows in the same steps: the reference engine in fp32, the fast one in fp32 and in bf16,
        with dropout (whose random numbers both fast runs share, the reference not) and without. Printed are the largest
        relative difference of the losses, averaged over 20 steps, and that of the last validation loss.
rouge   whole runs with each engine and several seeds: ROUGE-L of the tuned model on the hold-out rows.
noise   how far a step's gradient is off its mean, relative to the mean's size: by the step's rows, by dropout, by the
        sampling of the vocabulary's tail (in bf16), each alone; before training and with the best adapter of 200 steps.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import shapes
import torch

import seqtune
from seqtune.engine import batching, hardware, loop, loss, speed
from seqtune.engine.speed import head, linear
from seqtune.models import adapters, loading
from seqtune.settings import DEFAULT

CPU = torch.device("cpu")
RUNS = (("reference", "fp32"), ("fast", "fp32"), ("fast", "bf16"))


def trained(base: Any, rows: list[dict[str, Any]], steps: int, engine: str, precision: str, dropout: bool) -> Any:
    """Losses of the steps, and the last validation loss."""
    settings = {
        **DEFAULT.model_dump(), "engine": engine, "max_steps": steps, "eval_steps": steps, "learning_rate": 3e-3,
        "target_modules": "all-linear", "lora_dropout": 0.1 if dropout else 0.0, "early_stopping_patience": 0,
        "group_by_length": False,
    }  # fmt: skip
    with hardware.seeded(0, CPU):
        model = adapters.attach(base, adapters.lora_config(base, "x", settings), "x")
        if not dropout:
            for module in model.modules():
                for name in ("p", "dropout", "dropout_rate"):
                    if isinstance(getattr(module, name, None), float):
                        setattr(module, name, 0.0)
        state = loop.train(
            model, rows[40:], rows[:40], settings, device=CPU, precision=precision,
            pad_token_id=base.config.pad_token_id,
        )  # fmt: skip
    return [line["loss"] for line in state.log[1:]], state.log[-1]["validation_loss"]


def noise(data: Path, keys: list[str], steps: int) -> None:
    if not linear.there():
        raise SystemExit("there are no bf16 units here, or no C compiler: no gradient is sampled")
    head.LONG_VOCABULARY = dict.fromkeys(head.LONG_VOCABULARY, 0)  # with AMX too
    base = loading.load_model(loading.resolve("seqtune-mini"), CPU)
    rows = shapes.rows(data, *keys, 8 * steps + 200, base.config.vocab_size)
    settings = {
        **DEFAULT.model_dump(), "max_steps": steps, "learning_rate": 3e-3, "target_modules": "all-linear",
        "early_stopping_patience": 0,
    }  # fmt: skip
    model = adapters.attach(base, adapters.lora_config(base, "x", settings), "x")

    def gradient(batch: int, stream: int, dropout: bool, without: tuple[str, ...]) -> torch.Tensor:
        made = batching.collate(rows[8 * batch : 8 * batch + 8], base.config.pad_token_id)
        model.train(dropout).zero_grad()
        with speed.fast_paths(model, device=CPU, precision="bf16", seed=0, without=without) as paths:
            paths.dice.begin(stream, 0)
            (paths.forward(model, made).sum() / loss.target_tokens(made)).backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])

    def off(gradients: list[torch.Tensor], mean: torch.Tensor) -> float:
        several = torch.stack(gradients)
        return float((several - several.mean(dim=0)).pow(2).sum().div(len(several) - 1).sqrt() / mean.norm())

    for trained_steps in (0, steps):
        if trained_steps:
            loop.train(
                model, rows[200:], rows[:40], settings, device=CPU, precision="bf16",
                pad_token_id=base.config.pad_token_id,
            )  # fmt: skip
        by_rows = [gradient(batch, 0, False, ("tail",)) for batch in range(24)]
        mean = torch.stack(by_rows).mean(dim=0)
        by_dropout = [gradient(0, stream, True, ("tail",)) for stream in range(24)]
        by_tail = [gradient(0, stream, False, ()) for stream in range(24)]
        print(
            f"after {trained_steps} steps, of 8 rows each: by the rows {off(by_rows, mean):.3f}, by dropout "
            f"{off(by_dropout, mean):.3f}, by the tail's sampling {off(by_tail, mean):.4f}",
            flush=True,
        )


def curves(data: Path, keys: list[str], steps: int) -> None:
    base = loading.load_model(loading.resolve("seqtune-mini"), CPU)
    rows = shapes.rows(data, *keys, 8 * steps, base.config.vocab_size)
    for dropout in (False, True):
        found = {run: trained(copy.deepcopy(base), rows, steps, *run, dropout) for run in RUNS}
        for one, other in (((RUNS[0]), RUNS[1]), (RUNS[0], RUNS[2]), (RUNS[1], RUNS[2])):
            (losses, validation), (others, other_validation) = found[one], found[other]
            width = min(20, steps)
            smooth, smooth_others = (np.convolve(x, np.ones(width) / width, "valid") for x in (losses, others))
            worst = float(np.abs(smooth_others / smooth - 1).max())
            print(
                f"dropout {'on ' if dropout else 'off'}  {' '.join(other):10} against {' '.join(one):14}  "
                f"losses differ by {worst:.3%} at most, validation {other_validation:.4f} and {validation:.4f} "
                f"({other_validation / validation - 1:+.3%})",
                flush=True,
            )


def rouge(data: Path, keys: list[str], seeds: list[int], rows: int) -> None:
    scores: dict[str, list[float]] = {}
    for seed in seeds:
        for engine, precision in (("reference", "fp32"), ("fast", "auto")):
            with tempfile.TemporaryDirectory() as folder:
                run = seqtune.finetune(
                    str(data), input_text_key=keys[0], output_text_key=keys[1], model_id="seqtune-mini",
                    target_modules="all-linear", learning_rate=3e-3, num_train_epochs=3, max_samples=rows,
                    max_eval_rows=40, random_state=seed, engine=engine, precision=precision, out=f"{folder}/run",
                    work_dir=f"{folder}/work",
                )  # fmt: skip
                score = run.metrics["hold_out"]["tuned"]
                scores.setdefault(engine, []).append(score["rougeL"])
                seconds = run.manifest["training"]["seconds"]
                print(
                    f"seed {seed} {engine:9} ROUGE-L {score['rougeL']:.2f}  loss {score['loss']:.4f}  "
                    f"training {seconds:.0f} s",
                    flush=True,
                )
    for engine, found in scores.items():
        print(f"{engine:9} mean ROUGE-L {statistics.mean(found):.2f} of {len(found)} seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["curves", "rouge", "noise"])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "examples" / "support.json")
    parser.add_argument("--keys", nargs=2, default=["question", "reply"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rows", type=int, default=400)
    arguments = parser.parse_args()
    if arguments.what == "curves":
        curves(arguments.data, arguments.keys, arguments.steps)
    elif arguments.what == "noise":
        noise(arguments.data, arguments.keys, arguments.steps)
    else:
        rouge(arguments.data, arguments.keys, arguments.seeds, arguments.rows)


if __name__ == "__main__":
    main()
