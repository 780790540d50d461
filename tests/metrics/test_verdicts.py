"""`seqtune.metrics.verdicts`: the word, the sentence, and the interval over training seeds."""

from __future__ import annotations

import numpy as np
import pytest

from seqtune.metrics import Lift, verdict, verdict_sentence
from seqtune.metrics.bootstrap import lifts
from seqtune.metrics.sums import mean
from seqtune.metrics.verdicts import over_seeds


@pytest.mark.parametrize(
    ("low", "high", "rows", "expected"),
    [
        (0.1, 5.0, 50, "better"),
        (-5.0, -0.1, 50, "worse"),
        (-1.0, 1.0, 50, "no clear difference"),
        (0.0, 5.0, 50, "no clear difference"),
        (-5.0, 0.0, 50, "no clear difference"),
        (0.0, 0.0, 50, "no clear difference"),
        (0.1, 5.0, 5, "better"),
        (0.1, 5.0, 4, "no clear difference"),
        (-5.0, -0.1, 4, "no clear difference"),
        (9.0, 9.0, 1, "no clear difference"),
    ],
)
def test_verdict(low, high, rows, expected):
    assert verdict(Lift((low + high) / 2, low, high, rows)) == expected


@pytest.mark.parametrize(
    ("metric", "result", "expected"),
    [
        (
            "rougeL",
            Lift(31.24, 27.5, 34.81, 53),
            "better: ROUGE-L +31.2 points over the base (95 % interval 27.5 to 34.8, 53 hold-out rows)",
        ),
        (
            "chrf",
            Lift(-3.0, -4.5, -1.5, 20, 0.9),
            "worse: chrF -3.0 points over the base (90 % interval -4.5 to -1.5, 20 hold-out rows)",
        ),
        (
            "exact_match",
            Lift(0.0, 0.0, 0.0, 8),
            "no clear difference: exact match +0.00 points over the base (95 % interval 0.00 to 0.00, 8 hold-out rows)",
        ),
        (
            "rouge1",
            Lift(0.3, 0.02, 0.6, 400),
            "better: ROUGE-1 +0.30 points over the base (95 % interval 0.02 to 0.60, 400 hold-out rows)",
        ),
        (
            "my_metric",
            Lift(20.0, 10.0, 30.0, 1),
            "no clear difference: my_metric +20.0 points over the base "
            "(95 % interval 10.0 to 30.0, 1 hold-out row, too few to tell)",
        ),
    ],
)
def test_verdict_sentence(metric, result, expected):
    assert verdict_sentence(metric, result) == expected
    assert verdict_sentence(metric, result, "validation") == expected.replace("hold-out", "validation")


def test_rows_of_few_questions_are_too_few():
    found = Lift(9.0, 8.0, 10.0, 40, questions=4)
    assert verdict(found) == "no clear difference"
    assert verdict_sentence("f1", found).endswith("40 hold-out rows of 4 questions, too few to tell)")


class TestSeeds:
    def test_worked_out_by_hand(self):
        # e = 2 over 41 questions, seeds 8, 10, 12: s² = 4, s² / S = 4/3, V = 16/3, ν = V² / (16/40 + (16/9)/2) = 22.07
        found = over_seeds(Lift(10.0, 6.0, 14.0, 41, questions=41, error=2.0), [8.0, 10.0, 12.0])
        assert found.mean == 10
        assert found.high - found.mean == pytest.approx(2.0735 * (16 / 3) ** 0.5, abs=1e-3)
        assert found.low == pytest.approx(20 - found.high)

    def test_one_seed_changes_nothing(self):
        lift = Lift(10.0, 6.0, 14.0, 41, questions=41, error=2.0)
        assert over_seeds(lift, [10.0]) == lift

    def test_seeds_that_disagree_make_a_clear_difference_unclear(self):
        lift = Lift(3.0, 1.0, 5.0, 200, questions=200, error=1.0)
        assert verdict(lift) == "better"
        assert verdict(over_seeds(lift, [7.0, 2.0, 0.0])) == "no clear difference"

    def test_no_spread_at_all(self):
        assert over_seeds(Lift(5.0, 5.0, 5.0, 9, questions=9), [5.0, 5.0]).high == 5

    def test_holds_the_true_lift_as_often_as_it_says(self):
        """True lift 3; rows differ by 12 points, seeds by 2, each answer by 8: not too sure with few seeds."""
        rng, held = np.random.default_rng(5), 0
        for repeat in range(400):
            by_row, by_seed = rng.normal(0, 12, 80), rng.normal(0, 2, 3)
            tuned = [3 + by_row + seed + rng.normal(0, 8, 80) for seed in by_seed]
            base = {"x": mean([0.0] * 80)}
            found = lifts(base, [{"x": mean(each.tolist())} for each in tuned], samples=500, seed=repeat)["x"]
            whole = over_seeds(found, [float(each.mean()) for each in tuned])
            held += whole.low <= 3 <= whole.high
        assert 0.93 <= held / 400 <= 0.99

    def test_the_sentence_says_it(self):
        found = verdict_sentence("rougeL", Lift(4.0, 2.0, 6.0, 60), seeds=3)
        assert found.endswith("(95 % interval 2.0 to 6.0, 60 hold-out rows, 3 training seeds)")
