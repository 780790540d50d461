"""Taking what is there out of a manifest: runs of before, and runs that are not finished, lack some of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def dig(content: Any, *keys: str, default: Any = None) -> Any:
    """``content[a][b]…``, or the default where a part of the way is missing or None."""
    for key in keys:
        if not isinstance(content, Mapping) or content.get(key) is None:
            return default
        content = content[key]
    return content


def number(value: Any) -> float | None:
    """A number as one; None for all else (a truth value is no number, and neither is NaN)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return float(value)


def shown(value: float | None, digits: int = 2, signed: bool = False) -> str:
    """A number as text; "–" where there is none."""
    if value is None:
        return "–"
    return f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}"


def words(value: Any) -> str:
    """A setting's value as a person reads it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words(inner)}" for name, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(words, value))
    return str(value)


def set_name(split: str) -> str:
    """A set as a person calls it: ``hold-out``."""
    return split.replace("_", "-")


def took(seconds: float) -> str:
    """``9 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
