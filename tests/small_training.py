"""A tiny model of a family with rows that it can be trained on, for tests of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict

from seqtune.data import tokens
from seqtune.engine import hardware, loop
from seqtune.models import adapters, loading
from seqtune.settings import DEFAULT
from tiny_models import SENTENCES, tiny

CPU = torch.device("cpu")


class Setup:
    """A tiny model of a family and tokenized rows."""

    def __init__(self, family: str, folder: Path):
        checkpoint = loading.resolve(str(tiny(family, folder / family)))
        self.tokenizer = loading.load_tokenizer(checkpoint)
        self.base = loading.load_model(checkpoint, CPU)
        texts = [(SENTENCES[i % 10], SENTENCES[(3 * i + 1) % 10][: 20 + 3 * i]) for i in range(16)]
        self.rows = [
            {"input_ids": source, "labels": target}
            for source, target in zip(
                tokens.encode(self.tokenizer, [s for s, _ in texts]),
                tokens.encode_targets(self.tokenizer, [t for _, t in texts]),
                strict=True,
            )
        ]

    def adapted(self, **knobs: Any):
        with hardware.seeded(0, CPU):
            settings = {**DEFAULT.model_dump(), "lora_dropout": 0.0, **knobs}
            return adapters.attach(self.base, adapters.lora_config(self.base, "tiny", settings), "tiny")

    def train(self, model: Any, **knobs: Any) -> loop.TrainState:
        settings = {**DEFAULT.model_dump(), "learning_rate": 1e-2, "warmup_steps": 0, "engine": "reference", **knobs}
        with hardware.seeded(settings["random_state"], CPU):
            return loop.train(
                model, self.rows[:12], self.rows[12:], settings, device=CPU, precision="fp32", pad_token_id=0
            )


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: weight.clone() for name, weight in found.items()}


def without_dropout(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout", "dropout_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model
