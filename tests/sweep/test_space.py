"""What `--try` takes, and in which words the rest is refused."""

from __future__ import annotations

import pytest

from seqtune.errors import InputError
from seqtune.sweep.space import USUAL, parsed


def test_ranges_and_lists():
    rate, rank, modules, dropout = parsed(
        [
            "learning_rate=1e-4..3e-3:log",
            "lora-r=8,16,32",
            "target_modules=default|q,v|all-linear",
            "lora_dropout=0..0.2",
        ]
    )
    assert (rate.low, rate.high, rate.log, rate.whole) == (1e-4, 3e-3, True, False)
    assert rank.choices == (8, 16, 32)
    assert modules.choices == (None, "q,v", "all-linear")
    assert (dropout.low, dropout.high, dropout.log) == (0.0, 0.2, False)
    assert rate.holds(1e-3)
    assert not rate.holds(1e-2)
    assert rank.holds(8)
    assert modules.holds(None)
    assert [each.text for each in parsed([each.text for each in (rate, rank, modules)])] == [
        "learning_rate=0.0001..0.003:log", "lora_r=8|16|32", "target_modules=default|q,v|all-linear",
    ]  # fmt: skip


def test_the_usual_sweep_holds_the_usual_run():
    from seqtune.settings import DEFAULT

    assert all(each.holds(getattr(DEFAULT, each.name)) for each in parsed(USUAL))


def test_all_problems_at_once():
    with pytest.raises(InputError) as caught:
        parsed(["learning_rat=1..2", "lora_r=0,8", "lora_r", "max_eval_rows=3,4", "learning_rate=2..1",
                "lora_dropout=0..0.1:log", "engine=fast..reference", "lora_alpha=8,8", "num_beams=1,2"])  # fmt: skip
    text = str(caught.value)
    assert caught.value.headline == "sweep: 9 problems"
    for said in (
        "did you mean `learning_rate`?", "lora_r = '0'   expected a whole number, at least 1", "expected NAME=VALUES",
        "can't be compared by their validation loss", "expected the smaller number first", "a range is of numbers",
        "a value stands there twice",
    ):  # fmt: skip
        assert said in text
