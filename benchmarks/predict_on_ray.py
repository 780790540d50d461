"""`seqtune predict --on ray` on a long file, a worker killed on the way: is every row there once, in order?

    python benchmarks/predict_on_ray.py [--rows 100000] [--workers 2] [--kills 1]

A tiny model (random weights) answers a JSON Lines file into another. A worker that holds the model is killed (SIGKILL)
each time another share of the answers is kept. Some answers are compared with those of this process alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from predict import ENVIRONMENT, lines, made_run


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Those that hold a model."""
    found = []
    for each in psutil.Process(process.pid).children(recursive=True):
        try:
            if "MapWorker" in " ".join(each.cmdline()):
                found.append(each)
        except psutil.Error:  # it has just ended
            continue
    return found


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run, asked, answers = made_run(folder), folder / "questions.jsonl", folder / "answers.jsonl"
        texts = [f"What is number {number} of the lamp?" for number in range(given.rows)]
        with asked.open("w") as stream:
            for number, text in enumerate(texts):
                stream.write(json.dumps({"id": number, "question": text}) + "\n")
        command = [
            sys.executable, "-m", "seqtune", "predict", str(run), str(asked), "--output", str(answers),
            "--max-new-tokens", "4", "--device-type", "cpu", "--on", "ray", "--workers", str(given.workers),
        ]  # fmt: skip
        began, killed = time.monotonic(), []
        process = subprocess.Popen(command, env={**ENVIRONMENT, "OMP_NUM_THREADS": "1"})
        while process.poll() is None:
            done = lines(Path(f"{answers}.partial"))
            if len(killed) < given.kills and done > given.rows * (len(killed) + 1) / (given.kills + 1):
                for each in workers_of(process)[:1]:
                    each.kill()
                    killed.append(done)
            time.sleep(0.5)
        if process.returncode:
            sys.exit("failed")
        seconds = time.monotonic() - began
        found = [json.loads(line) for line in answers.read_text().splitlines()]
        print(f"{len(found):,} rows in {seconds:.0f} s with the start of Ray, {given.rows / seconds:.0f} rows/s")
        print(f"a worker killed behind row {', '.join(f'{each:,}' for each in killed) or 'none'}")
        assert [each["id"] for each in found] == list(range(given.rows)), "other rows, or another order"
        assert [each["question"] for each in found] == texts
        import seqtune

        some = list(range(0, given.rows, max(1, given.rows // 200)))
        wanted = seqtune.load(run, device_type="cpu").generate([texts[row] for row in some], max_new_tokens=4)
        assert [found[row]["output"] for row in some] == wanted, "other answers than those of one process"
        print(f"every row once, in order; {len(some)} of the answers compared with one process: the same")


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    main()
