"""What makes Hamilton's cache right for this dataflow: fingerprints, formats and a store without pickle.

Hamilton 1.90 knows a result by a fingerprint of its value. Its default follows ``__dict__`` six levels deep and turns
tensors into a constant, so that two different models look alike; and it keeps results by pickling them, live models
too. Hence:

- **fingerprints** by content for models, tokenizers, data sets and adapters (`_fingerprint`, registered on import);
- the format ``live`` for what must never be stored (its nodes are recomputed; their fingerprint is still known);
- the format ``adapter`` for `TrainedAdapter`: the record is stored, and read only while its files are intact;
- `JsonStore`, a result store of JSON and Arrow files that never unpickles, for `seqtune.build_driver(cache=…)`.

Importing this module is enough for a plain ``Builder().with_cache()`` to be right.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from hamilton import registry
from hamilton.caching import fingerprinting
from hamilton.caching.stores.base import ResultRetrievalError
from hamilton.caching.stores.file import FileResultStore
from hamilton.io.data_adapters import DataLoader, DataSaver
from peft import LoraConfig, PeftConfig, PeftModel
from transformers import PreTrainedTokenizerBase

from seqtune.data.groups import Groups
from seqtune.engine.checkpoint import Checkpoints
from seqtune.models.loading import weights_sha256
from seqtune.run import TrainedAdapter


class Deferred(functools.partial):
    """A node's value that is a computation, done when somebody calls it; to a cache it is always the same."""


# --- fingerprints -----------------------------------------------------------------------------------------------------


@fingerprinting.hash_value.register(Dataset)
def _dataset(data: Dataset, *args: Any, **kwargs: Any) -> str:
    table: Any = data.with_format("arrow")[:]
    table = table.combine_chunks().replace_schema_metadata(None)
    digest = hashlib.sha256()
    with pa.output_stream(sink := pa.BufferOutputStream()) as stream, pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    digest.update(sink.getvalue())
    return digest.hexdigest()


@fingerprinting.hash_value.register(Groups)
def _groups(groups: Groups, *args: Any, **kwargs: Any) -> str:
    arrays = [hashlib.sha256(array.tobytes()).hexdigest() for array in (groups.question, groups.group)]
    return _digest([*arrays, groups.threshold, groups.whole])


@fingerprinting.hash_value.register(torch.nn.Module)
def _module(model: torch.nn.Module, *args: Any, **kwargs: Any) -> str:
    adapters = {}
    if isinstance(model, PeftModel):
        adapters = {name: _peft_config(config) for name, config in model.peft_config.items()}
    return _digest([weights_sha256(model), adapters])  # pyright: ignore[reportArgumentType] (any module has weights)


