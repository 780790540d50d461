"""What a caller wants of an answer: transformers' knobs of ``generate``, with transformers' names and meaning.

The processors are transformers' own classes, in its order; what is ours is the search around them.

Not covered: knobs outside `HANDLED` (``guidance_scale``, ``stop_strings`` …) and beams that are sampled.
`Wishes.unhandled` names them, and `answering` then hands the rows to transformers. Several answers to a question, and
searches whose code transformers would fetch from its hub (`REFUSED`), are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from seqtune.errors import InputError, did_you_mean
from seqtune.models import families

#: Knobs that our own search carries out.
HANDLED = {
    "max_new_tokens", "max_length", "min_new_tokens", "min_length", "num_beams", "do_sample", "early_stopping",
    "length_penalty", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
    "decoder_start_token_id", "eos_token_id", "pad_token_id", "bos_token_id",
}  # fmt: skip

#: Knobs that stay as they are: more answers than questions, and what transformers 5 would run the hub's own code for.
REFUSED = (
    "num_return_sequences", "penalty_alpha", "num_beam_groups", "diversity_penalty", "constraints", "force_words_ids",
    "dola_layers",
)  # fmt: skip

#: What says nothing about the answer, or only how transformers computes it.
_INDIFFERENT = {
    "use_cache", "cache_implementation", "cache_config", "transformers_version", "output_attentions",
    "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate", "return_legacy_cache",
    "disable_compile", "compile_config", "low_memory", "is_assistant", "_from_model_config", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "prefill_chunk_size",
    "continuous_batching_config",
}  # fmt: skip

#: What transformers takes where nobody says (its own defaults, 5.23).
_DEFAULTS: dict[str, Any] = {
    "num_beams": 1, "do_sample": False, "early_stopping": False, "length_penalty": 1.0, "temperature": 1.0,
    "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "min_length": 0,
    "max_length": 20, "num_return_sequences": 1, "num_beam_groups": 1, "diversity_penalty": 0.0,
    "remove_invalid_values": False, "renormalize_logits": False, "token_healing": False, "target_lookbehind": 10,
}  # fmt: skip


class Wishes:
    """The knobs of one answer, resolved: those given, then what the checkpoint means, then transformers' defaults.

    Args:
        model: whose ``generation_config`` counts.
        tokenizer: of the model.
        knobs: of transformers' ``generate``; they override `families.generation_defaults`.

    Raises:
        InputError: an unknown knob, a value that transformers refuses, or a longer answer than the decoder can write.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, knobs: Mapping[str, Any]):
        known = GenerationConfig().to_dict()
        unknown = [name for name in knobs if name not in known]
        if unknown:
            raise InputError(
                "generate has no such knob", [f"{name}   {did_you_mean(name, known)}".rstrip() for name in unknown]
            )
        options = {**families.generation_defaults(model, tokenizer), **knobs}
        if not options.get("do_sample"):
            for name in ("temperature", "top_k", "top_p"):  # without sampling they mean nothing, and generate warns
                options.pop(name, None)
        self._checked(options)
        try:
            self.config = GenerationConfig(**options)
        except ValueError as error:
            raise InputError("generate does not take these knobs", [str(error).splitlines()[0]]) from None
        self._device = model.device
        own: Any = model.generation_config
        self.values: dict[str, Any] = {
            **_DEFAULTS,
            **{name: value for name, value in own.to_dict().items() if value is not None},
            **{name: value for name, value in self.config.to_dict().items() if value is not None},
        }
        #: Equal for wishes that mean the same.
        self.key = json.dumps(self.values, sort_keys=True, default=str)

        positions = families.position_limits(model.config)[1]
        if positions and self.limit > positions - 1 and (knobs.get("max_new_tokens") or knobs.get("max_length")):
            found = f"an answer of {self.limit:,} tokens: the decoder has {positions:,} positions"
            raise InputError(found, mend=f"Ask for at most {positions - 1:,} (max_new_tokens).")
        try:
            self._usable = self._behind([[0]]), self._warpers  # made now, so that what is wrong is said now
        except ValueError as error:
            raise InputError("generate does not take these knobs", [str(error).splitlines()[0]]) from None

    @staticmethod
    def _checked(options: Mapping[str, Any]) -> None:
        for name in REFUSED:
            if options.get(name) and options[name] != _DEFAULTS.get(name):
                raise InputError(
                    f"{name} = {options[name]!r}   is not taken: a question has one answer, and no code of a hub is run"
                )
        for name, least in (("num_beams", 1), ("max_new_tokens", 1), ("max_length", 2), ("top_k", 0)):
            value = options.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(f"{name} = {value!r}   generate does not take it: a whole number, at least {least}")

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)

    @cached_property
    def unhandled(self) -> list[str]:
        """Knobs that are set and that only transformers' own ``generate`` carries out."""
        values = {
            **_DEFAULTS,
            **{name: value for name, value in GenerationConfig().to_dict().items() if value is not None},
        }
        others = [
            name
            for name, value in self.values.items()
            if name not in HANDLED | _INDIFFERENT and value != values.get(name) and value not in (None, {}, [])
        ]
        if self["num_beams"] > 1 and self["do_sample"]:
            others.append("do_sample with num_beams")
        return others

    @property
    def beams(self) -> int:
        """Beams of the search; 1 is none."""
        return self["num_beams"]

    @property
    def start(self) -> int:
        """The token that an answer starts behind."""
        return self["decoder_start_token_id"]

    def cut(self, tokens: Sequence[int]) -> bool:
        """Whether an answer was cut at the limit: it has no end, or one that was forced on it there (BART)."""
        end = next((at for at, token in enumerate(tokens) if token in self.ends), None)
        forced = self["forced_eos_token_id"] is not None and end == self.limit - 1
        return len(tokens) >= self.limit and (end is None or forced)

    def up_to_the_end(self, tokens: Sequence[int]) -> list[int]:
        """An answer without what ``generate`` pads it with, behind its end."""
        end = next((at for at, token in enumerate(tokens) if token in self.ends), len(tokens))
        return list(tokens[: end + 1])

    @cached_property
    def limit(self) -> int:
        """Longest answer in tokens."""
        return self["max_new_tokens"] or max(1, self["max_length"] - 1)

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ends = self["eos_token_id"]
        return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])

    def looks_back(self, length: int) -> bool:
        """Whether the knobs change the scores of the token behind this many."""
        first, last = self["forced_bos_token_id"] is not None, self["forced_eos_token_id"] is not None
        return self._always or (first and length == 0) or (last and length == self.limit - 1)

    def processed(self, written: Tensor, scores: Tensor, questions: list[list[int]]) -> Tensor:
        """The scores [rows, vocabulary] behind what was written [rows, tokens]: penalties, forbidden and forced tokens.

        Args:
            written: of rows of one length, the start token included.
            scores: logits, or log-probabilities where beams are searched.
            questions: token ids of each row's input.
        """
        if not self._of_question:
            return self._common(written, scores)  # pyright: ignore[reportArgumentType, reportReturnType]
        parts = [
            self._behind([question])(written[row : row + 1], scores[row : row + 1])  # pyright: ignore[reportArgumentType]
            for row, question in enumerate(questions)
        ]
        return torch.cat(parts)

    def narrowed(self, scores: Tensor) -> Tensor:
        """The scores that are drawn from: tempered, and all but the likeliest left out (``-inf``)."""
        return self._warpers(torch.zeros(len(scores), 1, dtype=torch.long), scores)  # pyright: ignore[reportReturnType, reportArgumentType]

    @cached_property
    def _of_question(self) -> bool:
        return self["encoder_repetition_penalty"] != 1.0 or self["encoder_no_repeat_ngram_size"] > 0

    @cached_property
    def _always(self) -> bool:
        forcing = (transformers.ForcedBOSTokenLogitsProcessor, transformers.ForcedEOSTokenLogitsProcessor)
        return any(not isinstance(each, forcing) for each in self._behind([[0]]))

    @cached_property
    def _common(self) -> LogitsProcessorList:
        return self._behind([])

    def _behind(self, questions: list[list[int]]) -> LogitsProcessorList:
        """transformers' processors of these knobs, in its order."""
        found, ends = LogitsProcessorList(), torch.tensor(sorted(self.ends), device=self._device)
        ids = torch.tensor(questions, device=self._device) if questions else None
        made = transformers
        if self["encoder_repetition_penalty"] != 1.0 and ids is not None:
            found.append(made.EncoderRepetitionPenaltyLogitsProcessor(self["encoder_repetition_penalty"], ids))  # pyright: ignore[reportArgumentType]
        if self["repetition_penalty"] != 1.0:
            found.append(made.RepetitionPenaltyLogitsProcessor(self["repetition_penalty"]))
        if self["no_repeat_ngram_size"]:
            found.append(made.NoRepeatNGramLogitsProcessor(self["no_repeat_ngram_size"]))
        if self["encoder_no_repeat_ngram_size"] and ids is not None:
            found.append(made.EncoderNoRepeatNGramLogitsProcessor(self["encoder_no_repeat_ngram_size"], ids))  # pyright: ignore[reportArgumentType]
        if self["bad_words_ids"]:
            found.append(made.NoBadWordsLogitsProcessor(self["bad_words_ids"], ends if self.ends else None))
        if self["min_length"] and self.ends:
            found.append(made.MinLengthLogitsProcessor(self["min_length"], ends))
        if self["min_new_tokens"] and self.ends:
            found.append(made.MinNewTokensLengthLogitsProcessor(1, self["min_new_tokens"], ends))
        if self["forced_bos_token_id"] is not None:
            found.append(made.ForcedBOSTokenLogitsProcessor(self["forced_bos_token_id"]))
        if self["forced_eos_token_id"] is not None:
            found.append(made.ForcedEOSTokenLogitsProcessor(self.limit + 1, self["forced_eos_token_id"]))
        if self["suppress_tokens"]:
            found.append(made.SuppressTokensLogitsProcessor(self["suppress_tokens"]))
        if self["begin_suppress_tokens"]:
            begin = 1 if self["forced_bos_token_id"] is None else 2
            found.append(made.SuppressTokensAtBeginLogitsProcessor(self["begin_suppress_tokens"], begin))
        return found

    @cached_property
    def _warpers(self) -> LogitsProcessorList:
        found = LogitsProcessorList()
        if self["temperature"] != 1.0:
            found.append(transformers.TemperatureLogitsWarper(float(self["temperature"])))
        if self["top_k"]:
            found.append(transformers.TopKLogitsWarper(self["top_k"]))
        if self["top_p"] < 1.0:
            found.append(transformers.TopPLogitsWarper(self["top_p"]))
        if self["min_p"] is not None:
            found.append(transformers.MinPLogitsWarper(self["min_p"]))
        if self["typical_p"] < 1.0:
            found.append(transformers.TypicalLogitsWarper(self["typical_p"]))
        if 0.0 < self["epsilon_cutoff"] < 1.0:
            found.append(transformers.EpsilonLogitsWarper(self["epsilon_cutoff"]))
        if 0.0 < self["eta_cutoff"] < 1.0:
            found.append(transformers.EtaLogitsWarper(self["eta_cutoff"]))
        return found
