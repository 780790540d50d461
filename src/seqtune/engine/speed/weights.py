"""bf16 products: the frozen weights cast once, the rest of the model as it was."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel


@contextmanager
def bf16_weights(model: PreTrainedModel, but: Collection[int] = ()) -> Iterator[None]:
    """The frozen weights of linear layers in bf16, for a model that runs under autocast; put back afterwards.

    Autocast alone casts every frozen weight again at every call. The adapter's weights, embeddings and norms keep
    their dtype, and so does the residual stream.

    Args:
        model: the model.
        but: ids of modules that have their weights from elsewhere.
    """
    cast: dict[int, nn.Parameter] = {}
    changed: list[tuple[nn.Linear, str, nn.Parameter]] = []
    head = model.get_output_embeddings()
    with ExitStack() as stack:
        stack.callback(lambda: [setattr(module, name, own) for module, name, own in changed])
        for module in model.modules():
            if not isinstance(module, nn.Linear) or id(module) in but:
                continue
            for name, own in list(module.named_parameters(recurse=False)):
                if own.requires_grad or own.dtype != torch.float32:
                    continue
                if id(own) not in cast:  # one copy of a weight that several layers share
                    low = own.detach().to(torch.bfloat16)
                    if module is head:  # transposed in memory, oneDNN's product with it is a quarter faster
                        low = low.t().contiguous().t()
                    cast[id(own)] = nn.Parameter(low, requires_grad=False)
                setattr(module, name, cast[id(own)])
                changed.append((module, name, own))
        yield
