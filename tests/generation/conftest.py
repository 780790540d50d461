from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seqtune.data import tokens
from seqtune.models import families, loading
from tiny_models import SENTENCES, tiny


class Tiny:
    """A tiny model, its tokenizer and some questions; and what transformers answers, row by row."""

    def __init__(self, folder: Path):
        checkpoint = loading.resolve(str(folder))
        self.tokenizer = loading.load_tokenizer(checkpoint)
        self.model: Any = loading.load_model(checkpoint, torch.device("cpu"))
        self.sources = tokens.encode(self.tokenizer, SENTENCES)

    def by_transformers(self, **knobs: Any) -> list[list[int]]:
        options = {**families.generation_defaults(self.model, self.tokenizer), **knobs}
        with torch.inference_mode():
            return [self.model.generate(input_ids=torch.tensor([s]), **options)[0, 1:].tolist() for s in self.sources]


@pytest.fixture(scope="session")
def tiny_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    made: dict[str, Tiny] = {}

    def of(family: str) -> Tiny:
        if family not in made:
            made[family] = Tiny(tiny(family, tmp_path_factory.mktemp("tiny") / family))
        return made[family]

    return of
