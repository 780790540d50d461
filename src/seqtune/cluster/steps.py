"""The dataflow in two halves: what comes before training and what comes after it, each run once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqtune import store
from seqtune.cluster import on_host
from seqtune.data import tokens
from seqtune.driver import build_driver
from seqtune.engine.checkpoint import Checkpoints
from seqtune.engine.job import Job, plain_config
from seqtune.engine.state import TrainState
from seqtune.errors import InputError
from seqtune.generation import pad_token_id
from seqtune.report import facts
from seqtune.run import TrainedAdapter, write_json
from seqtune.settings import validated

#: The node in the middle.
TRAINING = "trained_adapter"

#: Nodes of the first half that hold the base model; made again where the second half asks for them.
_HOLD_THE_BASE = ("base_model", "rehearsing")


class Halves:
    """One run of the dataflow, with training left to somebody else.

    Args:
        inputs: of the dataflow.
        adapters: of Hamilton's driver, for both halves.

    Raises:
        InputError: what only one process can do is asked for.
    """

    def __init__(self, inputs: Mapping[str, Any], adapters: Sequence[Any] = ()):
        _check(inputs)
        self.sharded: bool = validated({"shard_base": inputs.get("shard_base", False)})["shard_base"]
        self.driver = build_driver({"start": "base"}, *([on_host] if self.sharded else []), adapters=adapters)
        upstream = self.driver.what_is_upstream_of(TRAINING)
        self.inputs = dict(inputs)
        names = [node.name for node in upstream if not node.is_external_input and node.name != TRAINING]
        self.found: dict[str, Any] = self.driver.execute(names, inputs=self.inputs)
        if self.checkpoints.folder is not None:  # for the page of a run that is stopped
            write_json(self.checkpoints.folder / facts.KEPT, facts.manifest(self.found))

    @property
    def checkpoints(self) -> Checkpoints:
        """Where training keeps its state."""
        return self.found["checkpoints"]

    def job(self) -> Job:
        """The training that the first half has prepared."""
        found = self.found
        sets = {"training": found["tokenized_train"], "validation": found["tokenized_validation"]}
        precision = found["compute_precision"]["value"]
        return Job(
            base=found["base_checkpoint"],
            adapter=plain_config(found["lora_config"]),
            settings=found["training_settings"],
            device=found["device"].type,
            precision=precision,
            pad_token_id=pad_token_id(found["tokenizer"]),
            made_of=store.made_of(
                sets,
                found["base_checkpoint"],
                found["tokenizer"],
                found["lora_config"],
                found["training_settings"],
                precision,
                found["device"],
                found["versions"],
            ),
            train_rows=tokens.as_rows(sets["training"].select_columns(["input_ids", "labels"])),
            validation_rows=tokens.as_rows(sets["validation"].select_columns(["input_ids", "labels"])),
        )

    def base_model(self) -> Any:
        """The base model, for training; None where that reads it anew, and then it is let go until the second half."""
        if not self.sharded:
            return self.found["base_model"]
        for name in _HOLD_THE_BASE:
            self.found.pop(name, None)
        return None

    def keep(self, model: Any, state: TrainState) -> TrainedAdapter:
        """The record of the adapter that was trained, its files in the store."""
        return store.keep(
            model, self.found["tokenizer"], self.found["base_checkpoint"], state, self.inputs.get("work_dir")
        )

    def deliver(self, adapter: TrainedAdapter) -> Path:
        """The second half: evaluation and delivery; returns the run directory."""
        known = {**self.found, TRAINING: adapter}
        delivered = self.driver.execute(["save_best_models"], inputs=self.inputs, overrides=known)
        return Path(delivered["save_best_models"]["path"])


def _check(inputs: Mapping[str, Any]) -> None:
    problems = {
        "streaming": "streaming = yes   rows are streamed by one process alone",
        "load_in_4bit": "load_in_4bit = yes   a base in 4 bits is trained by one process alone; several were not tried",
    }
    found = [problem for name, problem in problems.items() if inputs.get(name)]
    if found:
        mend = "Leave out what is named here, or train without --on and without torchrun."
        raise InputError("several processes can't train with this", found, mend)
