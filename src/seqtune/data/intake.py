"""From rows as they stand in a file to rows that are trained on, by the settings of a run: one way for all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from seqtune.data import checks, private, readers
from seqtune.data.problems import KEPT, Problem, Unreadable

if TYPE_CHECKING:
    from datasets import Dataset


def problems_of(
    rows: Sequence[dict | Unreadable], source: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[Problem]:
    """All that is wrong with the rows of a file, with their lines. Raises InputError as `checks.check_rows`."""
    keys = settings["input_text_key"], settings["output_text_key"]
    problems = checks.check_rows(rows, *keys, source["path"], settings["values_as_text"])
    lines = readers.lines_of(dict(source), {each.row for each in problems if each.line is None})
    return [each if each.line else replace(each, line=lines.get(each.row)) for each in problems]


def clean_of(rows: Sequence[dict | Unreadable], problems: Sequence[Problem], settings: Mapping[str, Any]) -> Dataset:
    """The rows without a problem, masked where that is asked for. Raises InputError where none is left."""
    keys = settings["input_text_key"], settings["output_text_key"]
    return private.masked(checks.clean_rows(rows, problems, *keys, settings["values_as_text"]), settings["mask"])


def rejects_of(
    rows: Sequence[dict | Unreadable], problems: Sequence[Problem], source: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The rows that can't be used, as the rejects file has them.

    Returns:
        For each such row, in file order: ``file``, ``row``, ``problems`` (each ``key``, ``found``, ``expected``,
        ``kind``, ``line``, ``column`` as far as known) and ``content``: the row itself, or its text where it can't be
        read (at most `KEPT` characters).
    """
    by_row: dict[int, list[Problem]] = {}
    for problem in problems:
        by_row.setdefault(problem.row, []).append(problem)
    rejects = []
    for number, found in sorted(by_row.items()):
        row = rows[number - 1]
        content = row.text if isinstance(row, Unreadable) else _short(row)
        listed = [problem.as_dict() for problem in found]
        rejects.append({"file": source["path"], "row": number, "problems": listed, "content": content})
    return rejects


def rejects_text(rejects: Iterable[Mapping[str, Any]]) -> str:
    """Rejects as JSON Lines: lone surrogates are escapes, dates and NaN text."""
    lines = [checks.as_json(dict(reject)) for reject in rejects]
    return "".join(line + "\n" for line in lines)


def _short(value: Any) -> Any:
    """A value with its texts cut to `KEPT` characters."""
    if isinstance(value, dict):
        return {str(name): _short(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_short(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value[:KEPT] if isinstance(value, str) else value
