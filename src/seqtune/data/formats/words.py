"""What the two JSON formats say alike."""

from __future__ import annotations

import json
import re

from seqtune.data.problems import KEPT, Unreadable

#: Said wherever a JSON file has another shape.
SHAPE = 'Expected a list of objects: [{"question": "…", "reply": "…"}, …], or one such object a line.'
#: Lists and objects in each other down to this depth; Python's own tools give up at a few hundred.
DEPTH = 64
NESTED = f"expected at most {DEPTH} levels"


def no_json(error: json.JSONDecodeError) -> str:
    """What the parser says, in words."""
    return f"is no JSON: {error.msg[:1].lower()}{error.msg[1:].removesuffix(' at').removesuffix(' starting')}"


def deep(error: BaseException) -> str:
    """What was expected of a row that Python's parser gave up."""
    return NESTED if isinstance(error, RecursionError) else ""


def nested(text: str, line: int) -> Unreadable:
    """A row that is nested too deeply."""
    return Unreadable("is nested too deeply", NESTED, text[:KEPT], line)


def hint(text: str, position: int) -> str:
    """The mend for the slips that break most JSON files; else the empty string."""
    before = text[max(0, position - 200) : position].rstrip()
    rest = text[position : position + 200].lstrip()
    if rest.startswith("'"):
        return "JSON takes double quotes, not single ones."
    # Python 3.13 reports the place of the comma itself, earlier ones that of the bracket.
    if rest and ((before.endswith(",") and rest[0] in "]}") or re.match(r",\s*[\]}]", rest)):
        return "Remove the comma before the closing bracket."
    if re.match(r"(None|True|False)\b", rest):
        return "Python's None, True and False are null, true and false in JSON."
    return ""


def reason(error: BaseException) -> str:
    """The first line of an exception's message, in words."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return "holds a number of more than 4,300 digits" if text.startswith("Exceeds the limit") else text
