"""Pruning: the steps of a sweep with and without it, and the loss of the best; the sweep with it is killed on the way.

python benchmarks/sweeping.py --data support.json --keys instruction response [--rows 300] [--trials 12] [--epochs 5]
    [--steps 100] [--batch 8] [--kills 2]

Each sweep is a process of its own. That with pruning is killed with SIGKILL in the middle of a trial, as often as asked
for, and started again; a trial that was at work must go on from its checkpoint, and no trial may be there twice.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def worker(arguments: argparse.Namespace) -> None:
    from seqtune.sweep import space, study

    length: dict[str, Any] = {"num_train_epochs": arguments.epochs}
    if arguments.steps:
        length = {"max_steps": arguments.steps, "eval_steps": max(1, arguments.steps // 10)}
    result = study.sweep(
        arguments.data,
        space.parsed(arguments.tries or space.USUAL),
        out=arguments.out,
        trials=arguments.trials,
        prune=not arguments.no_prune,
        input_text_key=arguments.keys[0],
        output_text_key=arguments.keys[1],
        model_id="seqtune-mini",
        max_samples=arguments.rows,
        max_eval_rows=50,
        early_stopping_patience=0,
        per_device_train_batch_size=arguments.batch,
        save_steps=1,
        device_type="cpu",
        **length,
    )
    Path(arguments.out, "result.json").write_text(json.dumps(result))


def swept(out: Path, prune: bool, kills: int, trials: int) -> dict[str, Any]:
    """The result of a sweep in a process of its own, killed and started again."""
    command = [sys.executable, __file__, *sys.argv[1:], "--out", str(out), *([] if prune else ["--no-prune"])]
    for kill in range(1, kills + 1):
        victim = out / "trials" / f"{kill * trials // (kills + 1):03}" / "checkpoints"
        with subprocess.Popen(command) as process:
            while process.poll() is None and not any(victim.glob("step-*")):
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        print(f"killed in trial {victim.parent.name}, whose {max(victim.glob('step-*')).name} is saved", flush=True)
    if subprocess.run(command).returncode:
        sys.exit("failed")
    return json.loads((out / "result.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "examples" / "support.json")
    parser.add_argument("--keys", nargs=2, default=["question", "reply"])
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--steps", type=int, help="of a trial, instead of epochs")
    parser.add_argument("--batch", type=int, default=8, help="rows of a step")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--try", dest="tries", action="append")
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--no-prune", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.out:
        worker(arguments)
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for prune in (True, False):
            result = swept(Path(folder) / str(prune), prune, arguments.kills if prune else 0, arguments.trials)
            trials = result["trials"]
            best = next(each for each in trials if each["number"] == result["best"])
            found[prune] = sum(each["steps"] for each in trials)
            directories = sorted(each["directory"] for each in trials)
            if directories != [f"{number:03}" for number in range(arguments.trials)]:
                sys.exit(f"other trials than expected: {directories}")
            print(
                f"{'with' if prune else 'without'} pruning: {len(trials)} trials, {found[prune]:,} of "
                f"{sum(each['of'] for each in trials):,} steps, best validation loss {best['loss']:.4f} "
                f"with {json.dumps(best['settings'])}",
                flush=True,
            )
    print(f"pruning saves {1 - found[True] / found[False]:.0%} of the steps")


if __name__ == "__main__":
    main()
