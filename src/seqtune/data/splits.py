"""Training, validation and hold-out rows: by groups, the same on every machine and for every order of the file.

Rows that ask the same question (case, spacing and punctuation aside), or nearly the same (`seqtune.data.groups`), stay
together, so that no question is both trained on and scored. Everything is ordered by sha256; nothing by a random
generator or by the row's place in the file.

Not covered: questions that mean the same in other words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqtune.data.checks import content_hash, counted
from seqtune.data.columns import batches
from seqtune.data.groups import Groups, alike, grouped
from seqtune.data.placing import placed, said_of, targets_of
from seqtune.data.shares import check_fractions, shares_of
from seqtune.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

NAMES = ("train", "validation", "hold_out")
#: Up to this many different questions a score says little, and the splits say so.
FEW = 20
#: A share that misses what was asked for by more than this is told.
NOTABLE = 0.05


@dataclass(frozen=True)
class Splits:
    """The rows divided, and what the user should know of it.

    Args:
        train: rows to train on.
        validation: rows to choose the best adapter by.
        hold_out: rows for the final score.
        warnings: one sentence each.
    """

    train: Dataset
    validation: Dataset
    hold_out: Dataset
    warnings: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split, by name."""
        return {name: len(getattr(self, name)) for name in NAMES}


def split(
    dataset: Dataset,
    train_size: float,
    validation_size: float | None,
    hold_out_size: float | None,
    random_state: int,
    groups: Groups | None = None,
) -> Splits:
    """Divide clean rows in three.

    Groups of near-duplicates are not divided, unless nothing is left to score with otherwise; groups of rows with one
    `question_key` never are. They are ordered by sha256 of `random_state` and a key and fill training, then validation,
    then hold-out; sizes come as near to the fractions as groups allow, and each split gets at least one group. Inside a
    split the rows are ordered by sha256 of their content, so that training too is independent of the order in the file.

    Args:
        dataset: as `checks.clean_rows` makes it.
        train_size: fraction of the rows.
        validation_size: the same; None: half of what `train_size` leaves, or all that the other two leave.
        hold_out_size: the same; None: half of what `train_size` leaves, or all that the other two leave.
        random_state: another number, another division.
        groups: of the rows; None: rows with the same question.

    Raises:
        InputError: fractions that do not fit together; fewer than three different questions.
    """
    groups = groups or grouped(dataset, 1.0)
    parts, warnings = _divide(dataset, shares_of(train_size, validation_size, hold_out_size), random_state, groups)
    return Splits(parts["train"], parts["validation"], parts["hold_out"], warnings)


def with_own_files(
    train: Dataset,
    validation: Dataset | None,
    hold_out: Dataset | None,
    train_size: float,
    validation_size: float | None,
    hold_out_size: float | None,
    random_state: int,
    groups: Groups | None = None,
) -> Splits:
    """Divide clean rows, with the user's own validation rows, hold-out rows or both in place of a share.

    What is left of the shares keeps its proportions; the size of a split that has its own rows is not used. Rows whose
    question, or a near-duplicate of it, is in an own split are taken out of those to divide, and out of the own
    validation rows where it is in the own hold-out rows too; warnings count them. Near-duplicates stay where they would
    be more than half of the rows, and the warning says so.

    Args:
        train: the rows to divide.
        validation: own validation rows, or None.
        hold_out: own hold-out rows, or None.
        train_size: fraction of the whole, as for `split`.
        validation_size: the same.
        hold_out_size: the same.
        random_state: as for `split`.
        groups: of ``train``, as for `split`.

    Raises:
        InputError: as `split`; an own split without rows; no rows left to train on or to validate with.
    """
    if validation is None and hold_out is None:
        return split(train, train_size, validation_size, hold_out_size, random_state, groups)
    groups = groups or grouped(train, 1.0)
    own = {name: rows for name, rows in (("validation", validation), ("hold_out", hold_out)) if rows is not None}
    wanted = {name: share for name, share in shares_of(train_size).items() if name not in own}
    for name, size in (("validation", validation_size), ("hold_out", hold_out_size)):
        if name not in own and size is not None:
            wanted[name] = size

    warnings: list[str] = []
    if len(own) == 2:
        others = {"hold-out": own["hold_out"]}
        kept = _kept(own["validation"], "validation", others, groups.threshold, warnings)
        own["validation"] = own["validation"].select(kept)
    others = {name.replace("_", "-"): rows for name, rows in own.items()}
    kept = _kept(train, "training", others, groups.threshold, warnings)
    train, groups = train.select(kept), groups.take(kept)
    check_fractions({f"{name}_size": share for name, share in wanted.items()})
    total = sum(wanted.values())
    parts, more = _divide(train, {name: share / total for name, share in wanted.items()}, random_state, groups)
    parts |= {name: _by_content(rows) for name, rows in own.items()}
    return Splits(parts["train"], parts["validation"], parts["hold_out"], (*warnings, *more))


