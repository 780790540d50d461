"""Tuned models to be exported, each made once."""

from __future__ import annotations

from pathlib import Path

import pytest

import seqtune
from exporting_help import Run
from tiny_models import tiny
from tiny_sentencepiece import tiny_with_sentencepiece


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory, rows_file: Path) -> Run:
    """The directory of a run of a few large steps on a tiny model of the family, or on one with T5's own tokenizer."""
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp("exported")
            made[family] = folder / "run"
            base = folder / "base"
            model = tiny_with_sentencepiece(base) if family == "sentencepiece" else tiny(family, base)
            seqtune.finetune(
                rows_file, model_id=str(model), out=made[family], max_steps=4,
                learning_rate=3e-2, max_new_tokens=9, device_type="cpu", bootstrap_samples=100,
            )  # fmt: skip
        return made[family]

    return of


@pytest.fixture(scope="session")
def mini_run(tmp_path_factory: pytest.TempPathFactory, rows_file: Path) -> Path:
    """The directory of a run of three steps on seqtune-mini."""
    out = tmp_path_factory.mktemp("mini") / "run"
    seqtune.finetune(
        rows_file, model_id="seqtune-mini", out=out, max_steps=3, max_new_tokens=12, device_type="cpu",
        bootstrap_samples=100,
    )  # fmt: skip
    return out
