"""What requests and responses look like: OpenAI's chat completions, completions and models.

Fields that OpenAI's clients send and that change nothing here (``user``, ``store`` …) are taken; those that would
change the answer and can't (``tools``, ``logprobs``, penalties other than 0 …) are refused by name, not passed over.
Beside OpenAI's own: ``top_k``, ``num_beams``, ``repetition_penalty``, ``no_repeat_ngram_size`` of transformers.

Sampling: none unless ``temperature`` (above 0) or ``top_p`` is given; the model then answers as in its evaluation.
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

#: Below this temperature the likeliest token is taken: scores divided by less leave the numbers that there are.
COLD = 0.01

#: Most choices of one request: prompts times n.
CHOICES = 16


class Part(BaseModel):
    """A piece of a message; text is the only kind."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation. The last one of the user is the question."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    @property
    def text(self) -> str:
        """Its text, parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """What a stream brings besides the text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ResponseFormat(BaseModel):
    """Plain text is the only format."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]


#: Each is looked for at every token.
StopText = Annotated[str, Field(max_length=200)]


class Asked(BaseModel):
    """What both kinds of completion take."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    model: str = Field(min_length=1, max_length=500, description="A name of /v1/models.")
    max_tokens: int | None = Field(None, ge=1, description="Longest answer; the run's own unless given.")
    temperature: float | None = Field(
        None, ge=0, le=2, description="Below 0.01, like none, it takes the likeliest tokens."
    )
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    num_beams: int | None = Field(None, ge=1, le=16)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    no_repeat_ngram_size: int | None = Field(None, ge=0, le=100)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int | None = Field(None, ge=1, le=CHOICES)
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = Field(
        None, description="Up to four texts that end the answer."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    presence_penalty: float | None = Field(None, ge=0, le=0)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, content: Any) -> Any:
        """8.0 is a whole number in JSON (unlike true and "8")."""
        if not isinstance(content, dict):
            return content
        return {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in content.items()
        }

    @property
    def limit(self) -> int | None:
        """The most tokens asked for."""
        return self.max_tokens

    @property
    def stops(self) -> list[str]:
        """The texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def knobs(self, own: dict[str, Any]) -> dict[str, Any]:
        """How to search, of transformers' ``generate``: what was asked for, over the run's own."""
        names = ("top_k", "top_p", "num_beams", "repetition_penalty", "no_repeat_ngram_size")
        asked = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.temperature is not None:
            asked["do_sample"] = self.temperature >= COLD
            if asked["do_sample"]:
                asked["temperature"] = self.temperature
        elif self.top_p is not None or self.top_k is not None:
            asked["do_sample"] = True
        if asked.get("do_sample"):
            asked.setdefault("num_beams", 1)  # the run's own beams are for searching; drawn ones share no batch
        found = {name: own[name] for name in ("num_beams", "do_sample", "temperature", "top_k", "top_p")} | asked
        if not found["do_sample"]:  # so that greedy requests share batches whatever else they say
            for name in ("temperature", "top_k", "top_p"):
                del found[name]
        return found


class ChatRequest(Asked):
    """A chat completion."""

    messages: list[Message] = Field(
        min_length=1,
        max_length=1_000,
        json_schema_extra={"contains": {"type": "object", "properties": {"role": {"const": "user"}}}},
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="As max_tokens, which it goes before.")
    logprobs: Literal[False] | None = None
    response_format: ResponseFormat | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens asked for."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(Asked):
    """A completion: the prompt is the question."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=CHOICES)] = Field(
        description="A question, or several."
    )
    echo: Literal[False] | None = None
    best_of: int | None = Field(None, ge=1, le=1)
    logprobs: Literal[None] = None
    suffix: Literal[None] = None

    @property
    def prompts(self) -> list[str]:
        """The questions."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


def bounded(kind: type[Asked], max_new_tokens: int) -> Any:
    """The kind of request with the server's own limit of the answer in its bounds, and so in the OpenAPI document."""
    names = [name for name in ("max_tokens", "max_completion_tokens") if name in kind.model_fields]
    fields: dict[str, Any] = {
        name: (int | None, Field(None, ge=1, le=max_new_tokens, description=kind.model_fields[name].description))
        for name in names
    }
    return create_model(kind.__name__, __base__=kind, __doc__=kind.__doc__, **fields)


class Usage(BaseModel):
    """Tokens of question and answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Problem(BaseModel):
    """One error."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Refusal(BaseModel):
    """What every response that is no success holds."""

    error: Problem


class Card(BaseModel):
    """A model of the list; ``parent`` is the base of a tuned one."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    parent: str | None = None


class Cards(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Card]


class Answered(BaseModel):
    """A message of the model."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """What every answer has beside its text."""

    index: int
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatChoice(Choice):
    """One answer to a chat."""

    message: Answered


class TextChoice(Choice):
    """One answer to a prompt."""

    text: str


class Response(BaseModel):
    """What the answer to every request has beside its choices."""

    id: str
    created: int
    model: str
    usage: Usage


class ChatCompletion(Response):
    """The answer to a chat. ``ignored_messages`` were sent and can't be used: the model knows single questions."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    ignored_messages: int


class Completion(Response):
    """The answers to prompts."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]


def stamp(prefix: str, model: str) -> dict[str, Any]:
    """What every response begins with."""
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
