"""What a run tells whoever looks on: its steps, its nodes' results, and answers to a few questions as it learns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hamilton.lifecycle import NodeExecutionHook
from transformers import GenerationConfig

from seqtune import picture, run
from seqtune.engine import batching
from seqtune.generation import LONGEST_ANSWER, pad_token_id
from seqtune.live.state import State
from seqtune.models import families
from seqtune.progress import Progress, say, warn
from seqtune.report import facts, sections

#: Validation questions that are answered at every measurement, spread evenly over the set.
FEW = 4

#: Characters of a question and of an answer in a note.
LONGEST_NOTE = (60, 100)

#: Nodes whose results are kept: what the page shows, and what answering needs.
_WANTED = facts.WANTED | {"validation_sample", "tokenizer", "tokenized_validation"}


class Watching(NodeExecutionHook):
    """Takes in what a run tells; an adapter for its driver, and a listener and a watcher for `seqtune.progress`.

    Args:
        state: where it goes.
        checkpoints: the run's folder of them.
    """

    def __init__(self, state: State, checkpoints: Path):
        self.state = state
        self.kept = checkpoints / run.ANSWERS
        self.answering = True

    def run_before_node_execution(self, **_: Any) -> None:
        """Draw the dataflow once: only the thread that executes it knows it."""
        if self.state.picture is None:
            self.state.picture = picture.running_linked(sections.of_node)

    def run_after_node_execution(self, *, node_name: str, result: Any, success: bool, **_: Any) -> None:
        """Keep a node's result."""
        if success and node_name in _WANTED:
            self.state.facts = {**self.state.facts, node_name: result}
        if success and node_name == "report_page":
            self.state.finish(result)

    def heard(self, report: Progress) -> None:
        """Take in how far a stage is."""
        self.state.advance(report)

    def shown(self, log: Sequence[dict[str, Any]], model: Any) -> None:
        """Take in the log of the training; with a model, ask it the few questions."""
        self.state.log = log
        if model is None or not self.answering:
            return
        try:
            found = self._sample(log[-1], model)
        except Exception as error:  # looking on must never end a run
            self.answering = False
            warn(f"the few questions are no longer answered while it trains: {type(error).__name__}: {error}")
            return
        before = self.state.samples or self._kept()
        self.state.samples = [*(each for each in before if each["step"] < found["step"]), found]
        self._keep(self.state.samples)
        _say(found)

    def _sample(self, last: dict[str, Any], model: Any) -> dict[str, Any]:
        known = self.state.facts
        rows, tokenizer = known["validation_sample"], known["tokenizer"]
        few = sorted({round(place * (len(rows) - 1) / max(1, FEW - 1)) for place in range(FEW)})
        sources = [known["tokenized_validation"][index]["input_ids"] for index in few]
        longest = known["training_lengths"]["target"]["max"]
        answers = _answers(
            model,
            tokenizer,
            sources,
            limit=min(LONGEST_ANSWER, longest + max(1, longest // 4)),
            bf16=known["compute_precision"]["value"] == "bf16",
        )
        return {
            "step": last["step"],
            "validation_loss": last.get("validation_loss"),
            "answers": [
                {"input": rows[index]["input"], "reference": rows[index]["reference"], "answer": answer}
                for index, answer in zip(few, answers, strict=True)
            ],
        }

    def _kept(self) -> list[dict[str, Any]]:
        """What was answered before the run was stopped."""
        try:
            lines = self.kept.read_text(encoding="utf-8").splitlines()
            return [each for each in map(json.loads, lines) if isinstance(each["step"], int) and each["answers"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _keep(self, samples: list[dict[str, Any]]) -> None:
        try:
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            run.write_text(self.kept, "".join(json.dumps(each) + "\n" for each in samples))
        except OSError as error:
            warn(f"{self.kept}: can't be written ({error.strerror}); the report will not have these answers")


def _answers(model: Any, tokenizer: Any, sources: list[list[int]], *, limit: int, bf16: bool) -> list[str]:
    """Greedy answers of a model as it stands in training, fast ways and all; no generator of random numbers moves."""
    device = next(model.parameters()).device
    batch = batching.collate([{"input_ids": source} for source in sources], pad_token_id(tokenizer), device)
    wanted = {**families.generation_defaults(model, tokenizer), "max_new_tokens": limit, "num_beams": 1}
    config = GenerationConfig(**{**wanted, "do_sample": False})
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.no_grad(),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16),
    ):
        written = model.generate(**batch, generation_config=config)
    return [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]


def _say(sample: dict[str, Any]) -> None:
    loss = sample["validation_loss"]
    say(f"step {sample['step']}" + (f", validation loss {loss:.3f}" if isinstance(loss, float) else ""))
    for each in sample["answers"]:
        question, answer = (
            text if len(text) <= longest else text[: longest - 1] + "…"
            for text, longest in zip(
                (" ".join(each[name].split()) for name in ("input", "answer")), LONGEST_NOTE, strict=True
            )
        )
        say(f"  {question}  →  {answer or '(nothing)'}")
