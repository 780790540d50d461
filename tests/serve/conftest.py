"""Models to serve, and a server with the usual knobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving_help import Served, serving


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_t5: Path, rows_file: Path) -> list[str]:
    """A run of ours and a copy of its adapter with other weights, as plain PEFT would leave it."""
    import torch
    from safetensors.torch import load_file, save_file

    import seqtune

    folder = tmp_path_factory.mktemp("served")
    run = seqtune.finetune(
        rows_file,
        model_id=str(tiny_t5),
        out=folder / "run",
        max_steps=3,
        max_new_tokens=8,
        bootstrap_samples=100,
        device_type="cpu",
    )
    other = folder / "other"
    other.mkdir()
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(tiny_t5)}))
    weights = load_file(run.adapter / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(1)
    drawn = {name: torch.randn(each.shape, generator=generator) for name, each in weights.items()}
    save_file(drawn, other / "adapter_model.safetensors")
    return [str(run.path), str(other)]


@pytest.fixture(scope="session")
def shelf(runs: list[str]) -> Any:
    """The models of the runs, loaded once."""
    from seqtune.serve.shelf import Shelf

    return Shelf.filled(runs, "cpu")


@pytest.fixture(scope="session")
def served(shelf: Any) -> Iterator[Served]:
    """A server with the usual knobs."""
    with serving(shelf) as server:
        yield server
