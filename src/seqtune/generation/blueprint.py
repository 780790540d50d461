"""What a decoder is made of, read off a transformers model: the same few parts for T5's kind and for BART's.

A layer is three times "norm, something, add". Families differ in where the norms stand, in what they are, in whether
there are biases, gates, positions. Here all of it becomes one list of weights, which `compiled` and `plain` run.

Shape suffixes: N outputs, K inputs of a linear layer, H heads, R distances.

Not covered: the encoder, which runs as transformers has it; decoders other than those in `KINDS` (`draw` gives None).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Dense:
    """A linear layer: ``weight_NK`` and ``bias_N`` or None."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Norm:
    """``bias`` None: by the root mean square (T5); else by mean and variance."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        norms: in front of self-attention, cross-attention and feed-forward; None where there is none.
        own: query, key and value of self-attention, one below the other.
        memory: key and value of cross-attention, of the encoder's states.
        up: where ``gated``, the part with the activation and then the gate.
        distance: what is added to a score, by head and distance [H, R]; None where nothing is.
    """

    norms: tuple[Norm | None, Norm | None, Norm | None]
    own: Dense
    own_out: Dense
    query: Dense
    memory: Dense
    other_out: Dense
    up: Dense
    down: Dense
    distance: Tensor | None = None


@dataclass(frozen=True)
class Blueprint:
    """A decoder.

    Attributes:
        before: what goes into a part is normed (T5, mBART, Pegasus); else the sum itself is (BART).
        scale: factor of the attention's scores.
        embedding: of a token [V, width]; times ``embedding_scale``, plus ``positions`` (a row a position), then
            ``embedding_norm``.
        last: the norm in front of the head.
    """

    layers: list[Layer]
    last: Norm | None
    head: Dense
    heads: int
    head_size: int
    before: bool
    gated: bool
    activation: str
    eps: float
    scale: float
    embedding: Tensor
    embedding_scale: float = 1.0
    positions: Tensor | None = None
    embedding_norm: Norm | None = None

    @property
    def width(self) -> int:
        """Size of a token's state."""
        return self.embedding.shape[1]

    @property
    def inner(self) -> int:
        """Size of all heads together."""
        return self.heads * self.head_size

    def embed(self, tokens: Tensor, at: Tensor) -> Tensor:
        """The states [n, width] of these tokens [n] at these positions [n]."""
        x = self.embedding[tokens]
        if self.embedding_scale != 1.0:
            x = x * self.embedding_scale
        if self.positions is not None:
            x = x + self.positions[at]
        if self.embedding_norm is not None:
            norm = self.embedding_norm
            x = nn.functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, self.eps)
        return x


def draw(model: PreTrainedModel) -> Blueprint | None:
    """The blueprint of the model's decoder; None where it is of no kind that is known here."""
    draws = KINDS.get(type(model.get_decoder()).__name__)
    return draws(model) if draws else None


def _t5(model: Any) -> Blueprint:
    """T5, T5 v1.1, FLAN-T5, mT5, umT5, LongT5."""
    stack, config = model.get_decoder(), model.config
    scaled = getattr(config, "scale_decoder_outputs", False)
    if type(stack).__name__ == "UMT5Stack":
        scaled = config.tie_word_embeddings
    last = Norm(stack.final_layer_norm.weight.detach() * (model.model_dim**-0.5 if scaled else 1.0))
    layers, distance = [], None
    for block in stack.block:
        own, other, forward = block.layer
        attention, cross, dense = own.SelfAttention, other.EncDecAttention, forward.DenseReluDense
        if attention.has_relative_attention_bias:
            reach = attention.relative_attention_max_distance + 1
            with torch.no_grad():
                distance = attention.compute_bias(1, reach, past_seen_tokens=reach - 1)[0, :, 0].flip(1).contiguous()
        up = (dense.wi_0, dense.wi_1) if config.is_gated_act else (dense.wi,)
        layers.append(
            Layer(
                norms=(_norm(own.layer_norm), _norm(other.layer_norm), _norm(forward.layer_norm)),
                own=_stacked(attention.q, attention.k, attention.v),
                own_out=_stacked(attention.o),
                query=_stacked(cross.q),
                memory=_stacked(cross.k, cross.v),
                other_out=_stacked(cross.o),
                up=_stacked(*up),
                down=_stacked(dense.wo),
                distance=distance,
            )
        )
    return Blueprint(
        layers=layers,
        last=last,
        head=_stacked(model.get_output_embeddings()),
        heads=config.num_heads,
        head_size=config.d_kv,
        before=True,
        gated=config.is_gated_act,
        activation=config.dense_act_fn,
        eps=config.layer_norm_epsilon,
        scale=1.0,
        embedding=stack.embed_tokens.weight.detach(),
    )


def _bart(model: Any) -> Blueprint:
    """BART, mBART, Pegasus."""
    decoder, config = model.get_decoder(), model.config
    before = hasattr(decoder, "layer_norm")
    embedded = _norm(decoder.layernorm_embedding) if hasattr(decoder, "layernorm_embedding") else None
    layers: list[Layer] = []
    front = None if before else embedded  # without `before`, each norm is that of the sum before
    for layer in decoder.layers:
        own, other, last = (
            _norm(n) for n in (layer.self_attn_layer_norm, layer.encoder_attn_layer_norm, layer.final_layer_norm)
        )
        cross = layer.encoder_attn
        layers.append(
            Layer(
                norms=(own, other, last) if before else (front, own, other),
                own=_stacked(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                own_out=_stacked(layer.self_attn.out_proj),
                query=_stacked(cross.q_proj),
                memory=_stacked(cross.k_proj, cross.v_proj),
                other_out=_stacked(cross.out_proj),
                up=_stacked(layer.fc1),
                down=_stacked(layer.fc2),
            )
        )
        front = last
    size = config.d_model // config.decoder_attention_heads
    scale = getattr(decoder.embed_tokens, "embed_scale", None) or getattr(decoder, "embed_scale", 1.0)
    return Blueprint(
        layers=layers,
        last=_norm(decoder.layer_norm) if before else front,
        head=replace(_stacked(model.get_output_embeddings()), bias=model.final_logits_bias[0].detach()),
        heads=config.decoder_attention_heads,
        head_size=size,
        before=before,
        gated=False,
        activation=config.activation_function,
        eps=decoder.layers[0].final_layer_norm.eps,
        scale=size**-0.5,
        embedding=decoder.embed_tokens.weight.detach(),
        embedding_scale=float(scale),
        positions=decoder.embed_positions.weight.detach()[getattr(decoder.embed_positions, "offset", 0) :],
        embedding_norm=embedded if before else None,
    )


#: How the decoders are read, by the name of their class.
KINDS: dict[str, Callable[[Any], Blueprint]] = {
    **dict.fromkeys(("T5Stack", "MT5Stack", "UMT5Stack", "LongT5Stack"), _t5),
    **dict.fromkeys(("BartDecoder", "MBartDecoder", "PegasusDecoder"), _bart),
}


def _stacked(*layers: nn.Linear) -> Dense:
    weights = [layer.weight.detach().float() for layer in layers]
    biases = [layer.bias.detach().float() for layer in layers if layer.bias is not None]
    if len(weights) == 1:
        return Dense(weights[0], biases[0] if biases else None)
    return Dense(torch.cat(weights), torch.cat(biases) if biases else None)


def _norm(module: Any) -> Norm:
    bias = getattr(module, "bias", None)
    return Norm(module.weight.detach().float(), None if bias is None else bias.detach().float())
