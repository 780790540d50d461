"""The useful arithmetic of a LoRA step: what the mathematics asks for, of tokens that are no padding.

Frozen weights P take 2·P operations a token forward and 2·P for the gradient of the activations; they need no gradient
of their own. So, with S source and T target tokens of a row, r the rank and (d_in, d_out) the adapted layers:

    4·(P_encoder + P_cross_kv)·S  +  4·(P_decoder + P_head)·T  +  6·r·Σ(d_in + d_out)·tokens  +  attention

where LoRA's own weights take 2 forward, 2 for the activations and 2 for their own gradient, and attention of q queries
over k keys with heads of together d takes 12·q·k·d (two products forward, four backward); where it is causal, only the
keys up to the query count. The head's half that goes backward is counted whether it is made or sampled
(`seqtune.engine.speed.head`), so that a share of the machine's peak can be more than 1. Norms, activations, softmax and
dropout are not counted, nor is what is computed twice.
"""

from __future__ import annotations

from typing import Any

from peft.tuners.lora import Linear as LoraLinear
from torch import nn


def per_row(model: Any, source: int, target: int) -> float:
    """Operations of a forward and backward pass of one row.

    Args:
        model: with its adapter; encoder and decoder as transformers names them.
        source: source tokens.
        target: target tokens.
    """
    encoder, decoder, head = model.get_encoder(), model.get_decoder(), model.get_output_embeddings()
    total = 4.0 * head.weight.numel() * target
    width = model.config.d_model
    if hasattr(model.config, "d_kv"):
        width = model.config.d_kv * model.config.num_heads
    layers = 0
    for name, module in [*encoder.named_modules(), *(("decoder." + n, m) for n, m in decoder.named_modules())]:
        crosses = "EncDecAttention" in name or "encoder_attn" in name
        reads_source = not name.startswith("decoder.") or (
            crosses and name.split(".base_layer")[0].endswith(_KEY_VALUE)
        )
        tokens = source if reads_source else target
        if isinstance(module, LoraLinear):
            down = module.lora_A[module.active_adapters[0]].weight
            up = module.lora_B[module.active_adapters[0]].weight
            total += 6.0 * (down.numel() + up.numel()) * tokens
        elif isinstance(module, nn.Linear) and "lora_" not in name:
            total += 4.0 * module.weight.numel() * tokens
        layers += name.endswith(_SELF_ATTENTION)
    depth = model.config.num_hidden_layers
    causal = target * (target + 1) / 2
    return total + 12.0 * width * (depth * source**2 + (layers - depth) * (causal + target * source))


_KEY_VALUE = (".k", ".v", ".k_proj", ".v_proj")
_SELF_ATTENTION = ("SelfAttention", "self_attn")
