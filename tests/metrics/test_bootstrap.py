"""`seqtune.metrics.bootstrap` and `sums`: intervals of every kind of metric, and how often they are right."""

from __future__ import annotations

import dataclasses
import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu

from seqtune.errors import InputError
from seqtune.metrics import Lift, bootstrap, lift, row_scores, set_scores
from seqtune.metrics.bootstrap import lifts, student_t
from seqtune.metrics.sums import corpus, mean, of_predictions

WORDS = ("reset", "button", "hold", "ten", "seconds", "open", "settings", "network", "restart", "hub", "wait", "now")


def text(rng: np.random.Generator, length: int = 12) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(0, length)))


def prediction_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows as in a run's predictions, the tuned answers nearer to the reference."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        reference = text(rng) or "reset"
        base, tuned = text(rng), " ".join(w if rng.random() < 0.7 else rng.choice(WORDS) for w in reference.split())
        scores = {name: row_scores([answer], [reference])[0] for name, answer in (("base", base), ("tuned", tuned))}
        for model, loss in (("base", 3.0), ("tuned", 1.0)):
            scores[model]["loss"] = loss + rng.random()
        size = {"tokens": 1 + len(reference.split()), "bytes": len(reference)}
        rows.append({"input": f"q{number}", "reference": reference, "base": base, "tuned": tuned, "scores": scores})
        rows[-1]["target"] = size
    return rows


def test_lift_of_the_same_gain_everywhere_has_no_width():
    result = lift([10.0, 20.0, 30.0], [15.0, 25.0, 35.0], samples=100, seed=0)
    assert result == Lift(mean=5.0, low=5.0, high=5.0, rows=3, confidence=0.95)


def test_lift_of_two_rows_worked_out_by_hand():
    # differences 0 and 10: their mean has the error 5, and t of one degree is 12.7, but no resampling leaves 0 to 10;
    # for the middle fifth t is 0.325
    assert lift([0.0, 0.0], [0.0, 10.0], samples=4000, seed=1) == Lift(5.0, 0.0, 10.0, 2)
    found = lift([0.0, 0.0], [0.0, 10.0], samples=40_000, seed=1, confidence=0.2)
    assert (found.low, found.high) == pytest.approx((5 - 0.325 * 5, 5 + 0.325 * 5), abs=0.02)


def test_interval_worked_out_by_hand():
    # one row of 20 gained 100: skewness 18 / √19 = 4.129, kurtosis G2 + 3 = 23, ν = 40 / (23 − 17 / 19) = 1.81,
    # t = 4.77; a = 4.129 / √20 = 0.923: h(−4.77) = 3 / 0.923 · (∛(1 + 0.923 · (−4.77 − 0.154)) − 1) = −8.20
    values = np.array([100.0] + [0.0] * 19)
    low, high = bootstrap._interval(5.0, 5.0, values, 0.95)
    assert low == pytest.approx(5 - 5 * 4.77, abs=0.2)
    assert high == pytest.approx(5 + 5 * 8.20, abs=0.3)
    assert bootstrap._interval(-5.0, 5.0, -values, 0.95) == pytest.approx((-high, -low))


def test_normal_rows_have_students_interval():
    rng = np.random.default_rng(1)
    rows = rng.normal(3, 15, 400)
    found = lift([0.0] * 400, rows.tolist(), samples=20_000, seed=0)
    reach = student_t(0.975, 399) * rows.std(ddof=1) / math.sqrt(400)
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((reach, reach), rel=0.06)


def test_lift_is_seeded_plain_and_paired():
    rng = np.random.default_rng(7)
    base = rng.uniform(0, 100, 80)
    tuned = base + rng.normal(2, 3, 80)
    first = lift(base.tolist(), tuned.tolist(), samples=2000, seed=3)
    assert first == lift(base.tolist(), tuned.tolist(), samples=2000, seed=3)
    assert first != lift(base.tolist(), tuned.tolist(), samples=2000, seed=4)
    assert first.low < first.mean < first.high
    assert first.high - first.low < 2  # unpaired, the spread of the rows (29 points) would make it about 12
    assert all(type(value) in (float, int) for value in dataclasses.asdict(first).values())
    swapped = lift(tuned.tolist(), base.tolist(), samples=2000, seed=3)
    assert (swapped.mean, swapped.low, swapped.high) == pytest.approx((-first.mean, -first.high, -first.low))


def test_lift_takes_as_many_rows_as_there_are_without_holding_all_resamplings():
    import tracemalloc

    rng = np.random.default_rng(0)
    base, tuned = rng.uniform(0, 100, (2, 500))
    tracemalloc.start()
    lift(base.tolist(), tuned.tolist(), samples=10_000, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # all at once: 80 MB


def test_lift_refuses_what_it_cannot_compare():
    with pytest.raises(InputError, match="no rows"):
        lift([], [], samples=10, seed=0)
    with pytest.raises(ValueError, match="1 rows against 2"):
        lift([1.0, 2.0], [1.0], samples=10, seed=0)
    with pytest.raises(ValueError, match="finite"):
        lift([1.0, 2.0], [1.0, math.nan], samples=10, seed=0)
    with pytest.raises(ValueError, match="samples=0"):
        lift([1.0], [1.0], samples=0, seed=0)
    with pytest.raises(ValueError, match="confidence=95"):
        lift([1.0], [1.0], samples=10, seed=0, confidence=95)


def test_every_metric_of_prediction_rows_is_the_one_that_is_shown():
    rows = prediction_rows(40)
    found = of_predictions(rows, "tuned", "english")
    expected = set_scores([row["tuned"] for row in rows], [row["reference"] for row in rows])
    tokens = sum(row["target"]["tokens"] for row in rows)
    nll = sum(row["scores"]["tuned"]["loss"] * row["target"]["tokens"] for row in rows)
    expected |= {"loss": nll / tokens}
    expected |= {"bits_per_byte": nll / math.log(2) / sum(row["target"]["bytes"] for row in rows)}
    assert {name: each.value for name, each in found.items()} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_corpus_scores_of_resamplings_are_sacrebleus(name):
    rng = np.random.default_rng(3)
    answers = [text(rng, 9) for _ in range(12)]
    references = [text(rng, 9) if n % 3 else [text(rng, 9), text(rng, 6)] for n in range(12)]
    counted = corpus(name, answers, references, "english")
    theirs = sacrebleu.corpus_bleu if name == "bleu" else sacrebleu.corpus_chrf
    seen = set()
    for size in [1, 1, 1, 2, 2, 3, 5, 8, 12, 12, 12, 12] * 5:
        drawn = rng.integers(0, 12, size)
        some = [references[row] if isinstance(references[row], list) else [references[row]] for row in drawn]
        streams = [[each[n] if n < len(each) else None for each in some] for n in range(2)]
        expected = theirs([answers[row] for row in drawn], streams).score
        assert counted.score(counted.parts_RK[drawn].sum(axis=0)) == pytest.approx(expected, abs=1e-9)
        seen.add(expected == 0)
    assert name == "chrf" or seen == {True, False}, "few words without a match are among them"


def test_equal_answers_have_a_lift_of_nothing_at_all():
    rows = prediction_rows(30)
    same = [{**row, "tuned": row["base"], "scores": {"base": row["scores"]["base"]}} for row in rows]
    base = of_predictions(same, "base", "english")
    for name, found in lifts(base, [base], samples=500).items():
        assert (found.mean, found.low, found.high) == (0, 0, 0), name


def test_interval_of_bleu_is_that_of_drawing_rows_and_scoring_them():
    rows = prediction_rows(25)
    base, tuned = (of_predictions(rows, model, "english", ["bleu"]) for model in ("base", "tuned"))
    found = lifts(base, [tuned], samples=4000, seed=1)["bleu"]
    rng, slow = np.random.default_rng(2), []
    for _ in range(1500):
        drawn = [rows[n] for n in rng.integers(0, 25, 25)]
        wanted = [[row["reference"] for row in drawn]]
        scores = [sacrebleu.corpus_bleu([row[m] for row in drawn], wanted).score for m in ("tuned", "base")]
        slow.append(scores[0] - scores[1])
    assert found.error == pytest.approx(np.std(slow) * math.sqrt(25 / 24), rel=0.1)


def test_rows_of_one_question_are_drawn_together():
    rng = np.random.default_rng(0)
    base, tuned = rng.uniform(0, 100, (2, 40))
    once = lifts({"x": mean(base.tolist())}, [{"x": mean(tuned.tolist())}])["x"]
    thrice = lifts(
        {"x": mean(np.tile(base, 3).tolist())}, [{"x": mean(np.tile(tuned, 3).tolist())}], questions=[*range(40)] * 3
    )["x"]
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert (thrice.rows, thrice.questions) == (120, 40)
    taken_apart = lift(np.tile(base, 3).tolist(), np.tile(tuned, 3).tolist())
    assert taken_apart.high - taken_apart.low < 0.7 * (once.high - once.low), "as if there were three times the rows"


def test_quantiles_of_student():
    table = {(0.975, 1): 12.706, (0.975, 4): 2.776, (0.975, 9): 2.262, (0.95, 10): 1.812, (0.975, 120): 1.980}
    for (probability, degrees), expected in table.items():
        assert student_t(probability, degrees) == pytest.approx(expected, abs=6e-4)
    assert student_t(0.975, 1e6) == pytest.approx(1.95996, abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "rows"), [("skewed", 20), ("mostly the same", 20), ("zero or hundred", 60), ("bleu", 60)]
)
def test_intervals_hold_the_true_difference_as_often_as_they_say(shape, rows):
    """`benchmarks/coverage.py` by itself takes more shapes and sizes, and repeats it more often."""
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    simulation = runpy.run_path(str(path))
    assert 0.93 <= simulation["coverage"](shape, rows=rows, repeats=600, samples=600, large=3000) <= 0.97