def with_new_files(
    made: Splits, validation: Dataset | None, hold_out: Dataset | None, threshold: float = 1.0
) -> Splits:
    """A finished division with other validation rows, hold-out rows or both; the training rows stay what they were.

    For scoring an adapter on rows that came later: rows whose question, or a near-duplicate of it, it was trained on or
    chosen by are left out of them, and warnings count them.

    Args:
        made: the division that the adapter was trained by.
        validation: rows in place of its validation rows, or None.
        hold_out: rows in place of its hold-out rows, or None.
        threshold: as in `Groups`.

    Raises:
        InputError: no row is left.
    """
    warnings = list(made.warnings)
    seen = {"training": made.train}
    if validation is not None:
        validation = _by_content(validation.select(_kept(validation, "validation", seen, threshold, warnings)))
    if hold_out is not None:
        chosen_by = {"validation": made.validation} if validation is None else {"own validation": validation}
        seen = {**seen, "validation": made.validation, **chosen_by}
        hold_out = _by_content(hold_out.select(_kept(hold_out, "hold-out", seen, threshold, warnings)))
    return Splits(made.train, validation or made.validation, hold_out or made.hold_out, tuple(warnings))


def _divide(
    dataset: Dataset, shares: Mapping[str, float], random_state: int, groups: Groups
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """The rows by name of share, with warnings; one to three shares that sum to 1."""
    rows = len(dataset)
    questions = len(np.unique(groups.question))
    names = " and ".join(name.replace("_", "-") for name in shares)
    if questions < len(shares):
        found = f"{counted(questions, 'different question')} in {counted(rows, 'row')}"
        expected = f"expected at least {len(shares)}: one each for {names.replace(' and ', ', ', len(shares) - 2)}"
        raise InputError(
            found, [expected], "Add rows; the same question in other letter case or punctuation counts once."
        )
    targets = targets_of(rows, shares)
    split_of, divided = placed(dataset, groups, targets, random_state)
    indices = {name: np.flatnonzero(split_of == number) for number, name in enumerate(shares)}

    warnings = []
    if questions <= FEW:
        sizes = ", ".join(f"{name.replace('_', '-')} {len(members)}" for name, members in indices.items())
        warnings.append(
            f"only {counted(questions, 'different question')} in {counted(rows, 'row')} ({sizes}): "
            "scores from so few rows say little"
        )
    for name, members in indices.items():
        if questions > FEW and abs(len(members) - targets[name]) > NOTABLE * rows:
            has = f"{name.replace('_', '-')} has {len(members) / rows:.0%} of the rows"
            warnings.append(f"{has} instead of {targets[name] / rows:.0%}: rows with the same question stay together")
    if divided:
        warnings.append(said_of(groups, split_of))
    return {name: _by_content(dataset.select(members)) for name, members in indices.items()}, tuple(warnings)


def _by_content(dataset: Dataset) -> Dataset:
    """The rows ordered by sha256 of their content; rows alike in all of it by their number in the file."""
    hashes, numbers = np.empty(len(dataset), dtype="S64"), np.empty(len(dataset), dtype=np.int64)
    at = 0
    for *columns, rows in batches(dataset, "input", "reference", "extra", "row"):
        part = slice(at, at + len(rows))
        hashes[part] = [content_hash(*texts).encode() for texts in zip(*columns, strict=True)]
        numbers[part] = rows
        at += len(rows)
    return dataset.select(np.lexsort((numbers, hashes)))


def _kept(
    dataset: Dataset, name: str, others: Mapping[str, Dataset], threshold: float, warnings: list[str]
) -> NDArray[np.int64]:
    """The rows whose question is in none of the others; adds warnings for those that took some."""
    same, near = np.full(len(dataset), -1), np.full(len(dataset), -1)
    for number, (other, rows) in enumerate(others.items()):
        if not len(rows):
            raise InputError(f"the {other} file has no rows", mend="Give a file with rows, or leave the option out.")
        is_same, found, _ = alike(dataset, rows, threshold)
        same[is_same & (same < 0)] = number
        near[(found >= 0) & (near < 0)] = number
    near[same >= 0] = -1
    for number, other in enumerate(others):
        if count := int((same == number).sum()):
            were = "was" if count == 1 else "were"
            warnings.append(
                f"{counted(count, f'{name} row')} {were} left out: the same question is in the {other} file"
            )
    kept = np.flatnonzero(same < 0)
    if not len(kept):
        text = f"no {name} row is left: the question of each is also in the {' or '.join(others)} file"
        raise InputError(text, mend="Give files that do not overlap.")
    too_many = (near >= 0).sum() > len(kept) / 2
    for number, other in enumerate(others):
        if count := int((near == number).sum()):
            text = f"{counted(count, f'{name} row')} {'was' if count == 1 else 'were'} left out"
            if too_many:
                text = (
                    f"{counted(count, f'{name} row')} {'stays' if count == 1 else 'stay'}, being too many to leave out"
                )
            warnings.append(f"{text}: a near-duplicate of the question is in the {other} file")
    return kept if too_many else np.flatnonzero((same < 0) & (near < 0))
