"""What a sweep tries: settings, each with a range or a list of values, as the command line writes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from seqtune.errors import InputError, did_you_mean
from seqtune.settings import DEFAULT, knobs, validated

#: Stands for "not given": the setting is derived, as it is without a sweep.
UNSET = "default"

#: What is tried unless told: what decides most of the quality of a LoRA run, the learning rate first.
USUAL = ("learning_rate=2e-4..1e-2:log", "target_modules=default|all-linear", "lora_r=8,16,32")

#: Settings of these groups that change what runs are compared by, or what a run is.
_FIXED = (
    "input_template", "max_target_length", "preserve_characters",  # what is predicted, token by token
    "minutes", "seeds", "shard_base",  # how long a run is, how many there are, on how many machines
)  # fmt: skip


_GROUPS = ("finetuning", "tokenization")


@dataclass(frozen=True)
class Dimension:
    """One setting and the values it may take: ``choices``, or all from ``low`` to ``high``.

    Attributes:
        name: of the setting.
        choices: the values; empty for a range.
        low: least value of a range.
        high: largest.
        log: whether each doubling is as likely as the next.
        whole: whole numbers only.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def text(self) -> str:
        """As `parsed` reads it."""
        if self.choices:
            return f"{self.name}=" + "|".join(UNSET if value is None else str(value) for value in self.choices)
        return f"{self.name}={self.low:g}..{self.high:g}" + (":log" if self.log else "")

    def holds(self, value: Any) -> bool:
        """Whether a value is among those that are tried."""
        return value in self.choices if self.choices else value is not None and self.low <= value <= self.high


def parsed(texts: Iterable[str]) -> list[Dimension]:
    """The dimensions that the texts name.

    Args:
        texts: ``NAME=LOW..HIGH``, with ``:log`` behind it or not; ``NAME=VALUE,VALUE``; or, where values have commas,
            ``NAME=VALUE|VALUE``. The value ``default`` leaves the setting out.

    Raises:
        InputError: naming every text that can't be used, at once.
    """
    found: dict[str, Dimension] = {}
    problems: list[str] = []
    for text in texts:
        try:
            each = _dimension(text)
        except InputError as error:
            problems.append(f"--try {text}   {error.headline}")
            continue
        if each.name in found:
            problems.append(f"--try {text}   {each.name} is tried twice")
        found[each.name] = each
    if problems:
        noun = "problem" if len(problems) == 1 else "problems"
        mend = "For instance --try learning_rate=1e-4..3e-3:log --try lora_r=8,16,32."
        raise InputError(f"sweep: {len(problems)} {noun}", problems, mend)
    return list(found.values())


def _dimension(text: str) -> Dimension:
    name, equals, values = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    known = [each.name for each in knobs().values() if each.group in _GROUPS and each.name not in _FIXED]
    if not equals or not values.strip():
        raise InputError("expected NAME=VALUES")
    if name not in knobs():
        raise InputError(f"no such setting   {did_you_mean(name, known)}".rstrip())
    if name in _FIXED or knobs()[name].group not in _GROUPS:
        raise InputError("runs that differ in this can't be compared by their validation loss")
    kind = knobs()[name].type
    if ".." in values:
        span, _, scale = values.partition(":")
        if kind not in (int, float) or scale not in ("", "log", "linear"):
            raise InputError("a range is of numbers, and its scale is log or linear")
        low, high = (_value(name, part.strip()) for part in span.split("..", 1))
        if low is None or high is None or not low < high or (scale == "log" and low <= 0):
            raise InputError("expected the smaller number first, and above 0 for log")
        return Dimension(name, low=low, high=high, log=scale == "log", whole=kind is int)
    parts = [part.strip() for part in values.split("|" if "|" in values or kind is str else ",")]
    choices = tuple(_value(name, part) for part in parts)
    if len(set(choices)) != len(choices):
        raise InputError("a value stands there twice")
    return Dimension(name, choices)


def _value(name: str, text: str) -> Any:
    if text == UNSET:
        return getattr(DEFAULT, name)
    try:
        return validated({name: text})[name]
    except InputError as error:
        raise InputError(error.details[0]) from None
