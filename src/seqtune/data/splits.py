"""Training, validation and hold-out rows: by groups, the same on every machine and for every order of the file.

Rows that ask the same question (case, spacing and punctuation aside) stay together, so that no question is both trained
on and scored. Everything is ordered by sha256; nothing by a random generator or by the row's place in the file.

Not covered: questions that are alike without being the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import regex

from seqtune.data.checks import content_hash, counted
from seqtune.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

NAMES = ("train", "validation", "hold_out")
#: Up to this many different questions a score says little, and the splits say so.
FEW = 20
#: A share that misses what was asked for by more than this is told.
NOTABLE = 0.05
# Letters, marks and numbers of every script stay; of the marks, not the invisible ones (variation selectors, joiners).
ASIDE = regex.compile(r"[^\p{L}\p{M}\p{N}]+|\p{Default_Ignorable_Code_Point}+")


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


def question_key(text: str) -> str:
    """What two questions must share to be the same: their letters, marks and numbers, NFKC and casefolded.

    Of a text without any of these ("???"), the text itself, stripped.
    """
    # Folding case can undo the normal form, so that is made again (as Unicode's NFKC_Casefold does).
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return ASIDE.sub("", folded) or text.strip()


def shares_of(
    train_size: float, validation_size: float | None = None, hold_out_size: float | None = None
) -> dict[str, float]:
    """The three fractions of the whole; those of validation and hold-out share what is left equally unless given.

    Raises:
        InputError: naming the values, where one is not between 0 and 1, nothing is left, or all three do not sum to 1.
    """
    given = {"train_size": train_size, "validation_size": validation_size, "hold_out_size": hold_out_size}
    values = {name: value for name, value in given.items() if value is not None}
    text = ", ".join(f"{name} = {value:g}" for name, value in values.items())
    left = 1 - sum(values.values())
    _check_fractions(values)
    if len(values) == 3 and abs(left) > 1e-6:
        mend = f"Change one of them, or leave one out: for instance --train-size {max(left + train_size, 0.0):g}."
        if left + train_size <= 0:
            mend = "Make them smaller, or leave one out."
        raise InputError(f"{text}: they sum to {1 - left:g}, expected 1", mend=mend)
    if len(values) < 3 and left <= 1e-6:
        absent = " and ".join(name for name, value in given.items() if value is None)
        raise InputError(f"{text}: nothing is left for {absent}", mend="Make one of them smaller.")
    share = left / max(1, 3 - len(values))
    return {name.removesuffix("_size"): share if value is None else value for name, value in given.items()}


def _check_fractions(values: Mapping[str, float]) -> None:
    if not all(0 < value < 1 for value in values.values()):
        text = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        raise InputError(f"{text}: expected fractions between 0 and 1", mend="For instance --train-size 0.8.")


def split(
    dataset: Dataset,
    train_size: float,
    validation_size: float | None,
    hold_out_size: float | None,
    random_state: int,
) -> Splits:
    """Divide clean rows in three.

    Groups of rows with one `question_key` are never divided. They are ordered by sha256 of `random_state` and the key
    and fill training, then validation, then hold-out; sizes come as near to the fractions as groups allow, and each
    split gets at least one group. Inside a split the rows are ordered by sha256 of their content, so that training too
    is independent of the order in the file.

    Args:
        dataset: as `checks.clean_rows` makes it.
        train_size: fraction of the rows.
        validation_size: the same; None: half of what `train_size` leaves, or all that the other two leave.
        hold_out_size: the same; None: half of what `train_size` leaves, or all that the other two leave.
        random_state: another number, another division.

    Raises:
        InputError: fractions that do not fit together; fewer than three different questions.
    """
    parts, warnings = _divide(dataset, shares_of(train_size, validation_size, hold_out_size), random_state)
    return Splits(parts["train"], parts["validation"], parts["hold_out"], warnings)


def with_own_files(
    train: Dataset,
    validation: Dataset | None,
    hold_out: Dataset | None,
    train_size: float,
    validation_size: float | None,
    hold_out_size: float | None,
    random_state: int,
) -> Splits:
    """Divide clean rows, with the user's own validation rows, hold-out rows or both in place of a share.

    What is left of the shares keeps its proportions; the size of a split that has its own rows is not used. Rows whose
    question is in an own split are taken out of those to divide, and out of the own validation rows where it is in the
    own hold-out rows too; warnings count them.

    Args:
        train: the rows to divide.
        validation: own validation rows, or None.
        hold_out: own hold-out rows, or None.
        train_size: fraction of the whole, as for `split`.
        validation_size: the same.
        hold_out_size: the same.
        random_state: as for `split`.

    Raises:
        InputError: as `split`; an own split without rows; no rows left to train on or to validate with.
    """
    if validation is None and hold_out is None:
        return split(train, train_size, validation_size, hold_out_size, random_state)
    own = {name: rows for name, rows in (("validation", validation), ("hold_out", hold_out)) if rows is not None}
    wanted = {name: share for name, share in shares_of(train_size).items() if name not in own}
    for name, size in (("validation", validation_size), ("hold_out", hold_out_size)):
        if name not in own and size is not None:
            wanted[name] = size

    warnings: list[str] = []
    if len(own) == 2:
        own["validation"] = _taken_out(own["validation"], "validation", {"hold-out": own["hold_out"]}, warnings)
    train = _taken_out(train, "training", {name.replace("_", "-"): rows for name, rows in own.items()}, warnings)
    _check_fractions({f"{name}_size": share for name, share in wanted.items()})
    total = sum(wanted.values())
    parts, more = _divide(train, {name: share / total for name, share in wanted.items()}, random_state)
    parts |= {name: _by_content(rows) for name, rows in own.items()}
    return Splits(parts["train"], parts["validation"], parts["hold_out"], (*warnings, *more))


def with_new_files(made: Splits, validation: Dataset | None, hold_out: Dataset | None) -> Splits:
    """A finished division with other validation rows, hold-out rows or both; the training rows stay what they were.

    For scoring an adapter on rows that came later: rows whose question it was trained on, or chosen by, are left out of
    them, and warnings count them.

    Args:
        made: the division that the adapter was trained by.
        validation: rows in place of its validation rows, or None.
        hold_out: rows in place of its hold-out rows, or None.

    Raises:
        InputError: no row is left.
    """
    warnings = list(made.warnings)
    seen = {"training": made.train}
    if validation is not None:
        validation = _by_content(_taken_out(validation, "validation", seen, warnings))
    if hold_out is not None:
        chosen_by = {"validation": made.validation} if validation is None else {"own validation": validation}
        seen = {**seen, "validation": made.validation, **chosen_by}
        hold_out = _by_content(_taken_out(hold_out, "hold-out", seen, warnings))
    return Splits(made.train, validation or made.validation, hold_out or made.hold_out, tuple(warnings))


def _divide(
    dataset: Dataset, shares: Mapping[str, float], random_state: int
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """The rows by name of share, with warnings; one to three shares that sum to 1."""
    groups: dict[str, list[int]] = {}
    for index, text in enumerate(dataset["input"][:]):
        groups.setdefault(question_key(text), []).append(index)
    rows = len(dataset)
    names = " and ".join(name.replace("_", "-") for name in shares)
    if len(groups) < len(shares):
        found = f"{counted(len(groups), 'different question')} in {counted(rows, 'row')}"
        expected = f"expected at least {len(shares)}: one each for {names.replace(' and ', ', ', len(shares) - 2)}"
        raise InputError(
            found, [expected], "Add rows; the same question in other letter case or punctuation counts once."
        )

    ordered = sorted(groups, key=lambda key: content_hash(f"split {random_state}", key))
    targets = _targets(rows, shares)
    indices: dict[str, list[int]] = {name: [] for name in shares}
    for name, key in _filled(ordered, {key: len(members) for key, members in groups.items()}, targets):
        indices[name].extend(groups[key])

    warnings = []
    if len(groups) <= FEW:
        sizes = ", ".join(f"{name.replace('_', '-')} {len(members)}" for name, members in indices.items())
        warnings.append(
            f"only {counted(len(groups), 'different question')} in {counted(rows, 'row')} ({sizes}): "
            "scores from so few rows say little"
        )
    for name, members in indices.items():
        if len(groups) > FEW and abs(len(members) - targets[name]) > NOTABLE * rows:
            has = f"{name.replace('_', '-')} has {len(members) / rows:.0%} of the rows"
            warnings.append(f"{has} instead of {targets[name] / rows:.0%}: rows with the same question stay together")
    return {name: _by_content(dataset.select(members)) for name, members in indices.items()}, tuple(warnings)


def _targets(rows: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers of rows, at least one each, that sum to `rows` and are nearest to the shares."""
    targets = dict.fromkeys(shares, 0)
    *before_last, last = shares
    left, share_left = rows, 1.0
    for name in before_last:
        # Rounded first: 0.1 * 25 must be 2.5 whether 0.1 was given or is 1 - 0.9.
        targets[name] = min(left, int(round(left * shares[name] / share_left, 6) + 0.5))
        left, share_left = left - targets[name], share_left - shares[name]
    targets[last] = left
    for name in targets:
        if targets[name] < 1:
            targets[max(targets, key=targets.__getitem__)] -= 1
            targets[name] += 1
    return targets


