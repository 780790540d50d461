"""The process that talks to Ray: told what to do on standard input, it tells what happens on standard output.

A line is a JSON object: ``{"what": "progress" | "say" | "warn" | "log" | "answer" | "trained" |
``"trial" | "failed" | "end", …}``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray  # pyright: ignore[reportMissingImports] (an extra)
from ray.exceptions import RayError  # pyright: ignore[reportMissingImports] (an extra)
from ray.util.queue import Empty, Queue  # pyright: ignore[reportMissingImports] (an extra)

from seqtune.errors import InputError, RunError, SeqtuneError

#: Bytes of the object store of a Ray that is started here: what goes through it is a training set's token ids.
OBJECT_STORE = 150 * 2**20

#: Standard output as it was.
_lines = sys.stdout

#: Times that training is started again after a worker was lost.
RESTARTS = 5


def tell(what: str, **more: Any) -> None:
    """A line for whoever started us."""
    _lines.write(json.dumps({"what": what, **more}) + "\n")
    _lines.flush()


def run(work: Callable[[dict[str, Any], int, int], None]) -> None:
    """Read what to do, do it, say how it ended.

    Args:
        work: what to do: given what was told, the number of workers and the threads of each.
    """
    global _lines
    told = json.loads(sys.stdin.buffer.readline())
    _lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Ray and its libraries print to standard output too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    try:
        _connect(told["on"])
        work(told, *_workers(told))
    except SeqtuneError as error:
        tell("failed", headline=error.headline, details=error.details, mend=error.mend)
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()  # into the log
        tell("failed", headline=f"{type(error).__name__}: {error}", details=ends_with(error), mend=told.get("mend"))
        sys.exit(1)
    finally:
        ray.shutdown()
    tell("end")


def _end_with_the_command() -> None:
    """Whoever started us holds our standard input open: where it is killed, nobody else must go on in its place."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
    os._exit(143)


def ends_with(error: Exception) -> list[str]:
    """The end of what Ray says of an error: of a fault in a worker, the last of its traceback."""
    lines = [line.rstrip()[:200] for line in str(error).splitlines() if line.strip()]
    return lines[-8:] or [type(error).__name__]


def _connect(on: str) -> None:
    quiet = {"log_to_driver": False, "configure_logging": True, "logging_level": "ERROR"}
    try:
        if on == "ray":
            ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
        else:
            ray.init(address=on, **quiet)
    except Exception as error:  # the plain one is what Ray raises where it does not start
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if on == "ray":
            mend = "It gives up on a machine that is full of other work: try again later, or without --on ray."
            raise RunError("Ray did not start on this machine", [reason], mend) from None
        raise RunError(
            f"{on}: no Ray cluster can be reached", [reason], "Check the address, or leave it out."
        ) from None


def _workers(told: dict[str, Any]) -> tuple[int, int]:
    """How many, and the CPUs of each: those of a machine, shared by the workers on it.

    Raises:
        InputError: more workers than the cluster has CPUs, or GPUs where these are wanted: Ray would wait for more.
    """
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [node for node in found if node.get("CPU", 0) >= 1]  # a head may have none, and does no work then
    if not nodes:
        raise InputError(
            "the Ray cluster has no machine with a CPU to give", mend="Start workers: ray start --address …"
        )
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    number = told["workers"] or (gpus if told.get("gpu") and gpus else len(nodes))
    least = int(min(node["CPU"] for node in nodes))
    cpus = max(1, least // -(-number // len(nodes)))
    for kind, most in (("CPU", int(sum(node["CPU"] // cpus for node in nodes))), ("GPU", gpus)):
        if number > most and (kind == "CPU" or told.get("gpu")):
            raise InputError(
                f"workers = {number}: the cluster has room for {most}, by its {kind}s", mend="Ask for fewer --workers."
            )
    return number, cpus


def _train(told: dict[str, Any], number: int, cpus: int) -> None:
    from ray.train import (  # pyright: ignore[reportMissingImports] (an extra)
        FailureConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )
    from ray.train.torch import TorchConfig, TorchTrainer  # pyright: ignore[reportMissingImports] (an extra)

    from seqtune.cluster.ray_worker import train
    from seqtune.cluster.storage import RAYS_OWN, Storage

    tell("say", text=f"Ray: {number} {'worker' if number == 1 else 'workers'} with {cpus} threads each")
    queue = Queue(actor_options={"num_cpus": 0})
    job = ray.put(Path(told["job"]).read_bytes())
    storage = Storage(told["storage"] or Path(told["checkpoints"]).as_uri())
    trainer = TorchTrainer(
        train,
        train_loop_config={**told, "job": job, "queue": queue, "threads": cpus},
        scaling_config=ScalingConfig(
            num_workers=number,
            use_gpu=told["gpu"],
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if told["gpu"] else {})},
        ),
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if told["gpu"] else "gloo"),
        run_config=RunConfig(
            name="train",
            storage_path=f"{storage.root}/{RAYS_OWN}",
            storage_filesystem=storage.files,
            failure_config=FailureConfig(max_failures=RESTARTS),
        ),
    )
    try:
        with hearing(queue):
            trainer.fit()
    except (TrainingFailedError, RayError) as error:
        mend = "Any checkpoint is kept: the same command goes on, with --on ray or without it."
        raise RunError("training on Ray failed", ends_with(error), mend) from None


@contextmanager
def hearing(queue: Queue) -> Iterator[None]:
    """Pass on what workers say, while the block lasts.

    Raises:
        RunError: behind the block: what a worker says another start would not mend.
    """
    done, failures = threading.Event(), list[dict[str, Any]]()
    listener = threading.Thread(target=_hear, args=(queue, done, failures), daemon=True)
    listener.start()
    try:
        yield
    finally:
        done.set()
        listener.join(10)
    if failures:
        raise RunError(failures[0]["headline"], failures[0]["details"], failures[0]["mend"])


def _hear(queue: Queue, done: threading.Event, failures: list[dict[str, Any]]) -> None:
    """Pass on what the workers say."""
    while True:
        try:
            line = queue.get(timeout=0.2)
        except Empty:
            if done.is_set():
                return
            continue
        except RayError:  # the cluster is going down; whoever waits for the training learns why
            return
        if line["what"] == "failed":
            failures.append(line)
        tell(**line)  # a failure too, at once: the other ranks would wait for the one that is gone


if __name__ == "__main__":
    run(_train)
