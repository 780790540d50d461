"""Kills a real process at random moments, many times over, and compares what comes out with a run left alone.

    python benchmarks/faults.py [--kills 200] [--seed 0]
    python benchmarks/faults.py --cost [--shape flan-t5-small] --data FILE --keys QUESTION REPLY

Each of the kills is a run of its own: SIGKILL at a random moment of its training, a third of them inside a save (the
saving process says when it is in one, and is killed a random moment later); then the run is started again, to its end.
Counted: runs whose adapter (SHA-256) and per-step losses are those of the run that was left alone; how many steps were
lost. --cost: the share of a run's time that saving takes, with and without waiting for the disk.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import mmap
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

import seqtune
from seqtune.durable import Disk, QuickDisk
from seqtune.engine import checkpoint
from seqtune.models import checkpoint as models

EXAMPLE = Path(__file__).parents[1] / "examples" / "support.json"
SAVE_STEPS = 3
#: What a run imports when it needs it, and takes seconds.
IMPORTED = (
    "seqtune.",
    "transformers.models.t5",
    "peft",
    "pyarrow",
    "datasets",
    "rouge_score",
    "sacrebleu",
    "accelerate",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--shape", default="flan-t5-small")
    parser.add_argument("--data", type=Path, default=EXAMPLE)
    parser.add_argument("--keys", nargs=2, default=["question", "reply"])
    arguments = parser.parse_args()
    print(cost(arguments) if arguments.cost else kills(arguments.kills, arguments.seed))


# --- kills ------------------------------------------------------------------------------------------------------------


def kills(count: int, seed: int) -> str:
    """So many runs killed once and started again; what was counted, as text."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny_model(folder / "model")
        flag = mmap.mmap(-1, 1)
        alone = folder / "alone"
        started = time.monotonic()
        wait_for(begin(alone, model, flag))
        lasted = time.monotonic() - started
        for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
            importlib.import_module(module)  # once, here, instead of in each of the runs
        expected = outcome(alone)
        steps = len(expected[1])
        same = inside = 0
        lost: list[int] = []
        for number in range(count):
            out = folder / f"run{number}"
            process = begin(out, model, flag)
            in_save = number % 3 == 0
            if in_save:
                saves = rng.randint(1, steps // SAVE_STEPS)
                for _ in range(saves):
                    until(lambda: flag[0] == 0, process)
                    until(lambda: flag[0] == 1, process)
                time.sleep(rng.random() * 0.004)
            else:
                until(lambda out=out: log_length(out) > 0, process)
                time.sleep(rng.random() * lasted * 0.5)
            was_inside = flag[0] == 1
            os.kill(process, signal.SIGKILL)
            ended_itself = os.waitpid(process, 0)[1] == 0
            flag[0] = 0
            if ended_itself:  # it was done before the kill came: no kill, another one
                same += outcome(out) == expected
                lost.append(0)
                continue
            inside += was_inside
            lost.append(log_length(out) - resumable(out))
            (out / "checkpoints" / "steps").unlink(missing_ok=True)
            wait_for(begin(out, model, flag))
            if outcome(out) == expected:
                same += 1
            else:
                print(f"kill {number} (seed {seed}): another outcome", flush=True)
            if (number + 1) % 20 == 0:
                print(f"{number + 1} kills, {inside} inside a save, {same} the same", flush=True)
    return (
        f"{count} runs of {steps} steps, a checkpoint every {SAVE_STEPS}: {inside} killed inside a save; {same} of "
        f"{count} ended with the same adapter (SHA-256) and the same losses; steps lost: {max(lost)} at most, "
        f"{statistics.mean(lost):.1f} on average"
    )


def tiny_model(folder: Path) -> Path:
    """A T5 of random weights, small enough that the killing is what takes the time."""
    tokenizer = AutoTokenizer.from_pretrained(models.resolve(models.EMBEDDED).path)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def begin(out: Path, model: Path, flag: mmap.mmap) -> int:
    """Start or go on with the run in a process of its own (forked: nothing is imported again); its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        torch.set_num_threads(1)
        whole = checkpoint.Checkpoints.save

        def save(self: Any, taken: Any, made_of: Any) -> None:
            flag[0] = 1
            whole(self, taken, made_of)
            flag[0] = 0
            note(out, taken.step)

        checkpoint.Checkpoints.save = save
        due = checkpoint.Checkpoints.due
        checkpoint.Checkpoints.due = lambda self, step: note(out, step) or due(self, step)
        seqtune.finetune(
            EXAMPLE, model_id=str(model), out=str(out), num_train_epochs=1, save_steps=SAVE_STEPS, eval_steps=7,
            max_eval_rows=4, max_new_tokens=4, bootstrap_samples=100, device_type="cpu", max_samples=280,
        )  # fmt: skip
        status = 0
        (out.parent / "modules.json").write_text(
            json.dumps([m for m in sys.modules if m.startswith(IMPORTED)]), "utf-8"
        )
    except BaseException as error:  # whatever it was, the parent must not go on as the child
        print(f"{type(error).__name__}: {error}", flush=True)
    os._exit(status)


def note(out: Path, step: int) -> None:
    """How far the run was, for counting what a kill loses."""
    (out / "checkpoints" / "steps").write_text(str(step))


def log_length(out: Path) -> int:
    """The last step that is known of."""
    try:
        return int((out / "checkpoints" / "steps").read_text() or 0)
    except FileNotFoundError:
        return 0


def resumable(out: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.name[5:]) for path in out.glob("checkpoints/step-*")), default=0)


def until(there: Any, process: int) -> None:
    """Wait for something, or for the end of the process."""
    while not there():
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.0002)


def wait_for(process: int) -> None:
    _, status = os.waitpid(process, 0)
    if status:
        raise SystemExit("a run failed that nobody killed")


def outcome(out: Path) -> tuple[str, list[tuple[int, float, Any]]]:
    """Digest of the adapter, and the losses of every step."""
    adapter = hashlib.sha256((out / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return adapter, [(line["step"], line.get("loss"), line.get("validation_loss")) for line in log if line["step"]]


# --- cost -------------------------------------------------------------------------------------------------------------


def cost(arguments: argparse.Namespace) -> str:
    """What a checkpoint of the shape takes, with and without waiting for the disk, and its share at the default."""
    import shapes

    from seqtune.engine import loop
    from seqtune.models import adapters
    from seqtune.settings import DEFAULT

    base = shapes.build(arguments.shape)
    settings = {
        **DEFAULT.model_dump(), "max_steps": 12, "eval_steps": 10**9, "lora_dropout": 0.2, "warmup_steps": 0,
    }  # fmt: skip
    rows = shapes.rows(arguments.data, *arguments.keys, 400, base.config.vocab_size)
    taken: dict[str, list[float]] = {"with fsync": [], "without": []}
    size = 0
    for name, disk in (("with fsync", Disk()), ("without", QuickDisk())):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            kept = checkpoint.Checkpoints(Path(folder), save_steps=1, disk=disk)
            whole = kept.save

            def save(snapshot: Any, made_of: Any, whole: Any = whole, name: str = name) -> None:
                started = time.perf_counter()
                whole(snapshot, made_of)
                taken[name].append(time.perf_counter() - started)

            kept.save = save  # pyright: ignore[reportAttributeAccessIssue]
            model = adapters.attach(base, adapters.lora_config(base, "x", settings), "x")
            loop.train(
                model, rows, rows[:2], settings, device=torch.device("cpu"), precision="fp32", pad_token_id=0,
                checkpoints=kept,
            )  # fmt: skip
            size = sum(path.stat().st_size for path in Path(folder).glob("step-*/*")) // checkpoint.KEPT
    middle = {name: statistics.median(seconds) for name, seconds in taken.items()}
    share = {name: seconds / (60 * DEFAULT.save_minutes) for name, seconds in middle.items()}
    return (
        f"{arguments.shape}: a checkpoint of {size / 1e6:.1f} MB takes {middle['with fsync'] * 1e3:.0f} ms with fsync, "
        f"{middle['without'] * 1e3:.0f} ms without (medians of {len(taken['without'])}); every "
        f"{DEFAULT.save_minutes:g} minutes that is {share['with fsync']:.3%} and {share['without']:.3%} of the run"
    )


if __name__ == "__main__":
    main()
