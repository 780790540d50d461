"""Memory: what a pass holds between its forward and its backward, and what to say when there is no room for it.

Not covered: what the operating system does by itself. Where Linux promises more memory than there is, it ends a process
without a word when the promise falls due; the checkpoint is whole then too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psutil
import torch
from torch import Tensor

from seqtune.engine import batching, loss
from seqtune.errors import RunError, is_out_of_memory


def saved_bytes(model: Any, batch: dict[str, Tensor], forward: loss.Forward) -> int:
    """Bytes that the forward pass of a batch keeps for its backward pass, each storage counted once.

    Weights and the batch itself are not counted: they are there anyway.
    """
    there = {weight.untyped_storage().data_ptr() for weight in (*model.parameters(), *model.buffers())}
    there |= {tensor.untyped_storage().data_ptr() for tensor in batch.values()}
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = forward(model, batch)  # alive until it is counted, so that no place is counted for two tensors
        total = sum(held.values())
    del kept
    return total


def needed_by(
    model: Any, rows: Sequence[dict[str, Any]], all_rows: Sequence[dict[str, Any]], pad_token_id: int, forward: Any
) -> int | None:
    """About how many bytes a pass over ``rows`` keeps: the shortest of all rows measured, scaled by padded tokens.

    Attention without a kernel of its own grows faster than the tokens do, so that this is rather too little than too
    much.

    Returns:
        None where there is no memory left even for that row.
    """
    shortest = min(all_rows, key=_tokens)
    device = next(model.parameters()).device
    try:
        one = saved_bytes(model, batching.collate([shortest], pad_token_id, device), forward)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
    widths = max(len(row["input_ids"]) for row in rows) + max(len(row["labels"]) for row in rows)
    return one * widths * len(rows) // _tokens(shortest)


def out_of_memory(
    step: int, rows: Sequence[dict[str, Any]], rows_per_pass: int, needed: int | None, device: torch.device
) -> RunError:
    """The error for a pass that found no room: what was being done, how much it needs, the two knobs that help.

    Args:
        step: of training, counted from 1.
        rows: of the pass.
        rows_per_pass: the most rows that a pass may have now.
        needed: from `needed_by`.
        device: where it was.
    """
    source, target = (max(len(row[name]) for row in rows) for name in ("input_ids", "labels"))
    headline = f"out of memory in step {step} of training"
    noun = "row" if len(rows) == 1 else "rows"
    details = [f"the pass: {len(rows)} {noun}, the longest with {source:,} source and {target:,} target tokens"]
    if needed is not None:
        details.append(f"it keeps about {needed / 2**30:.2g} GiB between forward and backward (estimated from one row)")
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    details.append(f"the {'GPU' if on_gpu else 'machine'} has {free / 2**30:.2g} GiB free now")
    shorter = "a smaller --max-source-length or --max-target-length"
    if len(rows) == 1:
        return RunError(headline, details, f"Already one row a pass: try {shorter}, or a smaller model.")
    fewer = (
        f"a smaller --per-device-train-batch-size (now {rows_per_pass}; --gradient-accumulation-steps makes up for it)"
    )
    return RunError(headline, details, f"Try {fewer}, or {shorter}. --auto-batch halves the rows by itself.")


def _tokens(row: dict[str, Any]) -> int:
    return len(row["input_ids"]) + len(row["labels"])
