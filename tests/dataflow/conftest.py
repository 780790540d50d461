"""The inputs of a small run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def inputs(tiny_t5: Path, rows_file: Path, tmp_path: Path) -> dict[str, Any]:
    """Of a run of six steps on 40 rows."""
    return {
        "data_path": str(rows_file),
        "model_id": str(tiny_t5),
        "max_steps": 6,
        "learning_rate": 1e-2,
        "max_new_tokens": 8,
        "out": str(tmp_path / "run"),
        "work_dir": str(tmp_path / "work"),
    }
