"""The processes that train one adapter together, and the little that they tell each other.

A process is a rank; rank 0 is the first. Each computes the gradient of its share of a step's rows; the gradients, a few
megabytes of an adapter's, are summed in one call a step, so that every rank takes the same step with the same weights.
`ALONE` is a run of one process, and talks to nobody.

Not `DistributedDataParallel`: it *averages* the gradients of ranks, which is wrong where these hold different numbers
of target tokens; it wraps the model, whose inside the fast engine needs; and what it hides, the time of the transfer
behind the backward pass, is next to nothing for an adapter. What is sent is numbers and bytes, never pickled objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from seqtune.errors import RunError
from seqtune.launch import launched

#: How long ranks wait for each other: the first one reads and checks the data before there is anything to train, and
#: has the models answer (and trains other seeds) behind it. A process that has ended is noticed at once, a machine that
#: has lost its power or network by whoever started the processes (torchrun's agents ask each other).
PATIENCE = timedelta(days=30)

Result = TypeVar("Result")


class RankGoneError(RunError):
    """Another process of the run has ended; why, it said itself."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Attributes:
        rank: counted from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that reads, writes and speaks."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """A seed that no other rank has; the run's own on the first."""
        return seed + (self.rank << 32)

    def reseed(self, seed: int, step: int) -> None:
        """Among several: PyTorch's generator starts anew at each step, so that a resume needs no rank's state."""
        if self.size > 1:
            key = f"{seed} {step} {self.rank}".encode()
            torch.manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:6], "little"))

    def sum(self, *numbers: float) -> list[float]:
        """Each number, summed over the ranks (in fp64)."""
        return self._reduced(numbers, dist.ReduceOp.SUM)

    def most(self, *numbers: float) -> list[float]:
        """The largest that any rank has of each."""
        return self._reduced(numbers, dist.ReduceOp.MAX)

    def sum_gradients(self, weights: Sequence[Tensor]) -> None:
        """Make the gradients of all ranks' weights their sum; a rank without rows has none and adds nothing."""
        if self.size == 1:
            return
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        flat = torch.cat([part.flatten().float() for part in parts])
        _told(lambda: dist.all_reduce(flat))
        for weight, summed in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
            weight.grad = summed.view_as(weight).to(weight.dtype)

    def as_the_first(self, weights: Sequence[Tensor]) -> None:
        """Give all ranks the first one's weights."""
        if self.size == 1:
            return
        for weight in weights:
            _told(lambda weight=weight: dist.broadcast(weight.data, src=0))

    def check_same(self, weights: Sequence[Tensor], step: int) -> None:
        """All ranks must hold the same weights before a checkpoint counts.

        Raises:
            RunError: they do not, which a fault in memory or in the network could bring about.
        """
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for weight in weights:
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        number = float(int.from_bytes(digest.digest()[:6], "little"))  # 48 bits: whole in fp64
        most, least = self._reduced((number, -number), dist.ReduceOp.MAX)
        if most != -least:
            raise RunError(
                f"step {step}: the {self.size} processes no longer hold the same adapter",
                mend="The checkpoint before is kept. Start the same command again: it goes on from there.",
            )

    def from_the_first(self, content: bytes | None) -> bytes | None:
        """Bytes that the first rank gives and all have then; None stays None."""
        if self.size == 1:
            return content
        length = torch.tensor([-1 if content is None or not self.first else len(content)])
        _told(lambda: dist.broadcast(length, src=0))
        if length.item() < 0:
            return None
        size = int(length.item())
        buffer = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8) if self.first else torch.empty(0)
        if not self.first:
            buffer = torch.empty(max(1, size), dtype=torch.uint8)
        _told(lambda: dist.broadcast(buffer, src=0))
        return buffer.numpy().tobytes()[:size]

    def wait(self) -> None:
        """Go on when all have come here."""
        self.sum(0.0)

    def _reduced(self, numbers: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64)
        _told(lambda: dist.all_reduce(values, op=operation))
        return values.tolist()


ALONE = Ranks()


@contextmanager
def together() -> Iterator[Ranks]:
    """Meet the other processes that were launched with this one; `ALONE` where there are none.

    Numbers and bytes go by gloo; gradients on a GPU by NCCL, each process of a machine with a GPU of its own.
    """
    rank, size, local = launched()
    if size == 1:
        yield ALONE
        return
    own = not dist.is_initialized()
    if own:
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(local % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
        _told(lambda: dist.init_process_group(backend, rank=rank, world_size=size, timeout=PATIENCE))
    try:
        yield Ranks(rank, size)
    finally:
        if own:
            dist.destroy_process_group()


def gone(error: Exception) -> RankGoneError:
    """The one error of the network that users meet: somebody is no longer there."""
    return RankGoneError(
        "another process of this run has ended, or can't be reached",
        [str(error).splitlines()[0][:200]],
        "Its own message, above, says why. Start the same command again: the run goes on from its checkpoint.",
    )


def is_gone(error: Exception) -> bool:
    """Whether an error out of a pass is the network's: gloo has no type for it, NCCL's is PyTorch's."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _told(call: Callable[[], Result]) -> Result:
    try:
        return call()
    except (RuntimeError, ValueError) as error:
        raise gone(error) from None
