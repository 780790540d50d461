"""The machine: where to compute, in which precision, and with which seed; each choice with its reason."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from seqtune.errors import InputError
from seqtune.progress import say


def choose_device(wanted: str) -> torch.device:
    """The device of that type; for ``auto`` CUDA, then MPS, then the CPU.

    Raises:
        InputError: the machine has no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(name for name, is_there in there.items() if is_there)
    if not there[wanted]:
        found = ", ".join(name for name, is_there in there.items() if is_there)
        raise InputError(f"device_type = {wanted}   this machine (or this build of PyTorch) has: {found}")
    say(f"device: {wanted}, {torch.get_num_threads()} threads" if wanted == "cpu" else f"device: {wanted}")
    return torch.device(wanted)


def choose_precision(wanted: str, device: torch.device) -> dict[str, str]:
    """``value`` (fp32 or bf16) and ``reason``."""
    if wanted != "auto":
        return {"value": wanted, "reason": "given"}
    chosen = best_precision(device)
    say(f"precision: {chosen['value']} ({chosen['reason']})")
    return chosen


def best_precision(device: torch.device) -> dict[str, str]:
    """``value`` (fp32 or bf16) and ``reason``, for this device."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return {"value": "bf16", "reason": "this GPU has bf16 units"}
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return {"value": "bf16", "reason": "this processor has bf16 units"}
    return {
        "value": "fp32",
        "reason": f"exact everywhere; --precision bf16 is for a {device.type.upper()} with bf16 units",
    }


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Everything drawn from PyTorch's generators inside depends on the seed alone; they are put back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def describe(device: torch.device) -> dict[str, Any]:
    """What the run was computed on, for the manifest."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": device.type,
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
