"""A decoder's step as one call into native code (``engine/speed/c/decoder.c``), in fp32 or bf16.

At this size it is Python and small tensors that make a step slow, not arithmetic: transformers takes 40 ms for a token
of a FLAN-T5 small, of which the products are 3. Here the weights are packed once, a step is one call, and each row has
keys and values of its own, so that rows can come and go at any step.

Sums are taken in the same order however many rows there are: a row's logits do not depend on its company, bit for bit
(given the encoder's states).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seqtune.engine.speed import linear, native
from seqtune.generation.blueprint import Blueprint, Dense, Norm

#: Columns of a panel of a packed weight, and what sizes are filled up to (few_rows.h).
PANEL = 32

#: Activations that decoder.c knows, by transformers' names, and their numbers.
ACTIVATIONS = {"relu": 0, "gelu_new": 1, "gelu_pytorch_tanh": 1, "gelu": 2, "silu": 3, "swish": 3}

#: Tokens of questions whose keys and values are computed in one product.
TOKENS = 1024

#: Number of the field of a row (decoder.c) that counts its tokens.
AT = 4


def can_run(blueprint: Blueprint, precision: str) -> bool:
    """Whether there is native code for this decoder on this machine: compiled, on the CPU, with units for bf16."""
    if blueprint.embedding.device.type != "cpu" or blueprint.activation not in ACTIVATIONS:
        return False
    return linear.there() if precision == "bf16" else native.kernels() is not None


@dataclass(eq=False)
class _Row:
    """A row, or a beam of one: what decoder.c calls a row, with the tensors that its pointers point to."""

    cache: Tensor
    beams: int
    beam: int
    longest: int
    memory: Tensor
    source: int
    order: Tensor | None


class Weights:
    """The weights of a blueprint, packed for the native code; one set serves any number of decoders.

    Args:
        blueprint: of a model on the CPU.
        precision: of weights, keys and values; sums are fp32 in either.
    """

    def __init__(self, blueprint: Blueprint, precision: str):
        self.layers, self.hidden = len(blueprint.layers), blueprint.layers[0].down.weight.shape[1]
        self.vocabulary = blueprint.head.weight.shape[0]
        #: The rest of the blueprint: what stands in front of the layers.
        self.plan = replace(blueprint, layers=[], head=Dense(torch.empty(0, 0)))
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.end = native.suffix(torch.empty(0, dtype=self.dtype))
        linear.there()  # asks the processor for its units, once
        self._alive: list[Tensor] = []  # what the descriptions below point to
        layers = [self._layer(layer) for layer in blueprint.layers]
        self._layers = torch.tensor([field for layer in layers for field in layer], dtype=torch.int64)
        remembered = [layer.memory for layer in blueprint.layers]
        weight = torch.cat([dense.weight for dense in remembered])
        bias = None if remembered[0].bias is None else torch.cat([d.bias for d in remembered if d.bias is not None])
        self.memory = torch.tensor(self._dense(Dense(weight, bias)), dtype=torch.int64)
        head = self._dense(blueprint.head)
        reach = next((layer.distance.shape[1] for layer in blueprint.layers if layer.distance is not None), 0)
        sizes = [len(layers), blueprint.width, blueprint.heads, blueprint.head_size, blueprint.inner, reach]
        kinds = [int(blueprint.before), int(blueprint.gated), ACTIVATIONS[blueprint.activation]]
        numbers = [_bits(blueprint.eps), _bits(blueprint.scale)]
        fields = [self._layers.data_ptr(), *sizes, *kinds, *numbers, *self._norm(blueprint.last), *head]
        self.decoder = torch.tensor(fields, dtype=torch.int64)

    def _layer(self, layer: Any) -> list[int]:
        fields = [field for norm in layer.norms for field in self._norm(norm)]
        for dense in (layer.own, layer.own_out, layer.query, layer.other_out, layer.up, layer.down):
            fields += self._dense(dense)
        return [*fields, self._pointer(layer.distance)]

    def _norm(self, norm: Norm | None) -> list[int]:
        return [0, 0] if norm is None else [self._pointer(norm.weight), self._pointer(norm.bias)]

    def _dense(self, dense: Dense) -> list[int]:
        N, K = dense.weight.shape
        return [self._pointer(packed(dense.weight, self.dtype)), self._pointer(dense.bias), N, K]

    def _pointer(self, tensor: Tensor | None) -> int:
        if tensor is None:
            return 0
        self._alive.append(tensor.contiguous())
        return self._alive[-1].data_ptr()


class CompiledDecoder:
    """A decoder, and the rows it is at work on.

    Args:
        weights: its own.
    """

    def __init__(self, weights: Weights):
        self._weights, self._plan, self._dtype = weights, weights.plan, weights.dtype
        self._widest = max(3 * weights.plan.inner, weights.hidden * (1 + weights.plan.gated))
        self._rows: list[_Row] = []
        self._table = torch.empty(0, 7, dtype=torch.int64)
        self._capacity = self._longest = 0

    def __len__(self) -> int:
        return len(self._rows)

    def join(self, states: Sequence[Tensor], limits: Sequence[int], beams: int) -> None:
        """Take rows in, behind those that are there.

        Args:
            states: the encoder's of each row, [tokens, width].
            limits: how many tokens each row may get.
            beams: of each row; they follow one another.
        """
        plan, fresh = self._plan, []
        for state, memory, longest in zip(states, self._memories(states), limits, strict=True):
            sizes = (beams, self._weights.layers, 2, plan.heads, longest, plan.head_size)
            cache = torch.empty(sizes, dtype=self._dtype)
            order = torch.zeros(beams, longest, dtype=torch.int32) if beams > 1 else None
            for beam in range(beams):
                own = None if order is None else order[beam]
                fresh.append(_Row(cache, beams, beam, longest, memory, len(state), own))
        self._rows += fresh
        self._table = torch.cat([self._table, torch.tensor([_fields(row) for row in fresh], dtype=torch.int64)])
        self._make_room()

    def step(self, tokens: Tensor) -> Tensor:
        """The logits [rows, vocabulary] behind these tokens [rows], one of each row; every row is a token longer."""
        self._x[: len(tokens)] = self._plan.embed(tokens, self._table[:, AT])
        weights = self._weights
        logits = torch.empty(len(tokens), weights.vocabulary)
        native.call("decoder_step_" + weights.end, weights.decoder, self._table, self._room, logits, len(tokens))
        return logits

    def leave(self, kept: Sequence[int]) -> None:
        """Go on with these rows alone, in this order; beams of a row stay together."""
        self._rows = [self._rows[row] for row in kept]
        self._table = self._table[list(kept)]

    def reorder(self, first: int, parents: Sequence[int]) -> None:
        """Beam i of the row that begins at ``first`` goes on where its beam ``parents[i]`` was."""
        rows = self._rows[first : first + len(parents)]
        at = int(self._table[first, AT])
        before = torch.stack([rows[parent].order[:at] for parent in parents])  # pyright: ignore[reportOptionalSubscript]
        for row, order in zip(rows, before, strict=True):
            row.order[:at] = order  # pyright: ignore[reportOptionalSubscript]

    def _memories(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Keys and values of the encoder's states, of each row [layers, 2, heads, tokens, size]."""
        plan, found, part = self._plan, [], []
        for index, state in enumerate(states):
            part.append(state)
            if index + 1 < len(states) and sum(map(len, part)) + len(states[index + 1]) <= TOKENS:
                continue
            rows = sum(map(len, part))
            x = torch.zeros(_up(rows), _up(plan.width), dtype=self._dtype)
            x[:rows, : plan.width] = torch.cat(part)
            y = torch.empty(rows, self._weights.layers * 2 * plan.inner)
            native.call("dense_rows_" + self._weights.end, self._weights.memory, x, y, rows)
            for each in y.split([len(state) for state in part]):
                entries = each.view(len(each), self._weights.layers, 2, plan.heads, plan.head_size)
                entries = entries.permute(1, 2, 3, 0, 4)
                found.append(entries.to(self._dtype).contiguous())
            part = []
        return found

    def _make_room(self) -> None:
        """Room for the states of all rows, and for a thread's scores."""
        longest = max(max(row.longest, row.source) for row in self._rows)
        if len(self._rows) <= self._capacity and longest <= self._longest:
            return
        plan = self._plan
        rows = self._capacity = _up(max(len(self._rows), self._capacity))
        self._longest = max(longest, self._longest)
        self._x, wide = torch.zeros(rows, plan.width), torch.zeros(rows, self._widest)
        normed, attended, gated = (
            torch.zeros(rows, _up(size), dtype=self._dtype) for size in (plan.width, plan.inner, self._weights.hidden)
        )
        scores = torch.zeros(torch.get_num_threads(), self._longest)
        self._parts = [self._x, wide, normed, attended, gated, scores]
        pointers = [part.data_ptr() for part in self._parts]
        self._room = torch.tensor([*pointers, self._widest, self._longest], dtype=torch.int64)


def packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """W [N, K] as few_rows.h takes it: fp32 [panel][K][32], bf16 [panel][K / 2][32][2] with K filled up to 32s."""
    N, K = weight.shape
    if dtype == torch.float32:
        whole = torch.nn.functional.pad(weight, (0, 0, 0, -N % PANEL))
        return whole.view(-1, PANEL, K).transpose(1, 2).contiguous()
    whole = torch.nn.functional.pad(weight.bfloat16(), (0, -K % PANEL, 0, -N % PANEL))
    return whole.view(-1, PANEL, whole.shape[1] // 2, 2).transpose(1, 2).contiguous()


def _fields(row: _Row) -> list[int]:
    order = 0 if row.order is None else row.order.data_ptr()
    return [row.cache.data_ptr(), order, row.beam, row.longest, 0, row.memory.data_ptr(), row.source]


def _up(size: int) -> int:
    return -(-size // PANEL) * PANEL


def _bits(number: float) -> int:
    return struct.unpack("<q", struct.pack("<d", number))[0]
