"""One set of weights under several module trees, and the digest that tells two sets of weights apart."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import nn

    Module = TypeVar("Module", bound=nn.Module)


def shared_copy(model: Module) -> Module:
    """A second module tree over the same storage: no weight is copied.

    Adapters can be injected into the copy, and the copy can be cast or moved, while the original's modules, dtypes and
    outputs stay as they were. Tied weights stay tied in the copy. All parameters of the copy are frozen.

    What writes *into* the storage reaches both (``weight.data += …``, which is what PEFT does when it merges an adapter
    in place): merge into a `copy.deepcopy` instead.
    """
    from torch import nn

    # deepcopy takes from the memo whatever it has already "copied": here each tensor's stand-in, by the tensor's id.
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        scales = getattr(parameter, "quant_state", None)
        if scales is None:
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        else:  # in 4 bits, with the scales of its blocks beside it (`quantized`)
            memo[id(parameter)], memo[id(scales)] = copy.copy(parameter), scales
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach()
    return _welcoming_peft(copy.deepcopy(model, memo))


def weights_sha256(model: nn.Module) -> str:
    """The SHA-256 of a model's names, shapes, dtypes, bytes and configuration: equal only for equal models.

    Where the model was loaded from, and by which version, does not count.
    """
    import torch

    digest = hashlib.sha256()
    config = getattr(model, "config", None)
    if config is not None:
        known = {key: value for key, value in config.to_diff_dict().items() if key not in _PROVENANCE}
        digest.update(json.dumps(known, sort_keys=True, default=str).encode())
    seen: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    for name, tensor in sorted(model.state_dict().items()):
        # A tied weight is hashed once and named twice: mT5's embedding alone is half a gigabyte.
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        first = seen.setdefault(place, name)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {first}\n".encode())
        if first == name and tensor.numel():
            # NumPy has no bfloat16: the bytes are read as bytes.
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(flat.numpy().data)
    return digest.hexdigest()


def _welcoming_peft(model: Module) -> Module:
    """Give the class of a model the private method that PEFT 0.21 expects of an encoder-decoder.

    PEFT sets it aside while it generates and puts it back afterwards; it does not call it. transformers 5.23 has
    renamed it, so that without this every adapter with ``task_type="SEQ_2_SEQ_LM"`` fails with an AttributeError.
    """
    expected = "_prepare_encoder_decoder_kwargs_for_generation"
    renamed = getattr(type(model), "_maybe_prepare_encoder_kwargs_for_generation", None)
    if renamed is not None and not hasattr(model, expected):
        setattr(type(model), expected, renamed)
    return model


_PROVENANCE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
