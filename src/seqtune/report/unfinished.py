"""What is known of a run that is not finished: what was found before training, the log to its newest checkpoint.

Only JSON is read: no model and no tensor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seqtune import run
from seqtune.errors import InputError
from seqtune.report import facts
from seqtune.settings import DEFAULT

#: In a checkpoint's folder (see `seqtune.engine.checkpoint`).
STATE = "state.json"


def read(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Manifest and log of the unfinished run at ``path``, as far as they are known.

    Raises:
        InputError: no run was begun there, what it was begun with can't be read, or no checkpoint was made yet.
    """
    folder = Path(path) / run.CHECKPOINTS
    inputs = folder / run.INPUTS
    try:
        given = json.loads(inputs.read_text(encoding="utf-8"))["inputs"]
    except FileNotFoundError:
        raise InputError(f"{path}: no run, finished or not", mend="`seqtune finetune` makes one.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{inputs}: damaged ({error})", mend="Start the run's own command again.") from None
    state = _newest_state(folder)
    if not state:
        raise InputError(
            f"{path}: nothing of this run is saved yet", mend="Its first checkpoint makes a report possible."
        )
    log = state.get("log") or []
    made_of = state["made_of"]
    versions = {name.removeprefix("version of "): v for name, v in made_of.items() if name.startswith("version of ")}
    known = _facts(folder / facts.KEPT)
    manifest = {
        "data": {"sources": {"data": {"path": given.get("data_path")}}},
        "base_model": {"model_id": made_of.get("base model")},
        "versions": versions,
        **known,
        "settings": {**_defaults(), **given, **known.get("settings", {})},
        "training": {
            **{name: state.get(name) for name in ("best_step", "tokens", "seconds", "resumed_at", "changes")},
            "steps": state.get("step"),
            "epochs": log[-1].get("epoch") if log else None,
        },
    }
    return manifest, log


def _facts(path: Path) -> dict[str, Any]:
    """What `facts.Keeping` wrote down; empty where it did not, or where that is damaged: a page there is."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _newest_state(folder: Path) -> dict[str, Any]:
    """The state in the newest checkpoint that can be read; empty where there is none."""
    for place in sorted(folder.glob("step-*"), reverse=True):
        try:
            content = json.loads((place / STATE).read_text(encoding="utf-8"))
            return {**content["state"], "made_of": content["made_of"]}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half written or damaged: the one before it counts, as for `resume`
    return {}


def _defaults() -> dict[str, Any]:
    of_keeping = ("out", "overwrite", "work_dir", "checkpoints_path", "adapter_path")
    return {name: value for name, value in DEFAULT.model_dump().items() if name not in of_keeping}
