"""The models that a server has: bases, and the models that were tuned from them.

A base is loaded once, whatever the number of its adapters. To answer, each model has its weights merged and packed
(`generation.Answerer`), a copy of its own: memory grows with the number of models, and no answer waits for an adapter
to be changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqtune import run
from seqtune.api import TunedModel
from seqtune.data import tokens
from seqtune.engine import hardware
from seqtune.errors import InputError
from seqtune.generation import Wishes
from seqtune.models import adapters, families, loading, pieces
from seqtune.progress import say

#: Wishes that a model keeps.
KEPT = 1000


@dataclass(frozen=True)
class Entry:
    """One model by the name that clients choose it by.

    ``base`` is the name of its base model, None for a base itself.
    """

    name: str
    model: TunedModel
    base: str | None
    created: int = field(default_factory=lambda: int(time.time()))
    known: dict[str, Wishes] = field(default_factory=dict)

    @property
    def longest_source(self) -> int:
        """The most tokens that a question may have."""
        return self.model.settings["max_source_length"]

    @property
    def longest_answer(self) -> int:
        """The most tokens that the decoder can write."""
        positions = families.position_limits(self.model.model.config)[1]
        return positions - 1 if positions else 2**31

    def wishes(self, **knobs: Any) -> Wishes:
        """Knobs of transformers' ``generate``, resolved; kept, for most requests wish the same.

        Raises:
            InputError: a value that transformers refuses.
        """
        key = json.dumps(knobs, sort_keys=True)
        if key not in self.known:
            if len(self.known) >= KEPT:
                self.known.clear()
            self.known[key] = self.model.answerer.wishes(**knobs)
        return self.known[key]

    def encode(self, text: str) -> list[int]:
        """The token ids of a question, in the run's template; not cut."""
        (ids,) = tokens.encode(
            self.model.tokenizer, tokens.apply_template(self.model.settings["input_template"], [text])
        )
        return ids


class Shelf:
    """All models of a server, by name."""

    def __init__(self, entries: Sequence[Entry]):
        self.entries = {entry.name: entry for entry in entries}

    @classmethod
    def filled(cls, runs: Sequence[str], device_type: str = "auto", precision: str | None = None) -> Shelf:
        """Load the runs, each under the name of its folder, and their base models, each under its id.

        A base model is asked as the first of its runs says (template,
        lengths), so that the two can be compared.

        Raises:
            InputError: as `seqtune.load`.
        """
        device = hardware.choose_device(device_type)
        roomy: dict[tuple[str, tuple[str, ...]], tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}
        loaded: dict[str, tuple[loading.BaseCheckpoint, PreTrainedModel, TunedModel]] = {}
        tuned: list[Entry] = []
        for path in runs:
            saved = run.open_saved(path)
            checkpoint = adapters.resolve_base(saved, None, None, None)
            settings, of_base = run.answering(saved), run.answering(saved, base=True)
            if precision not in (None, "auto"):  # auto is what the runs have found
                settings["answer_precision"] = of_base["answer_precision"] = precision
            name = _base_name(checkpoint.model_id)
            if name not in loaded:
                model = loading.load_model(checkpoint, device)
                tokenizer = loading.load_fitting_tokenizer(checkpoint)
                loaded[name] = checkpoint, model, TunedModel(model, tokenizer, of_base)
            elif loaded[name][0] != checkpoint:
                raise InputError(
                    f"{path}: its base model {name} is another than that of the other runs, under the same name",
                    mend="Serve it in a process of its own.",
                )
            _, model, base = loaded[name]
            tokenizer = base.tokenizer
            if characters := tuple(pieces.saved(saved["adapter"])):  # a base of its own, with room for them
                if (name, characters) not in roomy:
                    tokenizer = pieces.with_pieces(tokenizer, characters)
                    model = pieces.make_room(loading.load_model(checkpoint, device), pieces.ids_of(tokenizer))
                    roomy[name, characters] = model, tokenizer
                model, tokenizer = roomy[name, characters]
            adapted = adapters.load(model, saved["adapter"])
            tuned.append(Entry(_name_of(path), TunedModel(adapted, tokenizer, settings), name))
        bases = [Entry(name, model, None) for name, (_, _, model) in loaded.items()]
        shelf = cls(_named_apart(tuned, set(loaded)) + bases)
        for entry in shelf.entries.values():
            say(f"{entry.name}: " + (f"tuned from {entry.base}" if entry.base else "base model"))
        return shelf

    @property
    def names(self) -> list[str]:
        """The names, tuned models first."""
        return list(self.entries)


def _base_name(model_id: str) -> str:
    """The id of a model of the hub; of one in a folder the folder's name, for clients need not know where it lies."""
    return Path(model_id).absolute().name if Path(model_id).is_dir() else model_id


def _name_of(path: str) -> str:
    """``support`` for runs/support, runs/support/ and runs/support/adapter."""
    folder = Path(path).absolute()
    return folder.parent.name if folder.name == run.ADAPTER and folder.parent.name else folder.name


def _named_apart(entries: Sequence[Entry], taken: set[str]) -> list[Entry]:
    """The entries, with a number behind the names that are taken."""
    apart: list[Entry] = []
    for entry in entries:
        name, number = entry.name, 1
        while name in taken:
            number += 1
            name = f"{entry.name}-{number}"
        taken.add(name)
        apart.append(Entry(name, entry.model, entry.base, entry.created))
    return apart