@fingerprinting.hash_value.register(PreTrainedTokenizerBase)
def _tokenizer(tokenizer: PreTrainedTokenizerBase, *args: Any, **kwargs: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    return _digest([type(tokenizer).__name__, vocabulary, repr(tokenizer.special_tokens_map)])


@fingerprinting.hash_value.register(PeftConfig)
def _peft_config(config: PeftConfig, *args: Any, **kwargs: Any) -> str:
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return _digest({key: repr(value) for key, value in plain.items()})


@fingerprinting.hash_value.register(torch.device)
def _device(device: torch.device, *args: Any, **kwargs: Any) -> str:
    return str(device)


@fingerprinting.hash_value.register(Checkpoints)
def _checkpoints(checkpoints: Checkpoints, *args: Any, **kwargs: Any) -> str:
    return "checkpoints"  # where a run is kept makes no difference to what comes out of it


@fingerprinting.hash_value.register(Deferred)
def _deferred(deferred: Deferred, *args: Any, **kwargs: Any) -> str:
    return "deferred"  # what it is of are nodes of their own


@fingerprinting.hash_value.register(TrainedAdapter)
def _adapter(adapter: TrainedAdapter, *args: Any, **kwargs: Any) -> str:
    content = dataclasses.asdict(adapter)
    del content["path"]  # the same adapter at another place is the same adapter
    return _digest(content)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# --- formats ----------------------------------------------------------------------------------------------------------

_LIVE = (torch.nn.Module, PreTrainedTokenizerBase, LoraConfig, PeftConfig, torch.device, Checkpoints, Deferred)


@dataclasses.dataclass
class _LiveSaver(DataSaver):
    """Stores a mark in place of a live object."""

    path: str

    @classmethod
    def applicable_types(cls) -> Collection[type]:
        return list(_LIVE)

    @classmethod
    def name(cls) -> str:
        return "live"

    def save_data(self, data: Any) -> dict[str, Any]:
        Path(self.path).write_text("a live object is never stored\n")
        return {}


@dataclasses.dataclass
class _LiveLoader(DataLoader):
    path: str

    @classmethod
    def applicable_types(cls) -> Collection[type]:
        return list(_LIVE)

    @classmethod
    def name(cls) -> str:
        return "live"

    def load_data(self, type_: type) -> tuple[Any, dict[str, Any]]:
        raise ResultRetrievalError("a live object is made again, never read from a cache")


@dataclasses.dataclass
class _AdapterSaver(DataSaver):
    path: str

    @classmethod
    def applicable_types(cls) -> Collection[type]:
        return [TrainedAdapter]

    @classmethod
    def name(cls) -> str:
        return "adapter"

    def save_data(self, data: Any) -> dict[str, Any]:
        Path(self.path).write_text(json.dumps(dataclasses.asdict(data)))
        return {}


@dataclasses.dataclass
class _AdapterLoader(DataLoader):
    path: str

    @classmethod
    def applicable_types(cls) -> Collection[type]:
        return [TrainedAdapter]

    @classmethod
    def name(cls) -> str:
        return "adapter"

    def load_data(self, type_: type) -> tuple[Any, dict[str, Any]]:
        try:
            adapter = TrainedAdapter(**json.loads(Path(self.path).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ResultRetrievalError(str(error)) from error
        if not adapter.is_intact():
            raise ResultRetrievalError(f"{adapter.path}: gone or changed; it is trained again")
        return adapter, {}


for _adapter_class in (_LiveSaver, _LiveLoader, _AdapterSaver, _AdapterLoader):
    registry.register_adapter(_adapter_class)


# --- store ------------------------------------------------------------------------------------------------------------


class JsonStore(FileResultStore):
    """Results as JSON, data sets as Arrow files; whatever is neither is not stored, and so is computed again."""

    def set(  # pyright: ignore[reportIncompatibleMethodOverride] (Hamilton says an instance and passes the class)
        self,
        data_version: str,
        result: Any,
        saver_cls: type[DataSaver] | None = None,
        loader_cls: type[DataLoader] | None = None,
    ) -> None:
        """Store ``result``; see `ResultStore.set`."""
        path = self._path_from_data_version(data_version)
        if saver_cls is not None and loader_cls is not None:
            kept = self._path_from_data_version(data_version).with_suffix(f".{saver_cls.name()}")
            saver_cls(path=str(kept)).save_data(result)  # pyright: ignore[reportCallIssue] (ours take a path)
            path.write_text(json.dumps({"format": loader_cls.name(), "path": kept.name}))
        elif isinstance(result, Dataset):
            kept = path.with_suffix(".arrow")
            table: Any = result.with_format("arrow")[:]
            with pa.OSFile(str(kept), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
            path.write_text(json.dumps({"format": "arrow", "path": kept.name}))
        else:
            try:
                path.write_text(json.dumps({"format": "json", "value": result}, allow_nan=False))
            except (TypeError, ValueError):
                path.unlink(missing_ok=True)

    def get(self, data_version: str) -> Any:
        """The stored result; see `ResultStore.get`.

        Raises:
            ResultRetrievalError: it is damaged, or what it stands for is gone. Hamilton then computes it again.
        """
        try:
            entry = json.loads(self._path_from_data_version(data_version).read_text())
            if entry["format"] == "json":
                return entry["value"]
            if entry["format"] == "arrow":
                return Dataset.from_file(str(self.path / entry["path"]))
            loader = {"adapter": _AdapterLoader, "live": _LiveLoader}[entry["format"]]
            return loader(path=str(self.path / entry["path"])).load_data(object)[0]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResultRetrievalError(f"{data_version}: {error}") from error

    def delete(self, data_version: str) -> None:
        """Forget a result; see `ResultStore.delete`."""
        path = self._path_from_data_version(data_version)
        path.with_suffix(".arrow").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
