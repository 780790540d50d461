"""Keys of rows: dotted paths into nested objects, and which of them a person most likely meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: What `value_at` returns where a row lacks the key; compare with ``is``.
MISSING = object()
#: Usual names of the two fields, likeliest first.
# fmt: off
USUAL_INPUTS = (
    "question", "instruction", "prompt", "input", "query", "source", "problem", "request", "user", "text", "context",
    "description", "title", "utterance",
)
USUAL_OUTPUTS = (
    "reply", "answer", "response", "output", "target", "completion", "command", "solution", "label", "assistant",
    "summary", "translation", "text",
)
# fmt: on
#: Objects in objects are listed down to this many levels.
DEPTH = 4


def value_at(row: Any, key: str) -> Any:
    """The value under a dotted path: ``message.text``, and ``turns.0.text`` with the number of a list's element.

    Args:
        row: an object; or what lies in one, on the way down.
        key: the path.

    A key with dots in its own name wins over a path. Returns `MISSING` where there is no such value.
    """
    if isinstance(row, dict):
        if key in row:
            return row[key]
        for head, rest in _divisions(key):
            if head in row and (value := value_at(row[head], rest)) is not MISSING:
                return value
    elif isinstance(row, list):
        head, _, rest = key.partition(".")
        if head.isdecimal() and int(head) < len(row):
            return value_at(row[int(head)], rest) if rest else row[int(head)]
    return MISSING


def paths_of(row: dict, depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    """The dotted paths of a row with their values; of a list of objects, those of its first object."""
    for name, value in row.items():
        if isinstance(value, dict) and value and depth > 1:
            inner = paths_of(value, depth - 1)
        elif isinstance(value, list) and value and isinstance(value[0], dict) and depth > 1:
            inner = ((f"0.{path}", each) for path, each in paths_of(value[0], depth - 1))
        else:
            yield str(name), value
            continue
        for path, each in inner:
            yield f"{name}.{path}", each


def likeliest(keys: tuple[str, str], absent: Sequence[str], texts: Mapping[str, float]) -> dict[str, str]:
    """For each absent key the path that was likely meant; a key is left out where nothing is likely.

    Args:
        keys: the input and the output key as given.
        absent: those of them that no row has.
        texts: the paths that hold text, with the share of rows in which they do.
    """
    free = {path: share for path, share in texts.items() if path not in keys}
    chosen: dict[str, str] = {}
    for key in sorted(absent, key=keys.index):
        usual = USUAL_INPUTS if key == keys[0] else USUAL_OUTPUTS
        scores = {path: _likeness(path, key, usual) + share / 10 for path, share in free.items()}
        best = max(scores, key=scores.__getitem__, default=None)
        # With one text left to choose from there is no need of a likely name.
        if best is not None and (scores[best] >= 0.5 or len(free) == 1):
            chosen[key] = best
            del free[best]
    return chosen


def _likeness(path: str, key: str, usual: Sequence[str]) -> float:
    """3 to 4 for a slip of the pen, 2 to 3 for a usual name, 1 to 2 for a name with a usual word in it, else 0."""
    leaf = path.rsplit(".", 1)[-1].lower()
    ratio = max(difflib.SequenceMatcher(None, key.lower(), name).ratio() for name in (path.lower(), leaf))
    if ratio >= 0.75:
        return 3 + ratio
    words = re.split(r"[^a-z]+", leaf) if leaf not in usual else [leaf]
    ranks = [usual.index(word) for word in words if word in usual]
    if not ranks:
        return 0
    return (2 if leaf in usual else 1) + 1 - min(ranks) / len(usual)


def _divisions(key: str) -> Iterator[tuple[str, str]]:
    """The ways to divide a dotted path in head and rest, longest head first."""
    parts = key.split(".")
    for count in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:count]), ".".join(parts[count:])


def without(node: Any, key: str) -> Any:
    """A copy of `node` without the value that `value_at` finds; what else it shares with `node` is not copied."""
    if isinstance(node, dict):
        if key in node:
            return {name: value for name, value in node.items() if name != key}
        for head, rest in _divisions(key):
            if head in node and value_at(node[head], rest) is not MISSING:
                left = without(node[head], rest)
                return {
                    name: left if name == head else value for name, value in node.items() if name != head or left != {}
                }
    elif isinstance(node, list) and value_at(node, key) is not MISSING:
        head, _, rest = key.partition(".")
        # null keeps the place: the other key may count in the same list.
        return [(without(value, rest) if rest else None) if i == int(head) else value for i, value in enumerate(node)]
    return node
