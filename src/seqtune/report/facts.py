"""What is known of a run before it is finished: results of its nodes, and what a manifest could say of them.

They are written down when training begins (all of the data is known by then), so that the page of a run that was
stopped, failed or was killed tells of its data too. The file goes with the checkpoints when the run is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hamilton.lifecycle import NodeExecutionHook

from seqtune import run
from seqtune.engine import hardware
from seqtune.settings import knobs

#: In the folder of the checkpoints.
KEPT = "facts.json"

#: The node before which all that is told of the data has been found out.
TRAINING = "trained_adapter"

#: Nodes that hold settings.
_SETTINGS = (
    "data_settings",
    "tokenization_settings",
    "training_settings",
    "lora_settings",
    "evaluation_settings",
)

#: Nodes whose results a page can be made of.
WANTED = frozenset(
    {
        *_SETTINGS,
        "versions",
        "device",
        "data_sources",
        "data_findings",
        "train_set",
        "validation_set",
        "hold_out_set",
        "split_warnings",
        "base_checkpoint",
        "training_lengths",
        "length_limits",
        "compute_precision",
        "derived_settings",
        "data_report",
        "manifest",
    }
)


class Keeping(NodeExecutionHook):
    """An adapter for a driver: writes down what is known when training begins.

    Args:
        folder: of the checkpoints.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.facts: dict[str, Any] = {}

    def run_before_node_execution(self, *, node_name: str, **_: Any) -> None:
        """Write before the training."""
        if node_name == TRAINING:
            run.write_json(self.folder / KEPT, manifest(self.facts))

    def run_after_node_execution(self, *, node_name: str, result: Any, success: bool, **_: Any) -> None:
        """Keep a node's result."""
        if success and node_name in WANTED:
            self.facts[node_name] = result


def manifest(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What of a manifest can be said before there is one; the manifest itself once it is there.

    Args:
        facts: results of nodes by name, as far as they are there.
    """
    if "manifest" in facts:
        return facts["manifest"]
    known = {n: v for group in _SETTINGS for n, v in (facts.get(group) or {}).items() if n in knobs()}
    limits: Mapping[str, Any] = facts.get("length_limits") or {}
    derived: dict[str, Any] = facts.get("derived_settings") or {
        **{f"max_{side}_length": limit for side, limit in limits.items()},
        **({"precision": facts["compute_precision"]} if "compute_precision" in facts else {}),
    }
    in_effect = {n: derived[n]["value"] for n in derived if n in known and n != "target_modules"}
    sets = {name: facts.get(f"{name}_set") for name in ("train", "validation", "hold_out")}
    data = facts.get("data_report") or {
        "sources": facts.get("data_sources"),
        "splits": {name: len(rows) for name, rows in sets.items() if rows is not None},
        "warnings": facts.get("split_warnings"),
        "training_lengths": facts.get("training_lengths"),
        "findings": facts.get("data_findings"),
    }
    base, device = facts.get("base_checkpoint"), facts.get("device")
    return {
        "settings": {**known, **in_effect},
        "derived": derived,
        "data": data,
        "base_model": base.as_dict() if base is not None else {},
        "versions": facts.get("versions"),
        "machine": hardware.describe(device) if device is not None else {},
    }
