"""The word for a difference: better, no clear difference, worse; over rows, and over training seeds where there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, variance
from typing import Literal

from seqtune.metrics.bootstrap import Lift, student_t
from seqtune.metrics.rows import METRIC_LABELS

Verdict = Literal["better", "no clear difference", "worse"]

FEWEST_ROWS = 5  # below this the verdict never says more than "no clear difference"


def verdict(lift: Lift) -> Verdict:
    """ "better" if the whole interval lies above 0, "worse" if below, else "no clear difference".

    Fewer than 5 rows (different questions) are always "no clear difference": an interval from so few leaves out 0 as
    soon as all rows agree in sign, and four rows of two equal models do so by chance in one case of eight.
    """
    if not _is_few(lift):
        if lift.low > 0:
            return "better"
        if lift.high < 0:
            return "worse"
    return "no clear difference"


def over_seeds(lift: Lift, by_seed: Sequence[float]) -> Lift:
    """The interval that knows of the rows and of the training seeds.

    Rows and seeds are crossed random effects, so the variances of the two means add up: ``V = e² + s² / S``, with ``e``
    the standard error over rows (of the mean of the S seeds' scores, by bootstrap), ``s`` the standard deviation of the
    S seeds' lifts. The interval is ``mean ± t √V`` with Student's t and the degrees of freedom of Welch–Satterthwaite,
    ``V² / (e⁴ / (n − 1) + (s² / S)² / (S − 1))``. What of a row's noise is new with each seed is counted on both sides,
    so the interval is rather too wide than too narrow.

    Sources: Bouthillier et al. 2021, "Accounting for Variance in Machine Learning Benchmarks" (why both count);
    Satterthwaite 1946, "An Approximate Distribution of Estimates of Variance Components".

    Args:
        lift: of the mean of the seeds' scores, over the rows.
        by_seed: the lift of each seed over the same rows; two or more.
    """
    seeds, questions = len(by_seed), lift.questions or lift.rows
    if seeds < 2 or questions < 2:
        return lift
    of_rows, of_seeds = lift.error**2, variance(by_seed) / seeds
    total = of_rows + of_seeds
    centre = mean(by_seed)
    if total == 0:
        return replace(lift, mean=centre, low=centre, high=centre)
    degrees = total**2 / (of_rows**2 / (questions - 1) + of_seeds**2 / (seeds - 1))
    reach = student_t((1 + lift.confidence) / 2, degrees) * math.sqrt(total)
    return replace(lift, mean=centre, low=centre - reach, high=centre + reach, error=math.sqrt(total))


def verdict_sentence(metric: str, lift: Lift, split: str = "hold-out", seeds: int = 1) -> str:
    """Such as "better: ROUGE-L +31.2 points over the base (95 % interval 27.5 to 34.8, 53 hold-out rows)"."""
    # an end close to 0 is shown with two decimals, so that "better" is not seen beside an interval from 0.0
    places = 1 if min(abs(lift.low), abs(lift.high)) >= 0.05 else 2
    mean, low, high = (round(value, places) + 0.0 for value in (lift.mean, lift.low, lift.high))  # + 0.0: no "-0.0"
    rows = f"{lift.rows} {split} row{'' if lift.rows == 1 else 's'}"
    if 0 < lift.questions < lift.rows:
        rows += f" of {lift.questions} question{'' if lift.questions == 1 else 's'}"
    few = ", too few to tell" if _is_few(lift) else ""
    trained = f", {seeds} training seeds" if seeds > 1 else ""
    return (
        f"{verdict(lift)}: {METRIC_LABELS.get(metric, metric)} {mean:+.{places}f} points over the base "
        f"({100 * lift.confidence:g} % interval {low:.{places}f} to {high:.{places}f}, {rows}{few}{trained})"
    )


def _is_few(lift: Lift) -> bool:
    return min(lift.rows, lift.questions or lift.rows) < FEWEST_ROWS
