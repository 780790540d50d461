"""Nodes in the place of the dataflow's own, where no device holds the whole base model (`shard_base`)."""

from __future__ import annotations

import torch
from hamilton.function_modifiers import cache
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqtune.models import loading, pieces
from seqtune.models.loading import BaseCheckpoint


@cache(behavior="recompute", format="live")
def base_model(base_checkpoint: BaseCheckpoint, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The base model as it was downloaded, in the machine's memory: the answers come from there, on its processor."""
    return pieces.make_room(loading.load_model(base_checkpoint, torch.device("cpu")), pieces.ids_of(tokenizer))
