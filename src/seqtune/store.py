"""Where a trained adapter lies between training and delivery, and the record of it that training returns.

Adapters are kept under the SHA-256 of their content: ``WORK_DIR/adapters/<sha256>/``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from seqtune.durable import cache_folder
from seqtune.engine import hardware
from seqtune.engine.speed import native
from seqtune.engine.state import TrainState
from seqtune.errors import InputError, RunError
from seqtune.models import adapters
from seqtune.models.loading import BaseCheckpoint
from seqtune.run import TrainedAdapter, adapter_sha256

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "apache-hamilton")


def keep(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    base_checkpoint: BaseCheckpoint,
    state: TrainState,
    work_dir: str | None,
) -> TrainedAdapter:
    """Write the adapter to the store, whole or not at all, and return the record of it.

    Raises:
        RunError: the store can't be written.
    """
    adapters_folder = (Path(work_dir) if work_dir else cache_folder()) / "adapters"
    try:
        adapters_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=adapters_folder, prefix=".partial-") as partial:
            written = Path(partial) / "adapter"
            adapters.save(model, tokenizer, written)
            sha256 = adapter_sha256(written)
            place = adapters_folder / sha256
            if place.exists():  # the same adapter was trained before; its files may be damaged, these are whole
                shutil.rmtree(place)
            written.rename(place)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{adapters_folder}: the trained adapter can't be written ({getattr(error, 'strerror', None) or error})",
            mend="Free some space, or name another place with --work-dir.",
        ) from None
    trainable, total = adapters.trainable_parameters(model)
    return TrainedAdapter(
        path=str(place),
        sha256=sha256,
        base_model_id=base_checkpoint.model_id,
        base_model_revision=base_checkpoint.revision,
        base_model_sha256=base_checkpoint.sha256,
        training={
            "steps": state.step,
            "epochs": state.log[-1]["epoch"],
            "best_step": state.best_step,
            "best_validation_loss": state.best_loss,
            "stopped_early": state.stopped_early,
            "tokens": state.tokens,
            "seconds": round(state.seconds, 3),
            "resumed_at": state.resumed_at,
            "changes": state.changes,
            "trainable_parameters": trainable,
            "parameters": total,
        },
        log=state.log,
    )


def made_of(
    rows: Mapping[str, Dataset],
    base_checkpoint: BaseCheckpoint,
    tokenizer: PreTrainedTokenizerBase,
    config: PeftConfig,
    training: Mapping[str, Any],
    precision: str,
    device: torch.device,
    versions: Mapping[str, str],
    stream: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a run must be made of to be the same run: plain values under the names that a person knows.

    Args:
        rows: tokenized, by the name of their split.
        base_checkpoint: of the base model.
        tokenizer: of the rows.
        config: of the adapter.
        training: the settings of training.
        precision: of training.
        device: of training.
        versions: as `versions`.
        stream: of `streaming.plan`, where the training rows are streamed.
    """
    adapter = {name: value for name, value in config.to_dict().items() if name not in _NOT_OF_THE_ADAPTER}
    machine = hardware.describe(device)
    streamed = {"streamed rows": json.dumps(stream, sort_keys=True, default=str)} if stream is not None else {}
    return {
        **{f"{split} rows": _rows_sha256(data) for split, data in rows.items()},
        **{name: hashlib.sha256(text.encode()).hexdigest() for name, text in streamed.items()},
        "base model": f"{base_checkpoint.stable_id} (sha256 {base_checkpoint.sha256})"
        + (", in 4 bits" if base_checkpoint.load_in_4bit else ""),
        "tokenizer": type(tokenizer).__name__ + f", {len(tokenizer):,} pieces",
        **{f"adapter's {name}": _plain(value) for name, value in sorted(adapter.items())},
        **{name: value for name, value in training.items() if name not in _NOT_OF_THE_TRAINING},
        "precision": precision,
        "device": device.type,
        **{f"version of {name}": version for name, version in versions.items()},
        **{f"version of {name}": machine[name] for name in ("python", "numpy")},
        "version of the kernels": "compiled" if native.kernels() is not None else "none",
        "threads": machine["threads"],
        "processor": f"{machine['name']}, {machine['cpu_capability']}",
    }


#: Of the settings of training: what says how it is fitted to the machine, not what comes out.
_NOT_OF_THE_TRAINING = ("auto_batch", "minutes", "max_steps_reason", "shard_base")

#: Of PEFT's configuration: what does not shape the adapter, or is named elsewhere.
_NOT_OF_THE_ADAPTER = ("base_model_name_or_path", "revision", "inference_mode", "runtime_config", "peft_version")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(sorted(value) if isinstance(value, set) else value, default=str))


def _rows_sha256(data: Dataset) -> str:
    digest = hashlib.sha256()
    for row in data:
        for name in ("input_ids", "labels"):
            ids = np.asarray(row[name], dtype=np.int64)  # pyright: ignore[reportCallIssue, reportArgumentType]
            digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
    return digest.hexdigest()


def saved(saved_run: dict[str, Any], base_checkpoint: BaseCheckpoint) -> TrainedAdapter:
    """The record of an adapter on disk (`run.open_saved` gives ``saved_run``).

    Raises:
        InputError: the folder holds no adapter, or another one than its manifest names.
    """
    folder = Path(saved_run["adapter"])
    adapters.read_config(folder)
    manifest = saved_run["manifest"]
    sha256 = adapter_sha256(folder)
    if manifest is not None and manifest["adapter"]["sha256"] != sha256:
        raise InputError(
            f"{folder}: changed since the run was written",
            [f"found     sha256 {sha256}", f"expected  sha256 {manifest['adapter']['sha256']}"],
            "Bring the files back, or make the run again.",
        )
    return TrainedAdapter(
        path=str(folder),
        sha256=sha256,
        base_model_id=base_checkpoint.model_id,
        base_model_revision=base_checkpoint.revision,
        base_model_sha256=base_checkpoint.sha256,
        training=manifest["training"] if manifest else None,
        log=saved_run["log"],
    )


def versions() -> dict[str, str]:
    """Versions of seqtune and the libraries that compute, and the SHA-256 of seqtune's own source."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".c", ".h", ".cpp", ".jsonl")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return {
        "seqtune": importlib.metadata.version("seqtune"),
        "seqtune_source_sha256": digest.hexdigest(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }
