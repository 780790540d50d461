"""What repeats itself in a set: rows, questions, answers; and what a random split of it would have leaked.

Each check takes clean rows with their `Groups` and gives one `Finding`. Rows are named by their number in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqtune.data.checks import counted
from seqtune.data.columns import digests
from seqtune.data.findings import Finding
from seqtune.data.groups import Groups, alike
from seqtune.data.shingles import question_key, shingles_of

if TYPE_CHECKING:
    from datasets import Dataset

#: Examples of each finding.
SHOWN = 3
#: Members of a group among which a good example is looked for.
AMONG = 30
#: Characters of a text in an example.
LONGEST = 90
#: Below this share of the rows, repeated ones are told but no reason to warn.
NOTABLE = 0.01
#: Rows for each different answer, on average, from which the answers are called a closed set; in so many rows at least.
CLOSED, CLOSED_ROWS = 10, 100


def repeated_rows(rows: Dataset, groups: Groups) -> Finding:
    """Rows with the question and the answer of another."""
    answers = digests(rows, "reference", str.strip)
    _, first, pair = np.unique(
        np.stack([groups.question.astype(np.uint64), answers]), axis=1, return_index=True, return_inverse=True
    )
    again = np.flatnonzero(first[pair] != np.arange(len(rows)))
    if not len(again):
        return Finding("repeated_rows", "PASS", "no row stands there twice", of=len(rows))
    copies = np.bincount(pair)
    top = np.argsort(-copies, kind="stable")[:SHOWN]
    return Finding(
        "repeated_rows",
        "WARN" if len(again) >= NOTABLE * len(rows) else "PASS",
        f"{_share(len(again), len(rows))} repeat a row before: the same question and the same answer",
        rows=len(again),
        of=len(rows),
        examples=tuple(f"{_said(rows, first[each])}   {copies[each]:,} times" for each in top if copies[each] > 1),
        mend="Each counts as often as it stands there. They stay in one set; take them out to weigh all rows the same.",
    )


def near_duplicates(rows: Dataset, groups: Groups) -> Finding:
    """Questions that are nearly the same as others."""
    _, first, question = np.unique(groups.question, return_index=True, return_inverse=True)
    _, of_group, sizes = np.unique(groups.group[first], return_inverse=True, return_counts=True)
    crowded = (sizes > 1)[of_group][question]
    if groups.threshold >= 1:
        return Finding("near_duplicates", "PASS", "not looked for (near_duplicate_threshold is 1)", of=len(rows))
    if not crowded.any():
        return Finding("near_duplicates", "PASS", "no two questions are nearly the same", of=len(rows))
    examples = []
    for each in np.argsort(-sizes, kind="stable")[:SHOWN]:
        if sizes[each] > 1:
            one, other = _likest(rows, first[np.flatnonzero(of_group == each)[:AMONG]])
            examples.append(f"{_said(rows, one)} and {_said(rows, other)}")
    most = int(np.bincount(of_group[question]).max())
    part = "" if groups.whole else "; in the largest crowds not all were compared"
    return Finding(
        "near_duplicates",
        "WARN" if crowded.mean() >= 0.5 else "PASS",
        f"{_share(int(crowded.sum()), len(rows))} have a question that is nearly that of another "
        f"({counted(int((sizes > 1).sum()), 'group')}, the largest of {counted(most, 'row')}{part})",
        rows=int(crowded.sum()),
        of=len(rows),
        examples=tuple(examples),
        mend="A group stays in one set. Many of a kind teach less than their number says.",
    )


def conflicting_answers(rows: Dataset, groups: Groups) -> Finding:
    """The same question with different answers."""
    answers = digests(rows, "reference", question_key)
    order = np.lexsort((answers, groups.question))
    question, answer = groups.question[order], answers[order]
    differs = (question[1:] == question[:-1]) & (answer[1:] != answer[:-1])
    torn = np.unique(question[1:][differs])
    concerned = int(np.isin(groups.question, torn).sum())
    if not len(torn):
        return Finding("conflicting_answers", "PASS", "no question has two different answers", of=len(rows))
    places = np.flatnonzero(differs)
    _, of_each = np.unique(question[1:][places], return_index=True)
    examples = []
    for place in places[of_each[:SHOWN]]:
        one, other = sorted((int(order[place]), int(order[place + 1])))
        answer_of = [_short(rows[each]["reference"], LONGEST // 2) for each in (one, other)]
        examples.append(f"{_said(rows, one)}: {answer_of[0]}; row {rows[other]['row']:,}: {answer_of[1]}")
    return Finding(
        "conflicting_answers",
        "WARN",
        f"{counted(len(torn), 'question')} ({counted(concerned, 'row')} of {len(rows):,}) have different answers",
        rows=concerned,
        of=len(rows),
        examples=tuple(examples),
        mend="The model learns a mixture of them. Keep one, or let the question say what makes the difference.",
    )


def few_answers(rows: Dataset) -> Finding:
    """Answers from a closed set, or one answer for most questions."""
    _, first, answer = np.unique(digests(rows, "reference", str.strip), return_index=True, return_inverse=True)
    counts = np.bincount(answer)
    top = np.argsort(-counts, kind="stable")[:SHOWN]
    found = f"{counted(len(counts), 'different answer')} in {counted(len(rows), 'row')}"
    examples = tuple(
        f"{counted(int(counts[each]), 'row')}: {_short(rows[int(first[each])]['reference'])}" for each in top
    )
    enough = len(rows) >= CLOSED_ROWS
    closed = enough and len(rows) >= CLOSED * len(counts)
    if closed:
        found = f"nearly a closed set: {found}"
    if enough and counts.max() > len(rows) / 2:
        text = f"{found}; one of them is the answer of {counts.max() / len(rows):.0%} of the rows"
        mend = "A model that always says this scores well and helps nobody. Balance the file, or compare with that."
        return Finding("few_answers", "WARN", text, int(counts.max()), len(rows), examples, mend)
    if closed:
        mend = (
            "The model learns to choose among these, not to write: exact_match is the score to look at, and a "
            "classifier or a look-up would be simpler and as good."
        )
        return Finding("few_answers", "WARN", found, len(rows), len(rows), examples, mend)
    return Finding("few_answers", "PASS", found, of=len(rows))


def leakage(rows: Dataset, groups: Groups, sets: Mapping[str, Dataset], own: Mapping[str, Dataset]) -> Finding:
    """Questions on both sides: of a random split (what is expected), and of the sets as they are (what is so).

    Args:
        rows: the rows that are divided.
        groups: of these.
        sets: ``train``, ``validation`` and ``hold_out`` made of them.
        own: those of the last two that are files of their own.
    """
    train = _rows_in(rows, sets["train"])
    random = np.bincount(groups.group)[groups.group] - 1
    expected = float(np.mean(1 - (1 - train.mean()) ** random))
    of_training = np.zeros(int(groups.group.max()) + 1, dtype=np.bool_)
    of_training[groups.group[train]] = True
    leaked, scored, examples = 0, 0, []
    for name in ("validation", "hold_out"):
        part = sets[name]
        scored += len(part)
        if name in own:
            _, found, _ = alike(part, sets["train"], groups.threshold)
            both = [(part, int(mine), sets["train"], int(found[mine])) for mine in np.flatnonzero(found >= 0)]
        else:
            mine = np.flatnonzero(_rows_in(rows, part) & of_training[groups.group])
            inside = {
                int(group): int(row) for row, group in zip(np.flatnonzero(train), groups.group[train], strict=True)
            }
            both = [(rows, int(row), rows, inside[int(groups.group[row])]) for row in mine]
        leaked += len(both)
        for here, row, there, other in both[: SHOWN - len(examples)]:
            examples.append(f"{_said(here, row)} ({name.replace('_', '-')}) and {_said(there, other)} (training)")
    would = f"; in a random split {expected:.0%} would have others of their group there" if expected >= 0.005 else ""
    if not leaked:
        found = f"none of {counted(scored, 'scored row')} has a near-duplicate in training{would}"
        return Finding("leakage", "PASS", found, of=scored)
    return Finding(
        "leakage",
        "WARN",
        f"{_share(leaked, scored)} that are scored have a near-duplicate in training{would}",
        rows=leaked,
        of=scored,
        examples=tuple(examples),
        mend="The scores say how well the model repeats such rows. Give a --hold-out-path of other questions.",
    )


def _likest(rows: Dataset, places: NDArray[np.int64]) -> tuple[int, int]:
    """The first of these rows and the one most like it."""
    found = shingles_of([question_key(rows[int(place)]["input"]) for place in places])
    one, *others = np.split(found.values, found.ends[1:-1].astype(np.int64))
    common = [np.isin(one, other).sum() / len(np.union1d(one, other)) for other in others]
    return int(places[0]), int(places[1 + int(np.argmax(common))])


def _rows_in(rows: Dataset, part: Dataset) -> NDArray[np.bool_]:
    return np.isin(np.asarray(rows["row"][:]), np.asarray(part["row"][:]))


def _said(rows: Dataset, at: Any) -> str:
    row = rows[int(at)]
    return f"row {row['row']:,} {_short(row['input'])}"


def _short(text: str, longest: int = LONGEST) -> str:
    line = " ".join(text.split())
    return f"“{line[: longest - 1]}…”" if len(line) > longest else f"“{line}”"


def _share(count: int, total: int) -> str:
    return f"{count:,} of {counted(total, 'row')} ({count / total:.1%})"
