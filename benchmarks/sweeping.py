"""Pruning: the steps of a sweep with and without it, and the loss of the best.

python benchmarks/sweeping.py --data support.json --keys question reply [--rows 300] [--trials 12] [--epochs 5]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from seqtune.sweep import space, study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "examples" / "support.json")
    parser.add_argument("--keys", nargs=2, default=["question", "reply"])
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--try", dest="tries", action="append")
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for prune in (False, True):
            result = study.sweep(
                arguments.data,
                space.parsed(arguments.tries or space.USUAL),
                out=Path(folder) / str(prune),
                trials=arguments.trials,
                prune=prune,
                input_text_key=arguments.keys[0],
                output_text_key=arguments.keys[1],
                model_id="seqtune-mini",
                max_samples=arguments.rows,
                num_train_epochs=arguments.epochs,
                max_eval_rows=50,
                early_stopping_patience=0,
                device_type="cpu",
            )
            trials = result["trials"]
            best = next(each for each in trials if each["number"] == result["best"])
            found[prune] = sum(each["steps"] for each in trials)
            print(
                f"{'with' if prune else 'without'} pruning: {len(trials)} trials, {found[prune]:,} of "
                f"{sum(each['of'] for each in trials):,} steps, best validation loss {best['loss']:.4f} "
                f"with {json.dumps(best['settings'])}",
                flush=True,
            )
    print(f"pruning saves {1 - found[True] / found[False]:.0%} of the steps")


if __name__ == "__main__":
    main()
