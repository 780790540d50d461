"""A base model in 4 bits, with an adapter in full precision over it (QLoRA: Dettmers et al. 2023, arXiv 2305.14314).

The weights of the linear layers are kept as NF4, the 16 values that split a normal distribution evenly (section 3 of
the paper), each times the scale of its block of 64; the scales are quantized too ("double quantization"). That makes
4.127 bits a weight. Embeddings, output layer and norms stay as they are, and so does what transformers keeps in fp32
(T5's ``wo``). bitsandbytes does the arithmetic: it unpacks a layer where it is multiplied by.

A model in 4 bits *answers* in 4 bits, with the adapter beside its layers: that is what was trained, and it needs no
more memory than training did. `written_out` gives the same weights as fp32, for exports and for merging.

Not covered: Apple's GPUs, several processes; both are refused, for they were not tried.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from seqtune.errors import InputError
from seqtune.models.sharing import shared_copy
from seqtune.progress import say

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

#: Why the plain engine trains a base in 4 bits.
REASON = "the fast engine reads weights as fp32 or bf16, not in 4 bits"

#: The same base in plain transformers, for code that is shown.
IN_TRANSFORMERS = 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)'


def check(given: Mapping[str, Any]) -> None:
    """Refuse ``load_in_4bit`` where it can't be done; imports nothing heavy.

    Args:
        given: settings that were given, defaults left out.

    Raises:
        InputError: bitsandbytes is not installed, or the fast engine was asked for.
    """
    if not given.get("load_in_4bit"):
        return
    if given.get("engine") == "fast":
        raise InputError(
            "engine = fast   has no use with load_in_4bit", [REASON], "Leave --engine out, or --load-in-4bit."
        )
    if given.get("device_type") == "mps":
        raise InputError(
            "device_type = mps   4 bits were not tried on Apple's GPUs", mend="Leave --load-in-4bit out, or take cpu."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("load_in_4bit needs bitsandbytes", mend="pip install 'seqtune[qlora]'")


def options(device: torch.device) -> dict[str, Any]:
    """What transformers' ``from_pretrained`` is told, so that the weights are quantized as they are read.

    Raises:
        InputError: as `check`.
    """
    import torch
    from transformers import BitsAndBytesConfig

    check({"load_in_4bit": True, "device_type": device.type})
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    # By its number: accelerate refuses to train on "cuda" what was loaded onto "cuda" without one.
    place: Any = "cpu" if device.type == "cpu" else device.index or 0
    return {"quantization_config": config, "device_map": {"": place}}


def is_quantized(model: nn.Module) -> bool:
    """Whether any weight of the model is in 4 bits."""
    return any(getattr(weight, "quant_state", None) is not None for weight in model.parameters())


def settled(model: PreTrainedModel) -> PreTrainedModel:
    """The model made safe from what bitsandbytes 0.50 does on a CPU. Changes the model, and returns it.

    On a processor with bf16 units it repacks a layer the first time it answers: with scales rounded to bf16, for good,
    and in a form that no gradient flows through. An answer would change what is trained after it; so it must not.

    And where the inputs of a layer are no multiple of a block, it unpacks with the scales of other blocks: packing
    counts blocks through the rows, unpacking from the start of each.

    Raises:
        InputError: the model has such layers.
    """
    odd = []
    for name, layer in _layers(model):
        layer.support_avx512bf16_for_cpu = False
        if layer.weight.device.type == "cpu" and layer.in_features % layer.weight.blocksize:
            odd.append(f"{name}   {layer.in_features} inputs")
    if odd:
        more = [f"and {len(odd) - 5} more"] if len(odd) > 5 else []
        raise InputError(
            "load_in_4bit = yes   on a CPU bitsandbytes unpacks wrongly what is no multiple of 64 wide",
            [*odd[:5], *more],
            "Leave --load-in-4bit out, or use a GPU.",
        )
    return model


def compute_in(model: nn.Module, precision: str) -> None:
    """Let 4-bit layers of this model, if any, unpack to, and multiply in, ``fp32`` or ``bf16``; fp32 unless told."""
    import torch

    for _, layer in _layers(model):
        layer.compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32


def written_out(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its 4-bit weights written out as fp32: plain layers of the same values. It stays as it is."""
    import torch

    plain: Any = shared_copy(model)
    plain.dequantize(dtype=torch.float32)
    plain.is_loaded_in_4bit = False
    return plain.requires_grad_(False).eval()


def size(weight: torch.Tensor) -> int:
    """The number of values of a weight; in 4 bits two of them lie in a byte."""
    state: Any = getattr(weight, "quant_state", None)
    return weight.numel() if state is None else state.shape.numel()


def with_plain_engine(training: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of training as they are for a base in 4 bits. They tell the loop, which does not look by itself."""
    say(f"engine: reference ({REASON})")
    return {**training, "engine": "reference"}


def derived() -> dict[str, dict[str, Any]]:
    """The engine with its reason."""
    return {"engine": {"value": "reference", "reason": REASON}}


def _layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Names and layers. (A layer of PEFT's passes on the weight of the one inside it, which is found by itself.)"""
    return [
        (name, module)
        for name, module in model.named_modules()
        if getattr(getattr(module, "weight", None), "quant_state", None) is not None
        and hasattr(module, "compute_dtype")
    ]
