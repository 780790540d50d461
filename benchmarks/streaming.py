"""Ten million made rows streamed: memory, rows a second, and whether a run that was killed gets the same batches.

python benchmarks/streaming.py [--rows 10000000] [--steps 200] [--format parquet|jsonl] [--folder DIR]

The rows are made once, in a folder (3 GB as JSON Lines, 0.2 GB as Parquet). One process trains a tiny model for all the
steps; a second is killed with SIGKILL half-way, a third goes on from its checkpoint. Each writes down the rows of every
step.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHARDS = 64


def make(folder: Path, rows: int, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    each = -(-rows // SHARDS)
    for shard in range(SHARDS):
        numbers = range(shard * each, min(rows, (shard + 1) * each))
        questions = [f"What does part {number} of the machine do, and how often is it cleaned?" for number in numbers]
        replies = [
            f"Part {number} moves lever {number % 977}; clean it every {number % 89} days." for number in numbers
        ]
        if kind == "parquet":
            table = pa.table({"question": questions, "reply": replies})
            pq.write_table(table, folder / f"part-{shard:03}.parquet", row_group_size=10_000)
        else:
            with (folder / f"part-{shard:03}.jsonl").open("w") as file:
                for question, reply in zip(questions, replies, strict=True):
                    file.write(json.dumps({"question": question, "reply": reply}) + "\n")


def worker(arguments: argparse.Namespace) -> None:
    import torch
    from datasets import Dataset
    from transformers import T5Config, T5ForConditionalGeneration

    from seqtune.data import shards, streaming
    from seqtune.engine import hardware, loop
    from seqtune.engine.checkpoint import Checkpoints
    from seqtune.models import adapters, loading
    from seqtune.settings import DEFAULT

    torch.set_num_threads(1)
    began = time.perf_counter()
    tokenizer = loading.load_tokenizer(loading.resolve("seqtune-mini"))
    source = shards.identify(arguments.folder)
    looked = time.perf_counter() - began
    settings = {
        **DEFAULT.model_dump(), "max_steps": arguments.steps, "eval_steps": 10**9, "early_stopping_patience": 0,
        "per_device_train_batch_size": 64, "shuffle_buffer": arguments.buffer,
    }  # fmt: skip
    limits = {"source": {"value": 128}, "target": {"value": 128}}
    kept_away = {"none": Dataset.from_dict({"input": []})}
    plan = streaming.plan(source, settings, "{question}", limits, kept_away)
    sample = streaming.sample(source, settings)[:64]
    questions, replies = (
        streaming.tokens.encode(tokenizer, [row[key] for row in sample]) for key in ("question", "reply")
    )
    rows = [{"input_ids": s, "labels": t} for s, t in zip(questions, replies, strict=True)]

    class Watched(streaming.Stream):
        def steps(self, epoch: int, place: list[int], rows_per_step: int) -> Any:
            with Path(arguments.out).open("a") as log:
                for numbers, made, behind in super().steps(epoch, place, rows_per_step):
                    log.write(json.dumps(numbers) + "\n")
                    log.flush()
                    yield numbers, made, behind

    size = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 1, "decoder_start_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = T5ForConditionalGeneration(T5Config(**size, vocab_size=len(tokenizer))).requires_grad_(False).eval()
    device = torch.device("cpu")
    with hardware.seeded(0, device):
        model = adapters.attach(base, adapters.lora_config(base, "x", settings), "x")
        state = loop.train(
            model, rows, rows[:8], settings, device=device, precision="fp32", pad_token_id=0,
            checkpoints=Checkpoints(Path(arguments.checkpoints), 10), stream=Watched(plan, tokenizer),
        )  # fmt: skip
    trained = [line["seconds"] for line in state.log if "seconds" in line]
    found = {
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "looked s": looked,
        "all s": time.perf_counter() - began,
        "training s": sum(trained),
        "resumed at": state.resumed_at,
    }
    Path(arguments.out + ".json").write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--buffer", type=int, default=50_000)
    parser.add_argument("--format", choices=["parquet", "jsonl"], default="parquet")
    parser.add_argument("--folder", help="of the rows; made where it is not there")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoints", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or Path(temporary) / "rows")
        if not folder.exists():
            make(folder, arguments.rows, arguments.format)

        def start(name: str, log: str) -> subprocess.Popen[bytes]:
            for each in ("whole", "cut"):
                (Path(temporary) / each).mkdir(exist_ok=True)
            return subprocess.Popen(
                [sys.executable, __file__, "--worker", "--folder", str(folder), "--steps", str(arguments.steps),
                 "--buffer", str(arguments.buffer), "--out", str(Path(temporary) / log),
                 "--checkpoints", str(Path(temporary) / name)],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

        if start("whole", "whole.log").wait():
            sys.exit("failed")
        cut = start("cut", "cut.log")
        while not any(int(path.name[5:]) >= arguments.steps // 2 for path in Path(temporary, "cut").glob("step-*")):
            time.sleep(0.01)
        cut.send_signal(signal.SIGKILL)
        cut.wait()
        if start("cut", "rest.log").wait():
            sys.exit("failed")
        logs = {name: Path(temporary, f"{name}.log").read_text().splitlines() for name in ("whole", "cut", "rest")}
        facts = {name: json.loads(Path(temporary, f"{name}.log.json").read_text()) for name in ("whole", "rest")}
        (at,) = facts["rest"]["resumed at"]
        # The stream is asked for a step before it is known whether the one before was the last.
        same = logs["cut"][:at] + logs["rest"][: arguments.steps - at] == logs["whole"][: arguments.steps]
        for name, found in facts.items():
            print(
                f"{name}: peak memory {found['peak MB']:,.0f} MB; looking at the files {found['looked s']:.1f} s; "
                f"{found['all s']:.1f} s in all, {found['training s']:.1f} s of it in steps"
            )
        print(f"killed behind step {at} or later, gone on from it: {'the same' if same else 'OTHER'} batches")
        if not same:
            sys.exit(1)


if __name__ == "__main__":
    main()
