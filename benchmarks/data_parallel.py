"""Two and four processes of one thread against one: rows a second, and whether the same comes out.

python benchmarks/data_parallel.py [--steps 50] [--speed-steps 20] [--processes 2 4]
    [--model flan-t5-small] [--rows 16] [--only correctness|speed]

Correctness: the same rows, fp32, no dropout; largest difference of a step's loss and of a weight of the adapter.
Speed: the usual settings, one process and several in turn, medians of the steps; on a machine with as many idle cores.
And as many runs of one process that know nothing of each other, at once: more than that the machine does not give.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from shapes import build, rows


def worker(arguments: argparse.Namespace) -> None:
    from peft import get_peft_model_state_dict

    from seqtune.engine import hardware, loop
    from seqtune.engine.ranks import together
    from seqtune.models import adapters
    from seqtune.settings import DEFAULT

    torch.set_num_threads(1)
    device = torch.device("cpu")
    settings = {
        **DEFAULT.model_dump(), "max_steps": arguments.steps, "eval_steps": 10**9, "engine": arguments.engine,
        "per_device_train_batch_size": arguments.rows, "early_stopping_patience": 0,
    }  # fmt: skip
    if arguments.still:
        settings["lora_dropout"] = 0.0
    with together() as ranks:
        base = build(arguments.model)
        data = rows(arguments.data, *arguments.keys, 400, base.config.vocab_size)
        with hardware.seeded(0, device):
            model = adapters.attach(base, adapters.lora_config(base, "x", settings), "x")
        if arguments.still:
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
                if isinstance(getattr(module, "dropout", None), float):
                    module.dropout = 0.0
        precision = "fp32" if arguments.still else hardware.choose_precision("auto", device)["value"]
        with hardware.seeded(0, device):
            state = loop.train(
                model, data, data[:8], settings, device=device, precision=precision, pad_token_id=0, ranks=ranks
            )
        if ranks.first:
            out = Path(arguments.out)
            weights = get_peft_model_state_dict(model, save_embedding_layers=False)
            save_file({name: weight.contiguous() for name, weight in weights.items()}, out.with_suffix(".safetensors"))
            out.write_text(json.dumps([line for line in state.log if "loss" in line]))


def start(processes: int, out: Path, arguments: argparse.Namespace, *more: str) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, __file__, "--worker", "--out", str(out), "--model", arguments.model, "--rows",
        str(arguments.rows), "--engine", arguments.engine, "--data", str(arguments.data), "--keys", *arguments.keys,
        *more,
    ]  # fmt: skip
    shared = {
        **os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
    }  # fmt: skip
    return [subprocess.Popen(command, env={**shared, "RANK": str(rank)}) for rank in range(processes)]


def launch(processes: int, out: Path, arguments: argparse.Namespace, *more: str) -> list[dict[str, float]]:
    wait(start(processes, out, arguments, *more))
    return json.loads(out.read_text())


def wait(started: list[subprocess.Popen[bytes]]) -> None:
    if sum(process.wait() != 0 for process in started):
        sys.exit("a process failed")


def correctness(place: Path, arguments: argparse.Namespace) -> None:
    log = launch(1, place / "1", arguments, "--still", "--steps", str(arguments.steps))
    adapter = load_file(place / "1.safetensors")
    for processes in arguments.processes:
        other = launch(processes, place / str(processes), arguments, "--still", "--steps", str(arguments.steps))
        loss = max(abs(a["loss"] - b["loss"]) for a, b in zip(log, other, strict=True))
        found = load_file(place / f"{processes}.safetensors")
        weight = max(float((found[name] - value).abs().max()) for name, value in adapter.items())
        print(f"{processes} against 1, {arguments.steps} steps, fp32: losses {loss:.1e} apart, adapters {weight:.1e}")


def speed(place: Path, arguments: argparse.Namespace) -> None:
    def rate(log: list[dict[str, float]]) -> float:
        return arguments.rows / statistics.median(line["seconds"] for line in log[3:])

    steps = ("--steps", str(arguments.speed_steps))
    for processes in [each for each in arguments.processes if each <= (os.cpu_count() or 1)]:
        ratios, ceilings = [], []
        for _ in range(arguments.repeats):
            one = rate(launch(1, place / "speed", arguments, *steps))
            several = rate(launch(processes, place / "speed", arguments, *steps))
            apart = [place / f"apart-{number}" for number in range(processes)]
            wait([process for out in apart for process in start(1, out, arguments, *steps)])
            strangers = sum(rate(json.loads(out.read_text())) for out in apart)
            ratios.append(several / one)
            ceilings.append(strangers / one)
            print(f"1 process {one:.1f} rows/s, {processes} {several:.1f}, {processes} strangers {strangers:.1f}")
        print(
            f"{processes} processes of one thread against one: {statistics.median(ratios):.2f} times the rows/s; "
            f"{processes} that know nothing of each other: {statistics.median(ceilings):.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="of the comparison of losses")
    parser.add_argument("--speed-steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rows", type=int, default=16, help="of a step, on all processes together")
    parser.add_argument("--only", choices=["correctness", "speed"])
    parser.add_argument("--model", default="flan-t5-small")
    parser.add_argument("--engine", default="fast")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "examples" / "support.json")
    parser.add_argument("--keys", nargs=2, default=["question", "reply"])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--still", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if arguments.only != "speed":
            correctness(place, arguments)
        if arguments.only != "correctness":
            speed(place, arguments)


if __name__ == "__main__":
    main()
