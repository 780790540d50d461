"""A model made ready to answer, and the answers of many rows: sorted, in batches that never run dry.

Rows at work have a budget of tokens; when some are finished, others take their places, so that no step is spent on rows
that are done. Models and knobs that our own decoder does not know are answered by transformers' ``generate``, row for
row the same but slower, and a line says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from seqtune.engine import batching, hardware
from seqtune.errors import InputError
from seqtune.generation import blueprint, compiled, plain
from seqtune.generation.losses import pad_token_id
from seqtune.generation.session import Answer, Decoder, Session
from seqtune.generation.wishes import Wishes
from seqtune.models import adapters, quantized
from seqtune.progress import advance, say

#: Knobs that are handed to transformers' ``generate`` under the same name.
GENERATE_KNOBS = ("max_new_tokens", "num_beams", "do_sample", "temperature", "top_k", "top_p")

#: Tokens (of a question and its answer) that a row of a batch is taken to have: of shorter rows more are at work
#: together, up to `SHORT` times as many. Keys and values then take no more memory than those of a batch of such rows.
ROW_TOKENS, SHORT = 1024, 4

#: A batch is filled up when this share of its places is free: the encoder works on several rows at once, too.
REFILL = 4

#: Padded tokens of a pass of the encoder, at most: one pass more costs what some dozen tokens do.
PADDING = 32

#: Largest difference of our decoder's logits from the model's own, relative by their norm. (bf16: it is no nonsense.)
AGREEMENT = {"fp32": 1e-3, "bf16": 0.3}


class Answerer:
    """A model made ready to answer: adapter merged (in fp32), weights packed. Takes a second or so, once.

    A base in 4 bits stays in 4 bits, its adapter beside its layers.

    Args:
        model: in evaluation mode; it stays as it is.
        tokenizer: reads the answers; special tokens are left out.
        precision: ``fp32``, ``bf16``, or ``auto``: bf16 where the processor has units for it.

    Attributes:
        precision: fp32 or bf16.
        engine: ``compiled``, ``plain`` or ``transformers``: what writes.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, precision: str = "fp32"):
        in_4bit = quantized.is_quantized(model)
        if isinstance(model, PeftModel):
            self.model: Any = model.get_base_model() if in_4bit else adapters.merged(model)
        else:
            self.model = model
        self.tokenizer = tokenizer
        self.device = next(self.model.parameters()).device
        self.precision = hardware.best_precision(self.device)["value"] if precision == "auto" else precision
        self._plan = None if in_4bit else blueprint.draw(self.model)
        self.engine = "transformers"
        if self._plan is not None:
            self.engine = "compiled" if compiled.can_run(self._plan, self.precision) else "plain"
            self._weights = compiled.Weights(self._plan, self.precision) if self.engine == "compiled" else None
            self.engine = self.engine if self._agrees(self._plan) else "transformers"
            self._plan = None if self._weights else self._plan  # the packed weights are enough
        if self.engine == "transformers":
            why = "the base is in 4 bits" if in_4bit else f"{type(self.model).__name__} is not known here"
            say(f"answers: by transformers' generate, which is slower: {why}")

    def wishes(self, **knobs: Any) -> Wishes:
        """Knobs of transformers' ``generate``, resolved for this model.

        Raises:
            InputError: an unknown knob, or a value that transformers refuses.
        """
        return Wishes(self.model, self.tokenizer, knobs)

    def session(self) -> Session:
        """An empty session: for answers that come and go. Not with the engine ``transformers``.

        Raises:
            InputError: the model's decoder is not known here.
        """
        if self.engine == "transformers":
            raise InputError(f"{type(self.model).__name__}: answers of this model can only be had in whole batches")
        return Session(self.encode, self._decoder())

    def text(self, tokens: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def tokens(
        self,
        sources: Sequence[Sequence[int]],
        *,
        batch_size: int,
        random_state: int,
        stage: str = "answering",
        stop: Callable[[], bool] | None = None,
        wishes: Wishes | None = None,
        **knobs: Any,
    ) -> list[list[int]]:
        """The tokens of the answer to each encoded input, in the order of the inputs, without the start token.

        An answer that ended by itself has its end as its last token.

        Args:
            sources: token ids of each input, end-of-sequence included.
            batch_size: inputs answered together; of short ones up to four times as many.
            random_state: seeds the drawing of tokens with ``do_sample``, together with the number of the input; the
                generators of the process are left alone.
            stage: what to call this in the progress display.
            stop: asked before each token; once it is true, the answers end where they are.
            wishes: of `wishes`, where they are resolved already; instead of ``knobs``.
            **knobs: of transformers' ``generate``; they override the checkpoint's own taste (see
                `families.generation_defaults`).

        Raises:
            InputError: as `wishes`; or ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise InputError(f"batch_size = {batch_size}: expected at least 1")
        wishes = wishes or self.wishes(**knobs)
        if self.engine == "transformers" or wishes.unhandled:
            if self.engine != "transformers":
                say(f"answers: by transformers' generate, which is slower, for {', '.join(wishes.unhandled)}")
            return self._by_transformers(sources, wishes, batch_size, random_state, stage, stop)
        answers = [Answer(source, wishes, f"{random_state} {row}") for row, source in enumerate(sources)]
        waiting = sorted(range(len(answers)), key=lambda row: (-len(sources[row]), row))[::-1]
        session, done = self.session(), 0
        while (waiting or session.answers) and not (stop and stop()):
            if waiting:
                longest = len(sources[waiting[-1]]) + wishes.limit
                places = max(batch_size, min(SHORT * batch_size, batch_size * ROW_TOKENS // longest))
                free = places - len(session.answers)
                if free * REFILL >= places:
                    session.join([answers[waiting.pop()] for _ in range(min(free, len(waiting)))])
            finished = session.step()
            if finished:
                done += len(finished)
                advance(stage, done, len(sources), "rows")
        return [answer.tokens for answer in answers]

    def answer(self, sources: Sequence[Sequence[int]], **options: Any) -> list[str]:
        """The text of the answer to each encoded input, in their order; `tokens` says what the options are."""
        return [self.text(tokens) for tokens in self.tokens(sources, **options)]

    @torch.inference_mode()
    def encode(self, sources: Sequence[Sequence[int]]) -> list[Tensor]:
        """The encoder's states of each input, [tokens, width]; inputs of like length in one pass.

        In fp32 whatever the precision: it is a small part of the work, and what is lost here is lost for every token.
        """
        found: dict[int, Tensor] = {}
        for part in batching.with_little_padding([len(source) for source in sources], PADDING):
            batch = batching.collate([{"input_ids": list(sources[row])} for row in part], self._pad, self.device)
            states = self.model.get_encoder()(**batch).last_hidden_state
            found.update((row, state[: len(sources[row])].float()) for row, state in zip(part, states, strict=True))
        return [found[row] for row in range(len(sources))]

    @property
    def _pad(self) -> int:
        return pad_token_id(self.tokenizer)

    def _decoder(self) -> Decoder:
        if self._weights is not None:
            return compiled.CompiledDecoder(self._weights)
        assert self._plan is not None
        return plain.PlainDecoder(self._plan, self.precision)

    @torch.inference_mode()
    def _agrees(self, plan: blueprint.Blueprint) -> bool:
        """Whether our decoder gives the model's own logits, on a few tokens: transformers may change, or a model."""
        model: Any = self.model
        tokens = torch.tensor([[3, 5, 4, 3]], device=self.device) % model.get_input_embeddings().weight.shape[0]
        whole = model(input_ids=tokens, decoder_input_ids=tokens).logits[0].float()
        states = [model.get_encoder()(input_ids=tokens).last_hidden_state[0].float()]
        tried: list[tuple[Decoder, str]] = [
            (plain.PlainDecoder(plan, "fp32"), "fp32"),
            (self._decoder(), self.precision),
        ]
        for decoder, precision in tried:
            decoder.join(states, [tokens.shape[1]], 1)
            found = torch.cat([decoder.step(token) for token in tokens[0].split(1)])
            if not (found - whole).norm() <= AGREEMENT[precision] * whole.norm():
                return False
        return True

    def _by_transformers(
        self,
        sources: Sequence[Sequence[int]],
        wishes: Wishes,
        batch_size: int,
        random_state: int,
        stage: str,
        stop: Callable[[], bool] | None,
    ) -> list[list[int]]:
        """As `tokens`, by transformers' ``generate`` in fp32."""

        def stopped(written: Tensor, scores: Any, **_: Any) -> Tensor:
            return torch.full((len(written),), bool(stop and stop()), device=written.device)

        generate: Callable[..., Tensor] = self.model.generate  # pyright: ignore[reportAssignmentType]
        found: list[list[int]] = [[] for _ in sources]
        criteria: Any = StoppingCriteriaList([stopped])  # pyright: ignore[reportArgumentType] (any callable is one)
        done = 0
        with hardware.seeded(random_state, self.device), torch.inference_mode():
            for part in batching.by_length([len(source) for source in sources], batch_size):
                batch = batching.collate([{"input_ids": list(sources[row])} for row in part], self._pad, self.device)
                written = generate(
                    **batch, generation_config=wishes.config, tokenizer=self.tokenizer, stopping_criteria=criteria
                )
                for row, tokens in zip(part, written.tolist(), strict=True):
                    found[row] = wishes.up_to_the_end(tokens[1:])
                done += len(part)
                advance(stage, done, len(sources), "rows")
        return found


def answer(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Sequence[int]],
    *,
    precision: str = "fp32",
    **options: Any,
) -> list[str]:
    """The model's answer to each encoded input: `Answerer` for one use.

    Args:
        model: in evaluation mode.
        tokenizer: decodes the answers.
        sources: token ids of each input, end-of-sequence included.
        precision: as `Answerer` takes it.
        **options: as `Answerer.tokens` takes them.
    """
    return Answerer(model, tokenizer, precision).answer(sources, **options)
