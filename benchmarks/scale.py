"""The cost model of docs/scale.md, and a simulation of it: a step on N devices, and what of it is work.

python benchmarks/scale.py [--write docs/scale-table.md] [--seed 0]

A step's time is the slowest rank's share of its tokens, plus the all-reduce of the adapter's gradients, plus what does
not grow smaller with more devices. The shares are dealt out by `batching.shares`, the real one, over made row lengths;
the network is a ring (Patarasuk and Yuan 2009): 2 (N-1)/N bytes over the bandwidth, and 2 (N-1) latencies.

The devices' figures are *assumptions* from data sheets and the measured CPU step, not measurements; give your own.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

from seqtune.engine.batching import shares


@dataclass(frozen=True)
class Device:
    name: str
    tokens_per_second: float
    """Source and target tokens of a forward and backward pass of flan-t5-small with an adapter."""
    fixed_seconds: float
    """Of a step, whatever its size: launches, optimizer, Python."""


@dataclass(frozen=True)
class Network:
    name: str
    bytes_per_second: float
    latency: float


DEVICES = {
    "cpu": Device("two CPU cores", 2_000, 0.005),
    "gpu": Device("a data-centre GPU", 200_000, 0.020),
}
NETWORKS = {
    "nvlink": Network("NVLink", 200e9, 5e-6),
    "infiniband": Network("InfiniBand", 20e9, 10e-6),
    "ethernet": Network("10 Gbit Ethernet", 1e9, 50e-6),
}
#: Bytes of gradients: r 16 on queries and values of flan-t5-small, and all-linear of flan-t5-base (fp32).
ADAPTERS = {"small q,v": 2.75e6, "base all-linear": 27e6}


def step_seconds(
    devices: int, rows: int, adapter_bytes: float, device: Device, network: Network, seed: int, steps: int = 20
) -> tuple[float, float, float, float]:
    """(step, of it the all-reduce, of it waiting for the slowest rank), mean seconds; the share that is computing."""
    rng = random.Random(seed)
    whole = talk = wait = work = 0.0
    for _ in range(steps):
        # Log-normal lengths, as question-answer files have: median 30 and 40 tokens, one in twenty four times that.
        lengths = [(int(rng.lognormvariate(3.7, 0.8)) + 1, int(rng.lognormvariate(3.4, 0.8)) + 1) for _ in range(rows)]
        held = [sum(sum(lengths[row]) for row in share) for share in shares(range(rows), lengths, devices)]
        compute, even = max(held) / device.tokens_per_second, sum(held) / devices / device.tokens_per_second
        ring = 2 * (devices - 1)
        reduce = ring / devices * adapter_bytes / network.bytes_per_second + ring * network.latency
        # Besides the gradients: the loss, and what the ranks were told; latency alone.
        talking = (reduce + 2 * ring * network.latency) if devices > 1 else 0.0
        whole += compute + device.fixed_seconds + talking
        talk += talking
        wait += compute - even
        work += even
    return whole / steps, talk / steps, wait / steps, work / whole


def table(seed: int) -> list[str]:
    lines = [
        "| device | network | adapter | rows a step | devices | step | all-reduce | waiting | computing |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    cases = [
        ("cpu", "ethernet", "small q,v", 16), ("cpu", "ethernet", "small q,v", 512),
        ("gpu", "nvlink", "small q,v", 32), ("gpu", "infiniband", "small q,v", 32),
        ("gpu", "ethernet", "small q,v", 32), ("gpu", "infiniband", "base all-linear", 32),
    ]  # fmt: skip
    for device, network, adapter, rows_each in cases:
        for devices in (8, 64, 512):
            fixed = device == "cpu" and rows_each == 512
            rows = rows_each if fixed else rows_each * devices
            found, talk, wait, work = step_seconds(
                devices, rows, ADAPTERS[adapter], DEVICES[device], NETWORKS[network], seed
            )
            lines.append(
                f"| {DEVICES[device].name} | {NETWORKS[network].name} | {adapter} | {rows:,} | {devices} "
                f"| {1000 * found:.0f} ms | {1000 * talk:.1f} ms | {1000 * wait:.1f} ms "
                f"| {work:.0%} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    text = "\n".join(table(arguments.seed)) + "\n"
    print(text, end="")
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
