"""`seqtune demo`: the embedded base model, the example data, no network, a few minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: What suits a model of a few million parameters and a thousand rows: adapters everywhere, more epochs.
SETTINGS: dict[str, Any] = {
    "input_text_key": "question",
    "output_text_key": "reply",
    "model_id": "seqtune-mini",
    "target_modules": "all-linear",
    "lora_r": 16,
    "lora_dropout": 0.0,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "linear",
    "num_train_epochs": 8.0,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 64,
    "report_text": "all",  # the example data are nobody's secret
}


def example_data() -> Path:
    """The example data: in the installed package, or in a checkout's ``examples/``."""
    installed = Path(__file__).parent / "examples" / "support.json"
    return installed if installed.is_file() else Path(__file__).parents[2] / "examples" / "support.json"


def three_answers(predictions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The tuned model's best, middle and worst answer by ROUGE-L: not chosen to please."""
    ordered = sorted(predictions, key=lambda row: (-row["scores"]["tuned"]["rougeL"], row["row"]))
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
