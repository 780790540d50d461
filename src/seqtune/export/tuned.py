"""The tuned model as an exporter wants it: merged in fp32, with rows to be checked on and how they are answered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from seqtune import run
from seqtune.data import tokens
from seqtune.generation import LONGEST_ANSWER, Answerer
from seqtune.models import adapters, families, loading, pieces
from seqtune.settings import DEFAULT

#: What is asked where there is no run with rows of its own.
QUESTIONS = (
    "How do I reset it?",
    "What does error E3 mean?",
    "Translate to German: The house is small.",
    "Who wrote Faust, and when?",
    "summarize: The fan was stuck. It was cleaned, and now the device works again.",
)


@dataclass(frozen=True)
class Tuned:
    """A tuned model.

    Attributes:
        adapted: base and adapter.
        model: the adapter merged into the weights, fp32, on the CPU.
        adapter: its folder.
        base_id: by what name its base model is found.
        base_revision: the commit of a base model of the hub.
        base_path: where that lies on this disk.
        texts: questions to be checked on.
        references: their answers in the data; empty where none are known.
        settings: how the run asks: ``input_template``, ``max_source_length``, ``max_new_tokens``.
        origin: where it comes from, for the manifest.
    """

    adapted: PeftModel
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: Path
    base_id: str
    base_revision: str | None
    base_path: Path
    texts: list[str]
    references: list[str]
    settings: dict[str, Any]
    origin: dict[str, Any]

    @cached_property
    def sources(self) -> list[list[int]]:
        """Token ids of the texts, as the run encodes them."""
        template, limit = self.settings["input_template"], self.settings["max_source_length"]
        return tokens.encode(self.tokenizer, tokens.apply_template(template, self.texts), limit)

    @cached_property
    def answerer(self) -> Answerer:
        """Answers in fp32."""
        return Answerer(self.model, self.tokenizer)

    @property
    def limit(self) -> int:
        """Longest answer in tokens."""
        return self.settings["max_new_tokens"]

    @cached_property
    def options(self) -> dict[str, Any]:
        """Greedy answers of this model, as transformers' ``generate`` is told."""
        return {**families.generation_defaults(self.model, self.tokenizer), "max_new_tokens": self.limit}

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer."""
        ends = self.options["eos_token_id"]
        return ends if isinstance(ends, list) else [ends]

    @property
    def first(self) -> int | None:
        """The token that every answer begins with; None where the model chooses."""
        return self.options.get("forced_bos_token_id")

    @property
    def open_limit(self) -> int:
        """Longest answer where no end is forced on it at the limit: BART's last token is always the end."""
        forced = getattr(self.model.generation_config, "forced_eos_token_id", None)
        return self.limit - (forced is not None)

    def save(self, folder: Path) -> None:
        """Write the merged model, with its tokenizer, as transformers reads it; greedy answers are its default."""
        self.save_tokenizer(folder)
        before = self.model.generation_config
        taste = {
            name: value
            for name in ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_eos_token_id")
            if (value := getattr(before, name, None)) is not None
        }
        self.model.generation_config = GenerationConfig(**{**taste, **self.options})  # pyright: ignore[reportAttributeAccessIssue]
        try:
            self.model.save_pretrained(str(folder))
        finally:
            self.model.generation_config = before  # pyright: ignore[reportAttributeAccessIssue]

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer, with the pieces that the run has given it, as ``AutoTokenizer`` reads it."""
        self.tokenizer.save_pretrained(str(folder))
        pieces.save(self.tokenizer, folder)

    def log_probs(self, model: Any, answers: list[list[int]]) -> list[list[float]]:
        """The log-probability that a model gives each token of these answers to the sources; transformers, fp32."""
        start, found = self.options["decoder_start_token_id"], []
        with torch.inference_mode():
            for source, answer in zip(self.sources, answers, strict=True):
                given = torch.tensor([[start, *answer[:-1]]])
                logits = model(input_ids=torch.tensor([source]), decoder_input_ids=given).logits[0]
                chosen = logits.float().log_softmax(-1).gather(1, torch.tensor(answer)[:, None])
                found.append(chosen[:, 0].tolist())
        return found


def load(path: str | Path, model_id: str | None = None, rows: int = 64) -> Tuned:
    """The tuned model of a run directory, or of an adapter folder in PEFT's format.

    Args:
        path: the run directory or adapter folder.
        model_id: where the base model is now, if not where it was.
        rows: how many of the run's validation rows are taken along.

    Raises:
        InputError: no adapter there, or its base model is not to be had.
    """
    saved = run.open_saved(path)
    manifest = saved["manifest"] or {}
    checkpoint = adapters.resolve_base(saved, model_id, model_id, None)
    tokenizer = pieces.with_pieces(loading.load_fitting_tokenizer(checkpoint), pieces.saved(saved["adapter"]))
    base = pieces.make_room(loading.load_model(checkpoint, torch.device("cpu")), pieces.ids_of(tokenizer))
    adapted = adapters.load(base, saved["adapter"])
    adapter = Path(saved["adapter"])
    asked = run.Run(adapter.parent).predictions["validation"][:rows] if manifest else []
    settings = {**DEFAULT.model_dump(), **manifest.get("settings", {})}
    source, target = families.position_limits(adapted.config)
    settings["max_source_length"] = settings["max_source_length"] or source or tokens.UNLIMITED
    longest = min(LONGEST_ANSWER, target - 1 if target else LONGEST_ANSWER)
    settings["max_new_tokens"] = settings["max_new_tokens"] or longest
    return Tuned(
        adapted=adapted,
        model=adapters.merged(adapted),
        tokenizer=tokenizer,
        adapter=adapter,
        base_id=checkpoint.stable_id,
        base_revision=checkpoint.revision,
        base_path=Path(checkpoint.path),
        texts=[row["input"] for row in asked] or list(QUESTIONS),
        references=[row["reference"] for row in asked],
        settings=settings,
        origin={
            "adapter_sha256": run.adapter_sha256(adapter),
            "base_model": checkpoint.model_id,
            "input_template": settings["input_template"],
        },
    )
