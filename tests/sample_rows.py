"""Rows for tests that need a small question–answer file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

THINGS = ("lamp", "pump", "kettle", "scale", "drone", "router", "camera", "toaster", "fan", "radio")
QUESTIONS = (
    ("How long is the warranty of the {thing}?", "The {thing} has a warranty of {number} months."),
    ("What does a new {thing} cost?", "A new {thing} costs €{number}, delivery included."),
    ("The {thing} blinks red. What now?", "Unplug the {thing}, wait {number} seconds and plug it in again."),
    ("Where do I return a {thing}?", "Send the {thing} to hall {number}; the label is in the box."),
)


def question_rows() -> list[dict[str, Any]]:
    """40 rows with a question and a reply, all different, the replies with a number that one can get wrong."""
    return [
        {
            "question": question.format(thing=thing),
            "reply": reply.format(thing=thing, number=3 + 7 * index + 11 * kind),
            "topic": thing,
        }
        for index, thing in enumerate(THINGS)
        for kind, (question, reply) in enumerate(QUESTIONS)
    ]


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    """The path of a JSON file with these rows."""
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def pairs(names: str) -> list[dict[str, Any]]:
    """A row for each letter."""
    return [{"question": f"What is {name}?", "reply": f"{name} is number {ord(name)}."} for name in names]
