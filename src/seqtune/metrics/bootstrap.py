"""The paired bootstrap: how far a difference between two models hangs on the choice of rows.

Rows are drawn with replacement, the same rows for both models, and the difference of their scores is taken each time
(Efron & Tibshirani 1993, chapter 13; for text metrics Koehn 2004, "Statistical Significance Tests for Machine
Translation Evaluation"). Percentiles of the resampled differences are too narrow for few rows, and more so where a few
rows make most of the difference; so the interval is Student's, ``mean ± t · error`` with the bootstrap's error, and
corrected by the shape of the rows: for heavy tails by its degrees of freedom (`_degrees`), for a long tail on its side
(`_hall`). `benchmarks/coverage.py` counts how often it is right. Rows that ask the same question get the same answer
and are drawn together, as one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from seqtune.errors import InputError
from seqtune.metrics.rows import check_same_length
from seqtune.metrics.sums import Array, Sums, mean

_CHUNK = 1_000_000  # drawn rows held at once: 8 MB of indices and 8 MB of counts


@dataclass(frozen=True)
class Lift:
    """What tuning changed: tuned minus base, in points of the metric, with its interval.

    ``low`` to ``high`` is the interval, ``rows`` how many rows were compared, and ``confidence`` the share of repeated
    samplings whose interval holds the true difference. ``questions`` are the different ones among the rows, and
    ``error`` is the standard error of ``mean``.
    """

    mean: float
    low: float
    high: float
    rows: int
    confidence: float = 0.95
    questions: int = field(default=0, compare=False)
    error: float = field(default=0.0, compare=False)


def lift(
    base: Sequence[float], tuned: Sequence[float], samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Lift:
    """Mean difference tuned − base over the same rows, with its interval by paired bootstrap.

    Both scores of a row are drawn together, so what makes a row hard for both models cancels. The interval tells how
    far the choice of rows matters; it does not know of other training seeds. The same arguments give the same result.

    ``base`` and ``tuned`` are scores of the same rows in the same order. Raises InputError without rows, ValueError for
    lists of different length, scores not finite, or a bad ``samples`` or ``confidence``.
    """
    check_same_length(tuned, base)
    found = lifts({"": mean(base)}, [{"": mean(tuned)}], samples=samples, seed=seed, confidence=confidence)
    return found[""]


def lifts(
    base: Mapping[str, Sums],
    tuned: Sequence[Mapping[str, Sums]],
    *,
    questions: Sequence[Hashable] | None = None,
    samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Lift]:
    """The lift of every metric that all have, over the same resamplings.

    Args:
        base: the metrics of one model on some rows.
        tuned: those of the other on the same rows; of several (one a training seed), the mean of their scores counts.
        questions: a key for each row; rows of one key are drawn together. None: each row is its own.
        samples: resamplings.
        seed: of the drawing.
        confidence: of the interval.

    Raises:
        InputError: there are no rows.
        ValueError: rows that do not match, or a bad ``samples`` or ``confidence``.
    """
    if samples < 1 or not 0 < confidence < 1:
        raise ValueError(f"samples={samples}, confidence={confidence}: expected 1 or more, and between 0 and 1")
    names = [name for name in base if all(name in each for each in tuned)]
    compared = [_Difference(base[name], [each[name] for each in tuned]) for name in names]
    rows = len(compared[0].parts_RK) if compared else 0
    if not rows:
        raise InputError("there are no rows to compare", mend="A split needs at least one row.")
    parts_UK = _by_question(np.concatenate([each.parts_RK for each in compared], axis=1), questions)
    drawn = [np.empty(samples) for _ in compared]
    rng = np.random.default_rng(seed)
    units = len(parts_UK)
    step = max(1, _CHUNK // units)
    for start in range(0, samples, step):
        size = min(step, samples - start)
        chosen = rng.integers(0, units, size=(size, units)) + units * np.arange(size)[:, None]
        times = np.bincount(chosen.ravel(), minlength=size * units).reshape(size, units)
        sums = times.astype(np.float64) @ parts_UK
        at = 0
        for each, values in zip(compared, drawn, strict=True):
            width = each.parts_RK.shape[1]
            values[start : start + size] = each.score(sums[:, at : at + width])
            at += width
    found, at = {}, 0
    for name, each, values in zip(names, compared, drawn, strict=True):
        width = each.parts_RK.shape[1]
        apart = -each.without_one(
            parts_UK[:, at : at + width]
        )  # each unit's own part in the difference, up to a factor
        at += width
        error = float(values.std()) * math.sqrt(units / (units - 1)) if units > 1 else math.inf
        low, high = _interval(each.value, error, apart, confidence) if units > 1 else (-math.inf, math.inf)
        # never beyond what any resampling came to: an interval stays within what the metric can be
        low, high = max(low, float(values.min())), min(high, float(values.max()))
        found[name] = Lift(each.value, low, high, rows, float(confidence), units, error)
    return found


class _Difference:
    """A metric's difference as a function of sums. That of means is the mean of differences: 0 where all are 0."""

    def __init__(self, base: Sums, tuned: Sequence[Sums]):
        for each in tuned:
            check_same_length(each.parts_RK, base.parts_RK)
        self._base, self._tuned = base, tuned
        if base.is_mean:
            difference = np.mean([each.parts_RK[:, 0] - base.parts_RK[:, 0] for each in tuned], axis=0)
            self.parts_RK: Array = np.stack([difference, base.parts_RK[:, 1]], axis=1)
        else:
            self.parts_RK = np.concatenate([base.parts_RK, *(each.parts_RK for each in tuned)], axis=1)

    def score(self, sums: Array) -> Array:
        """From sums ``[…, K]`` to differences ``[…]``."""
        if self._base.is_mean:
            return self._base.score(sums)
        base, *tuned = np.split(sums, 1 + len(self._tuned), axis=-1)
        scores = [each.score(part) for each, part in zip(self._tuned, tuned, strict=True)]
        return np.mean(scores, axis=0) - self._base.score(base)

    @property
    def value(self) -> float:
        """The difference on the rows themselves."""
        return float(self.score(self.parts_RK.sum(axis=0)))

    def without_one(self, parts_UK: Array) -> Array:
        """``[U]``: the difference without each unit in turn, the jackknife's values; of a mean they mirror the rows."""
        return self.score(parts_UK.sum(axis=0) - parts_UK) if len(parts_UK) > 1 else np.zeros(1)


