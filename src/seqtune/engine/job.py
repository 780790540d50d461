"""A training as plain bytes, for a process that has not read the data: what it trains on, with what, and how.

JSON and Arrow; nothing is pickled. The base model itself is not sent: each process reads it where its own machine has
it, and its SHA-256 must be that of the first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from peft import PeftConfig, PeftModel, get_peft_config, set_peft_model_state_dict
from transformers import PreTrainedModel

from seqtune.engine import hardware, loop, sharding
from seqtune.engine.checkpoint import Checkpoints
from seqtune.engine.ranks import ALONE, Ranks
from seqtune.engine.state import Snapshot, TrainState, best_of
from seqtune.errors import RunError
from seqtune.models import adapters, loading, pieces
from seqtune.models.loading import BaseCheckpoint

_ROWS = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])


@dataclass(frozen=True)
class Job:
    """What `loop.train` takes, without anything live.

    Attributes:
        base: the base model.
        adapter: PEFT's configuration of the adapter, as a dict that JSON can hold.
        settings: of training.
        device: ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32`` or ``bf16``.
        pad_token_id: of the tokenizer.
        made_of: what a run that goes on must have been made of too.
        train_rows: with ``input_ids`` and ``labels``.
        validation_rows: of the same form.
    """

    base: BaseCheckpoint
    adapter: dict[str, Any]
    settings: dict[str, Any]
    device: str
    precision: str
    pad_token_id: int
    made_of: dict[str, Any]
    train_rows: Sequence[dict[str, Any]]
    validation_rows: Sequence[dict[str, Any]]

    def as_bytes(self) -> bytes:
        """For another process: length of the JSON, JSON, two Arrow tables one after the other."""
        values = {name: value for name, value in self.__dict__.items() if not name.endswith("_rows")}
        head = json.dumps({**values, "base": asdict(self.base)}).encode()
        sink = pa.BufferOutputStream()
        for rows in (self.train_rows, self.validation_rows):
            table = pa.table({name: [row[name] for row in rows] for name in _ROWS.names}, schema=_ROWS)
            with pa.ipc.new_stream(sink, _ROWS) as stream:
                stream.write_table(table)
        return len(head).to_bytes(8, "little") + head + sink.getvalue().to_pybytes()

    @classmethod
    def of_bytes(cls, content: bytes) -> Job:
        """What `as_bytes` was made of."""
        end = 8 + int.from_bytes(content[:8], "little")
        values = json.loads(content[8:end])
        source = pa.BufferReader(content[end:])
        train, validation = (pa.ipc.open_stream(source).read_all().to_pylist() for _ in range(2))
        base = BaseCheckpoint(**values.pop("base"))
        return cls(**values, base=base, train_rows=train, validation_rows=validation)

    def train(
        self,
        ranks: Ranks = ALONE,
        checkpoints: Checkpoints | None = None,
        base_model: PreTrainedModel | None = None,
    ) -> tuple[PeftModel, TrainState]:
        """The adapter, fitted, in the base model, and what training measured.

        Args:
            ranks: who trains with us.
            checkpoints: of the first rank.
            base_model: where it is loaded already.

        Raises:
            InputError: as `sharding.check` and `sharding.shard`.
            RunError: as `loop.train`; or the base model on this machine is another one.
        """
        device = torch.device(self.device)
        config = get_peft_config(dict(self.adapter))
        shared = self.settings["shard_base"]
        sharding.check(self.settings, ranks.size)
        model = base_model
        if model is None:
            model = loading.load_model(self._found_base(), torch.device("cpu") if shared else device)
            pieces.make_room(model, self.adapter.get("trainable_token_indices") or [])
        with hardware.seeded(self.settings["random_state"], device):
            adapted = adapters.attach(model, config, self.base.stable_id)
            model = base_model = None  # or the whole weights would stay beside the share
            shards = sharding.shard(adapted, ranks, device) if shared else sharding.WHOLE
            state = loop.train(
                adapted,
                self.train_rows,
                self.validation_rows,
                self.settings,
                device=device,
                precision=self.precision,
                pad_token_id=self.pad_token_id,
                checkpoints=checkpoints,
                made_of=self.made_of,
                ranks=ranks,
                shards=shards,
            )
        return adapted, state

    def finished(self, taken: Snapshot, base_model: PreTrainedModel) -> tuple[PeftModel, TrainState]:
        """The best adapter and what training measured, from the checkpoint at the end of a training done elsewhere."""
        model = adapters.attach(base_model, get_peft_config(dict(self.adapter)), self.base.stable_id)
        state = TrainState(**taken.values["state"])
        state.best_adapter = best_of(taken)
        set_peft_model_state_dict(model, state.best_adapter)
        return model.eval(), state

    def _found_base(self) -> BaseCheckpoint:
        """The base model on this machine."""
        same_place = Path(self.base.path, "config.json").is_file()
        name = self.base.path if same_place else self.base.model_id
        found = loading.resolve(name, revision=None if same_place else self.base.revision)
        if found.sha256 != self.base.sha256:
            raise RunError(
                f"{name}: not the base model of the first process",
                [f"found     sha256 {found.sha256}", f"expected  sha256 {self.base.sha256}"],
                "Put the same files on every machine.",
            )
        return found


def plain_config(config: PeftConfig) -> dict[str, Any]:
    """PEFT's configuration as a dict that JSON can hold, and `get_peft_config` can read."""
    values = {name: value for name, value in config.to_dict().items() if name != "runtime_config"}
    listed = {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}
    return json.loads(json.dumps(listed))
