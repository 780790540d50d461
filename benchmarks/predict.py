"""`seqtune predict` on a long file: is memory flat, and is the output whole after kills at random?

    python benchmarks/predict.py --rows 100000 --kills 10

A tiny model (random weights) answers a JSON Lines file; the process is killed (SIGKILL) at random moments, and started
again each time. Then the output is read: each row once, in order, with its other columns, and the same answers as those
of a prediction that was left alone. Memory is the resident set of the process that was left alone, sampled each half
second; the first tenth of the run, in which libraries and caches warm up, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1"}


def made_run(folder: Path) -> Path:
    """A run of a tiny model."""
    import seqtune
    from sample_rows import question_rows
    from tiny_models import tiny

    tiny("flan-t5", folder / "base")
    (folder / "train.json").write_text(json.dumps(question_rows()))
    few = {"max_steps": 3, "max_new_tokens": 8, "bootstrap_samples": 100, "device_type": "cpu"}
    return seqtune.finetune(folder / "train.json", model_id=str(folder / "base"), out=folder / "run", **few).path


def started(run: Path, asked: Path, out: Path) -> subprocess.Popen[bytes]:
    """A prediction, in a process of its own."""
    arguments = ["predict", str(run), str(asked), "--output", str(out), "--device-type", "cpu"]
    return subprocess.Popen([sys.executable, "-m", "seqtune", *arguments], stderr=subprocess.DEVNULL, env=ENVIRONMENT)


def lines(path: Path) -> int:
    """Answers in the journal so far."""
    try:
        with path.open("rb") as stream:
            return sum(1 for _ in stream) - 1
    except FileNotFoundError:
        return 0


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    dice = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run, asked, alone, killed = made_run(folder), folder / "q.jsonl", folder / "a.jsonl", folder / "k.jsonl"
        with asked.open("w") as stream:
            for number in range(given.rows):
                stream.write(json.dumps({"id": number, "question": f"What about {dice.random()}?"}) + "\n")

        begun, sizes = time.monotonic(), []
        process = started(run, asked, alone)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                sizes.append((lines(Path(f"{alone}.partial")), watched.memory_info().rss))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.5)
        seconds = time.monotonic() - begun
        assert process.wait() == 0
        steady = [size for done, size in sizes if done >= given.rows / 10]
        early, late = steady[: len(steady) // 5 or 1], steady[-(len(steady) // 5 or 1) :]
        growth = max(late) / max(early) - 1
        print(f"left alone: {given.rows:,} rows in {seconds:.0f} s, {given.rows / seconds:.0f} rows/s with the start")
        print(f"memory: {max(early) / 1e6:.0f} MB early, {max(late) / 1e6:.0f} MB late: {growth:+.1%}")

        goals = sorted(dice.randrange(given.rows) for _ in range(given.kills))
        kills, done_at = 0, []
        while not killed.exists():
            process = started(run, asked, killed)
            if kills < len(goals):
                while process.poll() is None and lines(Path(f"{killed}.partial")) < goals[kills]:
                    time.sleep(dice.random() / 10)
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    done_at.append(lines(Path(f"{killed}.partial")))
                    kills += 1
            process.wait()
        with killed.open() as found, alone.open() as expected, asked.open() as questions:
            rows = 0
            for rows, (a, b, question) in enumerate(zip(found, expected, questions, strict=True), 1):
                row = json.loads(a)
                answer = row.pop("output")
                assert row == json.loads(question), f"row {rows} is not the row of the input"
                assert answer == json.loads(b)["output"], f"row {rows} has another answer than without kills"
        print(f"killed {kills} times, at {', '.join(f'{each:,}' for each in done_at)} answers")
        print(f"output: {rows:,} of {given.rows:,} rows, each once, in order, the answers those of the run left alone")


if __name__ == "__main__":
    main()
