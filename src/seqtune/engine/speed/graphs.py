"""CUDA graphs: the thousands of small kernels of a pass launched as two, one forward and one backward.

A pass over some dozen questions and answers keeps a GPU busy for milliseconds, and the process that launches its
kernels one by one for ten times as long. PyTorch can record them once and play them again (``torch.cuda.CUDAGraph``),
on tensors that stay where they are: so widths are rounded up, and each shape is recorded the second time it comes.

What is recorded is the model up to its output layer, with its dropout: a replay draws from PyTorch's generator as the
plain pass does. Each recording is compared with a plain pass of the same random numbers before it is used.

Shape suffixes: B rows, S source tokens, T target tokens, D width of the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqtune.engine.batching import IGNORED
from seqtune.progress import warn

#: Shapes that are recorded, at most; others are passed through the model as ever.
MOST_SHAPES = 96

#: Narrower than this nothing is gained.
LEAST_STEP = 16

#: Largest relative difference (of lengths of vectors) of a recording's hidden states and gradients from a plain pass's,
#: with the same random numbers: the library may choose other products for it.
AGREEMENT = {"fp32": 1e-4, "bf16": 2e-2}

#: (model, batch) → hidden states before the output layer [B, T, D].
UpToHead = Callable[[Any, dict[str, Tensor]], Tensor]


def rounded(length: int) -> int:
    """A width that many lengths share: multiples of 16 up to 256, then of an eighth of the power of two below."""
    step = max(LEAST_STEP, 1 << max(0, (length - 1).bit_length() - 4))
    return -(-length // step) * step


def can_be_recorded(model: Any) -> bool:
    """Whether every pass in training is the same kernels: not where whole layers are left out by chance (LayerDrop)."""
    config = model.config.to_dict()
    return not any(value for name, value in config.items() if name.endswith("layerdrop"))


class Graphs:
    """Passes of one model in training, recorded by shape.

    Args:
        up_to_head: what is recorded.
        pad_token_id: fills ``input_ids``.
        limits: the longest source and target that the model has positions for; None where any length goes.
    """

    def __init__(self, up_to_head: UpToHead, pad_token_id: int, limits: tuple[int | None, int | None] = (None, None)):
        self._up_to_head = up_to_head
        self._pad = pad_token_id
        self._limits = {"input_ids": limits[0], "attention_mask": limits[0], "labels": limits[1]}
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._recorded: dict[tuple[int, ...], _Recording] = {}
        self._pool: Any = None
        self._stream: Any = None
        self._on = True

    def __call__(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """The hidden states, [B, T, D], played where this shape is recorded."""
        if not (self._on and model.training and torch.is_grad_enabled()):
            return self._up_to_head(model, batch)
        width = batch["labels"].shape[1]
        padded = self._padded(batch)
        shape = (*padded["input_ids"].shape, padded["labels"].shape[1])
        self._seen[shape] += 1
        if shape not in self._recorded and self._seen[shape] == 2 and len(self._recorded) < MOST_SHAPES:
            self._record(model, padded, shape)
        recording = self._recorded.get(shape)
        hidden_BTD = recording.play(padded) if recording is not None else self._up_to_head(model, padded)
        return hidden_BTD[:, :width]

    def release(self) -> bool:
        """Give the memory of all recordings back, and make no more. Returns whether there were any."""
        there = bool(self._recorded)
        self._recorded.clear()
        self._on = False
        return there

    def _padded(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        fillers = {"input_ids": self._pad, "attention_mask": 0, "labels": IGNORED}
        return {
            name: F.pad(tensor, (0, self._width(name, tensor.shape[1]) - tensor.shape[1]), value=fillers[name])
            for name, tensor in batch.items()
        }

    def _width(self, name: str, length: int) -> int:
        limit = self._limits[name]
        return rounded(length) if limit is None else max(length, min(rounded(length), limit))

    def _record(self, model: Any, batch: dict[str, Tensor], shape: tuple[int, ...]) -> None:
        """Record this shape; from the first that can't be recorded on, or comes out differently, all pass as ever."""
        if self._pool is None:
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        device, low = batch["input_ids"].device, torch.is_autocast_enabled("cuda")
        generator = torch.cuda.default_generators[device.index or 0]
        kept, drawn = generator.clone_state(), torch.cuda.get_rng_state(device)
        recording = None
        try:
            # Autocast's cache would keep a cast of a weight for the next pass, which has other weights.
            with torch.autocast("cuda", torch.get_autocast_dtype("cuda"), low, cache_enabled=False):
                recording = _Recording(model, self._up_to_head, batch, self._pool, self._stream)
                difference = recording.difference(model, self._up_to_head, batch)
            limit = AGREEMENT["bf16" if low else "fp32"]
            problem = "" if difference <= limit else f"it differs by {difference:.1e} from the plain pass"
        except RuntimeError as error:  # also of memory: without the recordings there may be enough
            problem = str(error).strip().splitlines()[0]
        if recording is None or problem:
            generator.graphsafe_set_state(kept)  # the other one believes that the recording goes on
            warn(f"no CUDA graph of a pass over {shape[0]} rows ({problem}): kernels are launched one by one")
            self.release()
        else:
            torch.cuda.set_rng_state(drawn, device)  # what was drawn here is not missing from the run
            self._recorded[shape] = recording


