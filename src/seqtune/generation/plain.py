"""A decoder's step in PyTorch alone: the same as `compiled`, on any device, where there is no compiler.

Shape suffixes: n rows (beams counted), L layers, T positions, S tokens of a question, H heads, D size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from seqtune.generation.blueprint import Blueprint, Dense, Norm


class PlainDecoder:
    """The decoder of a blueprint, and the rows it is at work on; the same methods as `compiled.CompiledDecoder`."""

    def __init__(self, blueprint: Blueprint, precision: str):
        self.blueprint = blueprint
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.device = blueprint.embedding.device
        self._activation = ACT2FN[blueprint.activation]
        self._cast: dict[int, Dense] = {}
        shape = (0, len(blueprint.layers), 2, 0, blueprint.inner)
        self._cache_nL2TI = torch.empty(shape, dtype=self.dtype, device=self.device)
        self._memory_nL2SI = torch.empty(shape, dtype=self.dtype, device=self.device)
        self._sources_n = torch.empty(0, dtype=torch.long, device=self.device)
        self._at_n = torch.empty(0, dtype=torch.long, device=self.device)

    def __len__(self) -> int:
        return len(self._at_n)

    def join(self, states: Sequence[Tensor], limits: Sequence[int], beams: int) -> None:
        """As `compiled.CompiledDecoder.join`."""
        layers, inner = len(self.blueprint.layers), self.blueprint.inner
        lengths = torch.tensor([len(state) for state in states], device=self.device)
        padded_nSE = nn.utils.rnn.pad_sequence([state.to(self.dtype) for state in states], batch_first=True)
        parts = [
            self._dense(layer.memory, padded_nSE).unflatten(-1, (2, inner)).transpose(1, 2)
            for layer in self.blueprint.layers
        ]
        memory_nL2SI = torch.stack(parts, 1).repeat_interleave(beams, 0)
        fresh = len(states) * beams
        self._memory_nL2SI = _grown(self._memory_nL2SI, memory_nL2SI)
        cache = torch.zeros(fresh, layers, 2, max(limits), inner, dtype=self.dtype, device=self.device)
        self._cache_nL2TI = _grown(self._cache_nL2TI, cache)
        self._sources_n = torch.cat([self._sources_n, lengths.repeat_interleave(beams)])
        self._at_n = torch.cat([self._at_n, self._at_n.new_zeros(fresh)])

    def step(self, tokens: Tensor) -> Tensor:
        """As `compiled.CompiledDecoder.step`."""
        plan, at_n = self.blueprint, self._at_n
        rows, until = torch.arange(len(at_n), device=self.device), int(at_n.max()) + 1
        back_nT = at_n[:, None] - torch.arange(until, device=self.device)
        unseen_n1T = (back_nT < 0)[:, None]
        sources = torch.arange(self._memory_nL2SI.shape[3], device=self.device)
        padding_n1S = (sources >= self._sources_n[:, None])[:, None]
        x = plan.embed(tokens.to(self.device), at_n)
        for index, layer in enumerate(plan.layers):
            h, x = normed(plan, layer.norms[0], x)
            q, k, v = self._dense(layer.own, h).chunk(3, -1)
            self._cache_nL2TI[rows, index, 0, at_n] = k
            self._cache_nL2TI[rows, index, 1, at_n] = v
            bias = None
            if layer.distance is not None:
                bias = layer.distance[:, back_nT.clamp(0, layer.distance.shape[1] - 1)].transpose(0, 1)
            entries = self._cache_nL2TI[:, index, :, :until]
            x = x + self._dense(layer.own_out, attended(plan, q, entries, unseen_n1T, bias)).float()
            h, x = normed(plan, layer.norms[1], x)
            entries = self._memory_nL2SI[:, index]
            found = attended(plan, self._dense(layer.query, h), entries, padding_n1S, None)
            x = x + self._dense(layer.other_out, found).float()
            h, x = normed(plan, layer.norms[2], x)
            up = self._dense(layer.up, h)
            if plan.gated:
                up, gate = up.chunk(2, -1)
                up = self._activation(up) * gate
            else:
                up = self._activation(up)
            x = x + self._dense(layer.down, up).float()
        h, _ = normed(plan, plan.last, x)
        self._at_n = at_n + 1
        return self._dense(plan.head, h).float()

    def leave(self, kept: Sequence[int]) -> None:
        """As `compiled.CompiledDecoder.leave`."""
        chosen = torch.tensor(list(kept), dtype=torch.long, device=self.device)
        self._cache_nL2TI, self._memory_nL2SI = self._cache_nL2TI[chosen], self._memory_nL2SI[chosen]
        self._sources_n, self._at_n = self._sources_n[chosen], self._at_n[chosen]

    def reorder(self, first: int, parents: Sequence[int]) -> None:
        """As `compiled.CompiledDecoder.reorder`."""
        chosen = torch.tensor(list(parents), dtype=torch.long, device=self.device) + first
        self._cache_nL2TI[first : first + len(parents)] = self._cache_nL2TI[chosen]

    def _dense(self, dense: Dense, x: Tensor) -> Tensor:
        if id(dense) not in self._cast:
            bias = None if dense.bias is None else dense.bias.to(self.dtype)
            self._cast[id(dense)] = Dense(dense.weight.to(self.dtype), bias)
        cast = self._cast[id(dense)]
        return nn.functional.linear(x.to(self.dtype), cast.weight, cast.bias)


def attended(
    plan: Blueprint, query: Tensor, entries_n2TI: Tensor, hidden_n1T: Tensor | None, bias_nHT: Tensor | None
) -> Tensor:
    """Of each row, the values that its query finds: [n, inner]."""
    heads = (plan.heads, plan.head_size)
    q_nHD = query.unflatten(-1, heads)
    keys_nTHD, values_nTHD = entries_n2TI.unflatten(-1, heads).unbind(1)
    scores_nHT = torch.einsum("nhd,nthd->nht", q_nHD, keys_nTHD).float() * plan.scale
    if bias_nHT is not None:
        scores_nHT = scores_nHT + bias_nHT
    if hidden_n1T is not None:
        scores_nHT = scores_nHT.masked_fill(hidden_n1T, -torch.inf)
    return torch.einsum("nht,nthd->nhd", scores_nHT.softmax(-1).to(query.dtype), values_nTHD).flatten(1)


def normed(plan: Blueprint, norm: Norm | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """What goes into the next part, and what its result is added to."""
    y = x
    if norm is not None and norm.bias is None:
        y = norm.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + plan.eps))
    elif norm is not None:
        y = nn.functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, plan.eps)
    return y, x if plan.before else y


def _grown(there_nL2TI: Tensor, fresh_nL2TI: Tensor) -> Tensor:
    """Both below each other, as long as the longer one needs."""
    longest = max(there_nL2TI.shape[3] if len(there_nL2TI) else 0, fresh_nL2TI.shape[3])
    parts = [
        nn.functional.pad(part, (0, 0, 0, longest - part.shape[3])) for part in (there_nL2TI, fresh_nL2TI) if len(part)
    ]
    return torch.cat(parts)
