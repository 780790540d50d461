"""Everything that a run's future depends on, in one object: what the loop changes, and what a checkpoint holds."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor


@dataclass
class TrainState:
    """Everything that the loop changes, besides the model, the optimizer and the random generators.

    ``epoch`` and ``place`` (of `feeding`) are where we are in the data; the epoch began behind step ``epoch_began``.
    ``rows_per_pass`` is the limit that want of memory has set (`auto_batch`); 0 where there is none.
    """

    step: int = 0
    epoch: int = 0
    place: list[int] = field(default_factory=list)
    epoch_began: int = 0
    rows_per_pass: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_loss: float = math.inf
    evaluations_without_gain: int = 0
    stopped_early: bool = False
    best_adapter: dict[str, Tensor] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Snapshot:
    """A state as a checkpoint keeps it: tensors by name, and values that JSON can hold."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def packed(taken: Snapshot | None) -> bytes | None:
    """A snapshot as one run of bytes, for another process: length of the JSON, JSON, safetensors."""
    if taken is None:
        return None
    values = json.dumps({"step": taken.step, "values": taken.values}).encode()
    return len(values).to_bytes(8, "little") + values + bytes_of(taken.tensors)


def unpacked(content: bytes | None) -> Snapshot | None:
    """What `packed` was given."""
    if content is None:
        return None
    end = 8 + int.from_bytes(content[:8], "little")
    values = json.loads(content[8:end])
    return Snapshot(values["step"], tensors_of(content[end:]), values["values"])


def snapshot(model: PeftModel, optimizer: torch.optim.Optimizer, scheduler: Any, state: TrainState) -> Snapshot:
    """The state of a run between two steps; the tensors are the run's own, so write them before the next step."""
    tensors = {f"adapter.{name}": weight for name, weight in _adapter(model).items()}
    tensors.update({f"best.{name}": weight for name, weight in state.best_adapter.items()})
    optimizer_state = optimizer.state_dict()
    for index, moments in optimizer_state["state"].items():
        tensors.update({f"moments.{index}.{name}": value for name, value in moments.items()})
    tensors.update({f"random.{name}": value for name, value in _generators().items()})
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state) if f.name != "best_adapter"}
    values = {"state": fields, "scheduler": {name: getattr(scheduler, name) for name in _OF_SCHEDULER}}
    kept = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    return Snapshot(state.step, kept, values)


def best_of(taken: Snapshot) -> dict[str, Tensor]:
    """The best adapter of a snapshot."""
    return _of(taken, "best")


def restore(
    taken: Snapshot, model: PeftModel, optimizer: torch.optim.Optimizer, scheduler: Any, state: TrainState
) -> None:
    """Make everything what it was when the snapshot was taken."""
    for name, value in taken.values["state"].items():
        setattr(state, name, value)
    state.best_adapter = _of(taken, "best")
    set_peft_model_state_dict(model, _of(taken, "adapter"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _of(taken, "moments").items():
        index, what = name.split(".", 1)
        moments.setdefault(int(index), {})[what] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    for name, value in taken.values["scheduler"].items():
        setattr(scheduler, name, value)
    # By the settings of now, which are those of then unless a change was allowed.
    rates = [
        base * shape(scheduler.last_epoch) for base, shape in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
    _set_generators(_of(taken, "random"))


#: What changes in transformers' schedules, all of which are PyTorch's ``LambdaLR``.
_OF_SCHEDULER = ("last_epoch", "_step_count")


def bytes_of_checkpoint(model: PeftModel) -> int:
    """About how large a checkpoint of this model will be: adapter, best adapter and two moments, and the log."""
    return 4 * sum(weight.numel() * 4 for weight in model.parameters() if weight.requires_grad) + 2**20


def _adapter(model: PeftModel) -> dict[str, Tensor]:
    return get_peft_model_state_dict(model, save_embedding_layers=False)


def _of(taken: Snapshot, kind: str) -> dict[str, Tensor]:
    prefix = kind + "."
    return {name.removeprefix(prefix): tensor for name, tensor in taken.tensors.items() if name.startswith(prefix)}


def _generators() -> dict[str, Tensor]:
    """The generators that a step draws from: PyTorch's, and its one for each device. (`speed.Dice` has no state.)"""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states.update({f"cuda{i:02d}": state for i, state in enumerate(torch.cuda.get_rng_state_all())})
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def _set_generators(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["torch"])
    of_gpus = [states[name] for name in sorted(states) if name.startswith("cuda")]
    if of_gpus and len(of_gpus) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(of_gpus)
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
