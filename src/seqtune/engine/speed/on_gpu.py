"""The layers on a GPU: the same functions as the kernels for a CPU compute, put together from PyTorch's own.

transformers writes T5's norm and GELU out in a dozen operators, most of them in fp32 under autocast, and PEFT's adapter
casts to fp32 and back around each of its products. Here they are as few of PyTorch's kernels as there are, in the dtype
of the products; autograd does the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqtune.engine.speed.feed_forward import is_gated
from seqtune.engine.speed.lora import is_plain_lora
from seqtune.engine.speed.norms import is_rms_norm
from seqtune.engine.speed.patching import replaced_forward


@contextmanager
def norms(model: nn.Module, compute_dtype: torch.dtype) -> Iterator[None]:
    """T5's norms in one kernel and a cast: their output is in ``compute_dtype``, for all the products behind it."""

    def make(norm: Any) -> Any:
        def forward(hidden_states: Tensor) -> Tensor:
            # In fp32, by autocast's own rule for norms too.
            normed = F.rms_norm(hidden_states.float(), norm.weight.shape, norm.weight, norm.variance_epsilon)
            return normed.to(compute_dtype)

        return forward

    with replaced_forward([module for module in model.modules() if is_rms_norm(module)], make):
        yield


@contextmanager
def feed_forward(model: nn.Module) -> Iterator[None]:
    """T5's gated layers with GELU's tanh form as one kernel, in the dtype of the products."""

    def make(module: Any) -> Any:
        def forward(hidden_states: Tensor) -> Tensor:
            gelu = F.gelu(module.wi_0(hidden_states), approximate="tanh")
            return module.wo(module.dropout(gelu * module.wi_1(hidden_states)))

        return forward

    with replaced_forward([module for module in model.modules() if is_gated(module)], make):
        yield


@contextmanager
def lora(model: nn.Module, compute_dtype: torch.dtype) -> Iterator[None]:
    """Plain LoRA on linear layers in ``compute_dtype``: ``x Wᵀ + (dropout(x) Aᵀ) (scaling · B)ᵀ``. A, B stay fp32."""

    def make(layer: Any) -> Any:
        own = layer.forward
        (name,) = layer.active_adapters
        down, up, dropout = layer.lora_A[name], layer.lora_B[name], layer.lora_dropout[name]

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            base = layer.base_layer
            if args or kwargs or layer.disable_adapters or layer.merged or base.weight.dtype != compute_dtype:
                return own(x, *args, **kwargs)
            flat = x.to(compute_dtype).reshape(-1, x.shape[-1])
            h = F.linear(dropout(flat), down.weight.to(compute_dtype))
            scaled = (up.weight * layer.scaling[name]).to(compute_dtype)
            y = torch.addmm(base(flat), h, scaled.t())
            return y.view(*x.shape[:-1], y.shape[-1])

        return forward

    with replaced_forward([module for module in model.modules() if is_plain_lora(module)], make):
        yield


@contextmanager
def attention() -> Iterator[None]:
    """PyTorch's fused attention by its own kernels alone; put back afterwards.

    cuDNN's builds a plan for every shape that it meets, for milliseconds a layer, and each batch is another shape.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
