"""The shares of training, validation and hold-out set; a file of its own, for it is asked before NumPy is imported."""

from __future__ import annotations

from collections.abc import Mapping

from seqtune.errors import InputError


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
    check_fractions(values)
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


def check_fractions(values: Mapping[str, float]) -> None:
    """Raise InputError where one of the named values is not between 0 and 1."""
    if not all(0 < value < 1 for value in values.values()):
        text = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        raise InputError(f"{text}: expected fractions between 0 and 1", mend="For instance --train-size 0.8.")