def _filled(ordered: list[str], sizes: Mapping[str, int], targets: Mapping[str, int]) -> list[tuple[str, str]]:
    """Which split each group goes to: (name of the split, key) for every key.

    Groups larger than the smallest target go first, largest ahead, each to the split with most room: at the end they
    would fit nowhere. The others fill the splits in turn. No split is left without a group.
    """
    limit = min(targets.values())
    large = sorted((key for key in ordered if sizes[key] > limit), key=lambda key: -sizes[key])  # stable: ties by hash
    room = dict(targets)
    empty = set(targets)
    placed = []
    queue = [*large, *(key for key in ordered if sizes[key] <= limit)]
    for position, key in enumerate(queue):
        open_to = [name for name in targets if name in empty] if len(queue) - position <= len(empty) else list(targets)
        fitting = [name for name in open_to if room[name] >= sizes[key]] if sizes[key] <= limit else []
        name = fitting[0] if fitting else max(open_to, key=room.__getitem__)
        placed.append((name, key))
        room[name] -= sizes[key]
        empty.discard(name)
    return placed


def _by_content(dataset: Dataset) -> Dataset:
    """The rows ordered by sha256 of their content; rows alike in all of it by their number in the file."""
    columns = [dataset[name][:] for name in ("input", "reference", "extra", "row")]
    order = [(content_hash(*texts), row) for *texts, row in zip(*columns, strict=True)]
    return dataset.select(sorted(range(len(order)), key=order.__getitem__))


def _taken_out(dataset: Dataset, name: str, others: Mapping[str, Dataset], warnings: list[str]) -> Dataset:
    """The rows whose question is in none of the others; adds a warning for each of those that took some."""
    takers: dict[str, str] = {}
    for other, rows in others.items():
        if not len(rows):
            raise InputError(f"the {other} file has no rows", mend="Give a file with rows, or leave the option out.")
        for text in rows["input"][:]:
            takers.setdefault(question_key(text), other)
    found = [takers.get(question_key(text)) for text in dataset["input"][:]]
    for other in others:
        if count := found.count(other):
            were = "was" if count == 1 else "were"
            warnings.append(
                f"{counted(count, f'{name} row')} {were} left out: the same question is in the {other} file"
            )
    kept = [index for index, other in enumerate(found) if other is None]
    if not kept:
        text = f"no {name} row is left: the question of each is also in the {' or '.join(others)} file"
        raise InputError(text, mend="Give files that do not overlap.")
    return dataset.select(kept)
