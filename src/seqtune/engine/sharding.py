"""A base model that no single device holds: each rank keeps a share of its frozen weights (FSDP2).

`fully_shard` cuts every frozen weight of a block, and of what stands beside the blocks, into as many pieces as there
are ranks. Before a block computes, its pieces are gathered from all; afterwards, forward and backward, they are let go.
What is trained is left out (``ignored_params``): the adapter's weights stay plain tensors, the same on every rank, and
the sum of gradients, clipping, checkpoints, a resume and the saved adapter are those of any run.

PyTorch's function is called here rather than Accelerate's plugin, which calls it too (`fsdp2_prepare_model`, Accelerate
1.15): that one is not to be had on CPUs, so that nothing of it could be tested there; it wants the optimizer with the
model, to exchange the weights in it, of which none need be exchanged; and it may refuse models with tied embeddings.

Gathering is a call of all ranks together. So every rank must make as many passes as every other, whatever rows it has
(`Shards.even`), none may try a pass twice (`check` refuses ``auto_batch``), and none may compute by itself: the base
model is whole again for the answers, in the first process, in the memory of its machine.

Not covered: GPUs, which were not at hand: it was tried on CPUs, by gloo, alone. Each process reads the whole model into
its machine's memory before it keeps its share. Activations are not sharded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from seqtune.engine import loss
from seqtune.engine.ranks import ALONE, Ranks, gone, is_gone
from seqtune.errors import InputError
from seqtune.progress import say


@dataclass(frozen=True)
class Shards:
    """Whether the ranks share the frozen weights, and what they must then do in step.

    Attributes:
        ranks: who has a share.
        on: whether they are shared; otherwise each rank has them all and everything here changes nothing.
    """

    ranks: Ranks = ALONE
    on: bool = False

    def even(self, passes: Sequence[list[int]], spare: list[int]) -> list[tuple[list[int], float]]:
        """The passes, each with 1.0; with 0.0, passes that only lend a hand, until every rank has as many.

        Args:
            passes: the rows of each pass of this rank; how many there are may differ from rank to rank.
            spare: rows of a pass that lends a hand, best a short one: its loss counts nothing, and its gradient is 0.
        """
        own = [(rows, 1.0) for rows in passes]
        if not self.on:
            return own
        (most,) = self.ranks.most(len(own))
        return own + [(spare, 0.0)] * (int(most) - len(own))

    def forward(self, forward: loss.Forward) -> loss.Forward:
        """The forward pass; in inference mode too, where gathered weights would be tensors that can't be trained on."""
        if not self.on:
            return forward

        def gathered(model: Any, batch: dict[str, Tensor]) -> Tensor:
            if not torch.is_inference_mode_enabled():
                return forward(model, batch)
            with torch.inference_mode(False), torch.no_grad():
                return forward(model, batch)

        return gathered

    @contextmanager
    def told(self) -> Iterator[None]:
        """Inside the block a pass that waits for a rank that has ended says so.

        Raises:
            RankGoneError: in the place of the network's own error.
        """
        try:
            yield
        except RuntimeError as error:
            if not self.on or not is_gone(error):
                raise
            raise gone(error) from None


#: Every rank has all weights.
WHOLE = Shards()


def check(settings: Mapping[str, Any], processes: int | None) -> None:
    """Refuse `shard_base` where there is nobody to share with, and together with what computes on one rank alone.

    Args:
        settings: of training; knobs that are missing are at their defaults.
        processes: how many train; None where that is not known yet.

    Raises:
        InputError: naming all of them.
    """
    if not settings.get("shard_base"):
        return
    problems = []
    if processes == 1:
        problems.append("one process alone   it takes several that share the weights")
    if settings.get("auto_batch"):
        problems.append("auto_batch = yes   a pass without memory can't be tried again: all processes take part in it")
    if settings.get("minutes") is not None:
        problems.append(f"minutes = {settings['minutes']:g}   the rehearsal needs the whole model on one device")
    if settings.get("seeds", 1) > 1:
        problems.append(f"seeds = {settings['seeds']}   trainings after the first need the whole model on one device")
    if settings.get("streaming"):
        problems.append("streaming = yes   rows are streamed by one process alone")
    if problems:
        raise InputError(
            "shard_base = yes can't be had with this",
            problems,
            "Start it with torchrun --nproc-per-node N -m seqtune … or with --on ray; or leave out what is named here.",
        )


def settled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of training with the engine that can train them: the fast one's kernels read whole weights."""
    if settings["shard_base"] and settings["engine"] == "fast":
        say("engine: reference (the fast one reads weights as they lie, and shard_base gathers them block by block)")
        return {**settings, "engine": "reference"}
    return dict(settings)


def shard(model: PeftModel, ranks: Ranks, device: torch.device) -> Shards:
    """Keep this rank's share of the frozen weights on the device, and of what is trained a whole copy.

    The weights that were there before are let go, unless somebody else holds them.

    Args:
        model: with the adapter in it, whole, in the memory of the machine; all ranks give the same one.
        ranks: who shares.
        device: where to compute.

    Raises:
        InputError: the model has no blocks that are known, or the device can't share.
    """
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"shard_base = yes: weights can't be shared on {device.type}", mend="Leave it out.")
    blocks = blocks_of(model)
    if not blocks:
        raise InputError(
            f"shard_base = yes: no blocks are known in {type(model.get_base_model()).__name__}", mend="Leave it out."
        )
    trained = {weight for weight in model.parameters() if weight.requires_grad}
    total = _bytes(model, trained)
    largest = max(_bytes(block, trained) for block in blocks)
    beside = total - sum(_bytes(block, trained) for block in blocks)
    mesh = init_device_mesh(device.type, (ranks.size,))
    for weight in trained:
        weight.data = weight.data.to(device)
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh, ignored_params=trained)
    say(
        f"base model: {_megabytes(held(model))} of its {_megabytes(total)} in each of {ranks.size} processes; a pass "
        f"gathers {_megabytes(beside)} beside the blocks, and blocks of up to {_megabytes(largest)} in turn"
    )
    return Shards(ranks, on=True)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a transformer, outermost lists alone: T5's ``block``, BART's ``layers``, of encoder and decoder."""
    found: list[nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks_of(child)
    return found


def held(model: nn.Module) -> int:
    """Bytes of sharded weights that this rank holds between two passes."""
    return sum(w.to_local().nbytes for w in model.parameters() if isinstance(w, DTensor))


def _bytes(module: nn.Module, but: set[nn.Parameter]) -> int:
    return sum(weight.nbytes for weight in module.parameters() if weight not in but)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