def _by_question(parts_RK: Array, questions: Sequence[Hashable] | None) -> Array:
    """The sums of each question, in the order of first rows."""
    if questions is None:
        return parts_RK
    check_same_length(questions, parts_RK)
    places: dict[Hashable, int] = {}
    unit = np.array([places.setdefault(question, len(places)) for question in questions])
    parts_UK = np.zeros((len(places), parts_RK.shape[1]))
    np.add.at(parts_UK, unit, parts_RK)
    return parts_UK


def _interval(mean: float, error: float, values_U: Array, confidence: float) -> tuple[float, float]:
    """``mean − error · max(t, h(t))`` to ``mean + error · max(t, −h(−t))``: h is `_hall`, t Student's of `_degrees`.

    The skewness of few rows is known badly: it widens the interval on the side of the long tail and narrows no side.
    """
    t = student_t((1 + confidence) / 2, _degrees(values_U))
    skew = _moment(values_U, 3) / math.sqrt(len(values_U))
    return mean - error * max(t, _hall(t, skew)), mean + error * max(t, -_hall(-t, skew))


def _hall(t: float, skew: float) -> float:
    """Where the studentised mean lies when its transform, which has no skewness, is at ``t``.

    Hall 1992, "On the Removal of Skewness by Transformation": the inverse of t + a t² / 3 + a² t³ / 27 + a / 6, with a
    the skewness divided by √n.
    """
    return t if abs(skew) < 1e-6 else 3 / skew * (math.cbrt(1 + skew * (t - skew / 6)) - 1)


def _degrees(values_U: Array) -> float:
    """Degrees of freedom of the spread of values: n − 1 of a normal distribution, fewer where few make most of it.

    ν = 2 n / (κ − (n − 3) / (n − 1)) makes the variance of s² that of a χ² (O'Neill 2014, "Some Useful Moment Results
    in Sampling Problems", with κ the kurtosis: 3 of a normal distribution). κ is estimated by G2 + 3 (Joanes & Gill
    1998). Light tails, and fewer than four values, count as normal.
    """
    n = len(values_U)
    if n < 4:
        return n - 1
    kurtosis = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (_moment(values_U, 4) - 3) + 6) + 3
    return min(n - 1.0, 2 * n / (max(kurtosis, 3.0) - (n - 3) / (n - 1)))


def _moment(values_U: Array, order: int) -> float:
    """The standardised central moment; that of a normal distribution where all values are the same but for rounding."""
    centred = values_U - values_U.mean()
    square = float((centred**2).mean())
    if not square > 1e-24 * float((values_U**2).mean()):
        return 3.0 if order == 4 else 0.0
    return float((centred**order).mean()) / square ** (order / 2)


def student_t(probability: float, degrees: float) -> float:
    """The quantile of Student's t with 1 or more degrees of freedom, for a probability of 0.5 to below 1."""
    low, high = 0.0, 1.0
    while _student_cdf(high, degrees) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, degrees: float) -> float:
    """Of t ≥ 0: ½ + Γ((ν + 1) / 2) / (√π Γ(ν / 2)) ∫₀^θ cos(φ)^(ν − 1) dφ with θ = atan(t / √ν)."""
    angle = math.atan(t / math.sqrt(degrees))
    nodes, weights = _GAUSS
    phi = angle * (nodes + 1) / 2
    integral = angle / 2 * float((weights * np.cos(phi) ** (degrees - 1)).sum())
    log_factor = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    return 0.5 + math.exp(log_factor) / math.sqrt(math.pi) * integral


_GAUSS = np.polynomial.legendre.leggauss(100)
