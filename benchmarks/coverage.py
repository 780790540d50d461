"""How often a 95 % interval of the bootstrap holds the true difference: to be 93 to 97 of 100 times.

    python benchmarks/coverage.py                     # all shapes and sizes, some minutes
    python benchmarks/coverage.py --repeats 200       # a look

Each repetition draws a test set from a population whose true difference is known, and asks `seqtune.metrics` for the
interval. The shapes are those that scores have: differences like a normal distribution, skewed ones (many rows a little
better, few much), rows of 0 and 100 alone (exact match), rows of which most do not change, and BLEU and chrF of texts,
which are no means of row scores (their true difference is that of one very large set).
"""

from __future__ import annotations

import argparse
import functools

import numpy as np

from seqtune.metrics import lift
from seqtune.metrics.bootstrap import lifts
from seqtune.metrics.sums import Sums, corpus

ROW_SHAPES = ("normal", "skewed", "zero or hundred", "mostly the same")
SHAPES = (*ROW_SHAPES, "bleu", "chrf")
WORDS = [f"word{n}" for n in range(60)]
LARGE = 20_000


def scores(shape: str, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Base and tuned scores of rows, and the true difference of the population."""
    base = rng.uniform(0, 100, rows)
    if shape == "normal":
        return base, base + rng.normal(3, 15, rows), 3.0
    if shape == "skewed":
        return base, base + rng.exponential(8, rows), 8.0
    if shape == "zero or hundred":
        base = 100.0 * (rng.random(rows) < 0.3)
        return base, 100.0 * (rng.random(rows) < 0.5), 20.0
    changed = rng.random(rows) < 0.3
    return base, base + changed * rng.normal(10, 20, rows), 3.0


def texts(rows: int, rng: np.random.Generator) -> tuple[list[str], list[str], list[str]]:
    """References, and the answers of two models that get six and eight words of ten right."""

    def answer(reference: list[str], right: float) -> str:
        kept = rng.random(len(reference)) < right
        return " ".join(w if keep else str(rng.choice(WORDS)) for w, keep in zip(reference, kept, strict=True))

    references = [list(rng.choice(WORDS, rng.integers(3, 15))) for _ in range(rows)]
    return (
        [" ".join(each) for each in references],
        [answer(each, 0.6) for each in references],
        [answer(each, 0.8) for each in references],
    )


@functools.cache
def population(metric: str, rows: int = LARGE) -> tuple[Sums, Sums]:
    """A large set's sums, from which test sets are drawn: texts are costly to make."""
    references, base, tuned = texts(rows, np.random.default_rng(0))
    return corpus(metric, base, references, "english"), corpus(metric, tuned, references, "english")


def coverage(shape: str, *, rows: int, repeats: int, samples: int, large: int = LARGE) -> float:
    """The share of intervals that hold the true difference."""
    rng, held = np.random.default_rng(len(shape) + rows), 0
    for repeat in range(repeats):
        if shape in ROW_SHAPES:
            base, tuned, true = scores(shape, rows, rng)
            found = lift(base.tolist(), tuned.tolist(), samples=samples, seed=repeat)
        else:
            whole = population(shape, large)
            true = whole[1].value - whole[0].value
            drawn = rng.integers(0, large, rows)
            base, tuned = (Sums(each.parts_RK[drawn], each.score, False) for each in whole)
            found = lifts({"": base}, [{"": tuned}], samples=samples, seed=repeat)[""]
        held += found.low <= true <= found.high
    return held / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rows", type=int, nargs="+", default=[20, 50, 200])
    given = parser.parse_args()
    print("| differences | " + " | ".join(f"{rows} rows" for rows in given.rows) + " |")
    print("|---|" + "---|" * len(given.rows))
    for shape in SHAPES:
        shares = [coverage(shape, rows=n, repeats=given.repeats, samples=given.samples) for n in given.rows]
        print(f"| {shape} | " + " | ".join(f"{100 * share:.1f} %" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
