"""The rows in the page: their scores always, their text only where it was asked for and has room.

What has no room stands in the run's ``predictions/*.jsonl``, which the page can open beside itself; it says so.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from seqtune.report import groups, safety
from seqtune.report.reading import number

TextPolicy = Literal["none", "sample", "all"]

#: Bytes of text that all sets together may add to the page, as they stand in it.
ROOM = 16 * 2**20

#: Rows of a set whose scores are in the page.
MOST_ROWS = 20_000

#: Characters of a text that are in the page.
LONGEST_TEXT = 4_000

#: With "sample": rows from each end of the scores, from each end of the changes, and drawn at random.
OF_EACH = 20

TEXTS = ("input", "reference", "base", "tuned")

Rows = Sequence[Mapping[str, Any]]


def columns(rows: Rows, text: TextPolicy, metric: str, room: int = ROOM) -> tuple[dict[str, Any], int]:
    """A set as columns, for the page's scripts, and the room that is left.

    Args:
        rows: of `seqtune.scoring.prediction_rows`.
        text: whose questions and answers are in the page: nobody's, those of `chosen` rows, or all that have room.
        metric: by which "sample" chooses.
        room: bytes.

    Returns:
        ``of`` (rows of the set), ``rows`` (in the page), ``texts`` (with their text); ``row``, ``length`` (characters
        of the reference), ``scores`` (``{model: {metric: values}}``); the columns of `TEXTS` and ``extra`` (None where
        a row's text is not here); ``fields`` (``{name: {"values": …, "of": index of each row's value or -1}}``).
    """
    here = rows[:MOST_ROWS]
    wanted = set(range(len(here))) if text == "all" else set(chosen(here, metric)) if text == "sample" else set()
    shown: dict[str, list[str | None]] = {name: [None] * len(here) for name in (*TEXTS, "extra")}
    texts = 0
    for index in sorted(wanted):
        row = here[index]
        cells = {name: _cut(_text(row, name)) for name in TEXTS}
        cells["extra"] = _cut(extra_line(row.get("extra") or {}))
        size = len(safety.in_html(cells).encode("utf-8"))
        if size > room:
            break
        room -= size
        texts += 1
        for name, cell in cells.items():
            shown[name][index] = cell
    names = dict.fromkeys(name for row in here for model in ("base", "tuned") for name in row["scores"].get(model, {}))
    return {
        "of": len(rows),
        "rows": len(here),
        "texts": texts,
        "row": [row["row"] for row in here],
        "length": [len(_text(row, "reference")) for row in here],
        "scores": {
            model: {name: [_rounded(row["scores"].get(model, {}).get(name)) for row in here] for name in names}
            for model in ("base", "tuned")
        },
        **shown,
        "fields": _fields(here) if texts else {},
    }, room


def chosen(rows: Rows, metric: str) -> list[int]:
    """Rows worth reading, as indices in their order: best, worst, most improved, most worsened, and some at random."""
    base, tuned = ([number(row["scores"][m].get(metric)) or 0.0 for row in rows] for m in ("base", "tuned"))
    change = [t - b for b, t in zip(base, tuned, strict=True)]
    by_score = sorted(range(len(rows)), key=tuned.__getitem__)
    by_change = sorted(range(len(rows)), key=change.__getitem__)
    drawn = random.Random(0).sample(range(len(rows)), min(OF_EACH, len(rows)))
    ends = (by_score[:OF_EACH], by_score[-OF_EACH:], by_change[:OF_EACH], by_change[-OF_EACH:])
    return sorted({*drawn, *(index for end in ends for index in end)})


def extra_line(extra: Mapping[str, Any]) -> str:
    """A row's other fields in a line: ``topic: errors · id: 7``."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in extra.items()
    }
    return " · ".join(f"{' '.join(key.split())}: {' '.join(text.split())}" for key, text in texts.items())


def _text(row: Mapping[str, Any], name: str) -> str:
    if name == "reference" and row.get("references"):
        return "\n or \n".join(map(str, row["references"]))
    return str(row.get(name) or "")


def _cut(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]}… ({len(text) - LONGEST_TEXT:,} characters more)"


def _rounded(value: Any) -> float | None:
    found = number(value)
    return None if found is None else round(found, 3)


def _fields(rows: Rows) -> dict[str, Any]:
    found = {}
    for name, values in groups.fields(rows).items():
        distinct = sorted({value for value in values if value is not None})
        place = {value: index for index, value in enumerate(distinct)}
        found[name] = {"values": distinct, "of": [-1 if value is None else place[value] for value in values]}
    return found
