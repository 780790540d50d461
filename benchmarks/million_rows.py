"""A million rows: read, checked, grouped by near-duplicates, split and tokenized; rows a second and memory per step.

    python benchmarks/million_rows.py --rows 100000            a first try
    python benchmarks/million_rows.py --rows 1000000           the figures of docs/data.md

The rows are made by this script (the same every time): questions of 6 to 16 invented words with the frequencies of
Zipf's law, each tenth a changed copy of the one before. The steps are the nodes of a run, one after the other in one
process. The tokenizer is that of the embedded base model. Peak memory is that of the process (resident, from the
operating system), the libraries included; torch alone takes some 300 MB. On a machine with other work the seconds say
little: beside them stand those of the processor that this process has had.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

STEPS = {
    "read": ["raw_rows"],
    "check": ["row_problems"],
    "clean": ["clean_rows"],
    "near-duplicates": ["question_groups"],
    "split": ["train_set", "validation_set", "hold_out_set", "split_warnings"],
    "tokenize": ["encoded_train", "tokenizer"],
    "lengths": ["training_lengths"],
}


def make(path: Path, rows: int) -> None:
    """Write the rows as JSON Lines."""
    drawn = random.Random(1)
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in "aeiou"]
    words = ["".join(drawn.choices(syllables, k=drawn.randint(1, 4))) for _ in range(20_000)]
    weights = list(itertools.accumulate(1 / (rank + 5) for rank in range(len(words))))
    last = words[:8]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            if number % 10 == 9:
                last = [*last]
                last[drawn.randrange(len(last))] = drawn.choice(words)
            else:
                last = drawn.choices(words, cum_weights=weights, k=drawn.randint(6, 16))
            reply = " ".join(drawn.choices(words, cum_weights=weights, k=drawn.randint(5, 20)))
            row = {"question": " ".join(last) + "?", "reply": f"{reply}.", "number": number}
            file.write(json.dumps(row) + "\n")


def peak() -> float:
    """The largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--model-id", default="seqtune-mini")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="seqtune-") as folder:
        path = Path(folder) / "rows.jsonl"
        make(path, arguments.rows)
        os.environ["XDG_CACHE_HOME"] = folder  # so that nothing is used again
        figures = measured(path, arguments.rows, arguments.model_id)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measured(path: Path, rows: int, model_id: str) -> dict[str, dict[str, float]]:
    """Rows a second and the peak of memory after each step."""
    import seqtune

    print(f"{rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB; {peak():.2f} GB before the first step")
    driver = seqtune.build_driver({"start": "base"})
    inputs = {"data_path": str(path), "model_id": model_id}
    known: dict = {}
    figures = {}
    for name, nodes in STEPS.items():
        started, worked = time.perf_counter(), time.process_time()
        found = driver.execute(nodes, inputs=inputs, overrides=known)
        seconds, of_processor = time.perf_counter() - started, time.process_time() - worked
        known.update(found)
        figures[name] = {
            "seconds": seconds,
            "of_processor": of_processor,
            "rows_per_second": rows / seconds,
            "peak_gb": peak(),
        }
        rate = f"{rows / seconds:12,.0f} rows/s   {of_processor:8.1f} s of the processor"
        print(f"{name:16} {seconds:8.1f} s {rate}   peak {peak():.2f} GB", flush=True)
    total, worked = (sum(each[name] for each in figures.values()) for name in ("seconds", "of_processor"))
    rate = f"{rows / total:12,.0f} rows/s   {worked:8.1f} s of the processor"
    print(f"{'all':16} {total:8.1f} s {rate}   peak {peak():.2f} GB")
    return figures


if __name__ == "__main__":
    main()