class _Recording:
    """One shape: the tensors that stay where they are, and the two graphs."""

    def __init__(self, model: Any, up_to_head: UpToHead, batch: dict[str, Tensor], pool: Any, stream: Any):
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._batch = {name: tensor.clone() for name, tensor in batch.items()}
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        torch.cuda.empty_cache()  # a recording takes its memory from the device, not from what PyTorch holds ready
        with torch.cuda.stream(stream):
            hidden = up_to_head(model, self._batch)  # libraries set themselves up for a stream, which can't be recorded
            torch.autograd.grad(hidden, self.weights, torch.zeros_like(hidden))
            self._gradient = torch.zeros_like(hidden)
            del hidden
            with _recorded(self._forward, pool):
                hidden = up_to_head(model, self._batch)
            with _recorded(self._backward, pool):
                self._gradients = _flat(torch.autograd.grad(hidden, self.weights, self._gradient))
        torch.cuda.current_stream().wait_stream(stream)
        # No more than the values: what lies between the two graphs is free for other recordings, which are never in
        # the middle of a pass while this one is.
        self._hidden = hidden.detach()

    def play(self, batch: dict[str, Tensor]) -> Tensor:
        """The hidden states of a batch of this shape; their backward pass is the other graph."""
        for name, tensor in batch.items():
            self._batch[name].copy_(tensor)
        return _Played.apply(self, *self.weights)

    def difference(self, model: Any, up_to_head: UpToHead, batch: dict[str, Tensor]) -> float:
        """The larger of the relative differences of hidden states and of gradients from a plain pass."""
        device = self._hidden.device
        # With nothing to mask transformers leaves the mask out, but not while it is recorded.
        mask = batch["attention_mask"].clone()
        mask[:, -1] = 0
        batch = {**batch, "attention_mask": mask}
        before = torch.cuda.get_rng_state(device)
        plain = up_to_head(model, batch)
        direction = torch.randn(plain.shape, generator=torch.Generator().manual_seed(0)).to(plain)
        expected = _flat(torch.autograd.grad(plain, self.weights, direction))
        torch.cuda.set_rng_state(before, device)
        played = self.play(batch)
        found = _flat(torch.autograd.grad(played, self.weights, direction))
        pairs = ((plain.detach().float(), played.detach().float()), (expected, found))
        # Python's max would pass over what is not a number.
        return float(torch.stack([(one - other).norm() / one.norm().clamp_min(1e-30) for one, other in pairs]).max())

    def forward(self) -> Tensor:
        self._forward.replay()
        return self._hidden.clone()

    def backward(self, gradient: Tensor) -> list[Tensor]:
        self._gradient.copy_(gradient)
        self._backward.replay()
        parts = self._gradients.clone().split([weight.numel() for weight in self.weights])
        return [part.view_as(weight) for part, weight in zip(parts, self.weights, strict=True)]


class _Played(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recording: _Recording, *weights: Tensor) -> Tensor:
        ctx.recording = recording
        return recording.forward()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.recording.backward(gradients[0])


@contextmanager
def _recorded(graph: Any, pool: Any) -> Iterator[None]:
    """What is launched inside becomes ``graph``. (``torch.cuda.graph`` collects Python's garbage each time.)"""
    torch.cuda.synchronize()
    graph.capture_begin(pool=pool)
    try:
        yield
    except BaseException:
        with suppress(RuntimeError):  # it says only that something went wrong before
            graph.capture_end()
        raise
    graph.capture_end()


def _flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
