"""The training loop on tiny models of the families that the project names first."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from seqtune.engine import hardware, loop, loss
from seqtune.engine.batching import collate
from seqtune.errors import RunError
from seqtune.models import loading
from seqtune.settings import DEFAULT
from small_training import CPU, Setup, weights_of, without_dropout

FAMILIES = ("t5", "mt5", "bart", "pegasus")


class KeepsGradient(torch.optim.SGD):
    """Stands in for AdamW and keeps the gradient that it was given."""

    last: torch.Tensor

    def __init__(self, weights: Any, **_: Any):
        super().__init__(weights, lr=1.0)

    def step(self, closure: Any = None) -> None:
        weights = [weight for group in self.param_groups for weight in group["params"]]
        KeepsGradient.last = torch.cat([weight.grad.flatten().clone() for weight in weights])
        super().step()


@pytest.fixture(scope="module")
def setups(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Setup]:
    folder = tmp_path_factory.mktemp("families")
    return {family: Setup(family, folder) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_accumulation_is_the_same_step(setups: dict[str, Setup], family: str, monkeypatch: pytest.MonkeyPatch):
    """1×8, 2×4 and 8×1 rows: the same loss and gradient, for the gradient is per target token of the whole step.

    In fp64, where rounding does not blur the comparison: equal to 1e-10, and fp32 differs from it by rounding alone.
    """
    monkeypatch.setattr(torch.optim, "AdamW", KeepsGradient)
    results = []
    for per_device, passes in ((8, 1), (4, 2), (1, 8)):
        model = without_dropout(setups[family].adapted()).double()
        state = setups[family].train(
            model,
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=passes,
            max_steps=1,
            max_grad_norm=0.0,
        )
        assert float(KeepsGradient.last.norm()) == pytest.approx(state.log[1]["grad_norm"], rel=1e-5)
        results.append((state.log[1]["loss"], KeepsGradient.last))
    loss_1, gradient_1 = results[0]
    for loss_n, gradient_n in results[1:]:
        assert loss_n == pytest.approx(loss_1, rel=1e-10)
        assert float((gradient_n - gradient_1).norm() / gradient_1.norm()) < 1e-10


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_the_models_own(setups: dict[str, Setup], family: str):
    setup = setups[family]
    batch = collate(setup.rows[:4], 0)
    with torch.inference_mode():
        ours = loss.forward(setup.base, batch).sum() / loss.target_tokens(batch)
        own = setup.base(**batch).loss
    assert float(ours) == pytest.approx(float(own), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_lowers_the_loss_and_leaves_the_base_alone(setups: dict[str, Setup], family: str):
    setup = setups[family]
    before = loading.weights_sha256(setup.base)
    model = setup.adapted()
    untrained = weights_of(model)
    state = setup.train(model, max_steps=12, per_device_train_batch_size=4)
    assert loading.weights_sha256(setup.base) == before
    assert state.best_loss < state.log[0]["validation_loss"] - 0.01
    assert any(not torch.equal(untrained[name], weight) for name, weight in weights_of(model).items())


def test_the_best_adapter_is_left_in_the_model(setups: dict[str, Setup]):
    """A learning rate that destroys what it learned: the best is not the last, and the best is what stays."""
    setup = setups["t5"]
    model = setup.adapted()
    state = setup.train(model, max_steps=14, eval_steps=1, learning_rate=3.0, early_stopping_patience=0)
    assert state.best_step < 14
    assert loop.mean_loss(model, setup.rows[12:], 16, 0, CPU) == pytest.approx(state.best_loss, rel=1e-6)
    assert state.best_loss == min(row["validation_loss"] for row in state.log)


def test_grouped_by_length_each_token_weighs_the_same(setups: dict[str, Setup], monkeypatch: pytest.MonkeyPatch):
    """The step's gradient is that of its mean loss times its share of the tokens of a mean step."""
    monkeypatch.setattr(torch.optim, "AdamW", KeepsGradient)
    setup = setups["t5"]
    found = {}
    for grouped in (False, True):  # the file is so small that a window is one step: the same rows
        model = without_dropout(setup.adapted()).double()
        setup.train(model, max_steps=1, max_grad_norm=0.0, per_device_train_batch_size=4, group_by_length=grouped)
        found[grouped] = KeepsGradient.last
    lengths = [(len(row["labels"]), 0) for row in setup.rows[:12]]
    rows = loop.batching.epoch_order(lengths, 4, seed=DEFAULT.random_state, epoch=0, window_steps=1)[0]
    weight = sum(lengths[row][0] for row in rows) / (sum(length for length, _ in lengths) / 3)
    assert abs(weight - 1) > 0.01
    assert float((found[True] - found[False] * weight).norm() / found[True].norm()) < 1e-5


@pytest.mark.parametrize(("knobs", "grouped"), [({}, False), ({"group_by_length": True}, True)])
def test_rows_are_grouped_when_the_run_is_long(
    setups: dict[str, Setup],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    knobs: Any,
    grouped: bool,
):
    with caplog.at_level("INFO", logger="seqtune"):
        setups["t5"].train(setups["t5"].adapted(), engine="fast", max_steps=2, **knobs)
    assert ("batches of rows of like length (given)" in caplog.text) == grouped
    monkeypatch.setattr(loop, "GROUPED_FROM", 2)
    caplog.clear()
    with caplog.at_level("INFO", logger="seqtune"):
        setups["t5"].train(setups["t5"].adapted(), engine="fast", max_steps=2)
    assert "batches of rows of like length (2 steps and more)" in caplog.text


def test_early_stopping(setups: dict[str, Setup]):
    knobs = {"max_steps": 40, "eval_steps": 1, "learning_rate": 3.0}
    stopped = setups["t5"].train(setups["t5"].adapted(), **knobs, early_stopping_patience=2)
    assert stopped.stopped_early
    assert stopped.step == stopped.best_step + 2
    assert setups["t5"].train(setups["t5"].adapted(), **knobs, early_stopping_patience=0).step == 40


def test_the_seed_decides(setups: dict[str, Setup]):
    def losses(seed: int) -> list[float]:
        model = setups["t5"].adapted(lora_dropout=0.1)
        state = setups["t5"].train(model, max_steps=5, per_device_train_batch_size=4, random_state=seed)
        return [row["loss"] for row in state.log[1:]]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


@pytest.mark.parametrize("family", FAMILIES)
def test_fast_and_reference_engine_take_the_same_step(
    setups: dict[str, Setup], family: str, monkeypatch: pytest.MonkeyPatch
):
    """One step of all rows, so that both engines have the same batch: the same loss and gradient.

    The fast engine in passes of at most 64 target positions. (Rounding alone is 2e-5 of the gradient of these random
    models; tests/engine/speed/test_exactness.py compares to 1e-5 with better ones.)
    """
    monkeypatch.setattr(torch.optim, "AdamW", KeepsGradient)
    monkeypatch.setattr(loop.batching.by_budget, "__defaults__", (64,))
    found = {}
    for engine in ("fast", "reference"):
        model = without_dropout(setups[family].adapted())
        state = setups[family].train(model, engine=engine, max_steps=1, per_device_train_batch_size=12)
        found[engine] = (state.log[1]["loss"], KeepsGradient.last)
    assert found["fast"][0] == pytest.approx(found["reference"][0], rel=1e-5)
    difference = found["fast"][1] - found["reference"][1]
    assert float(difference.norm() / found["reference"][1].norm()) < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fast_engine_that_is_wrong_is_not_used(
    setups: dict[str, Setup], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, precision: str
):
    """A head that gives another loss, as a new version of a model might: the plain path trains, and says so."""
    setup = setups["t5"]
    settings = {**DEFAULT.model_dump(), "max_steps": 2, "lora_dropout": 0.0}
    losses = {}
    for wrong in (False, True):
        if wrong:
            monkeypatch.setattr(loop.speed, "without_logits", lambda *_: lambda m, batch: loss.forward(m, batch) * 1.1)
        with caplog.at_level("WARNING"), hardware.seeded(0, CPU):
            model = without_dropout(setup.adapted())
            state = loop.train(
                model, setup.rows[:12], setup.rows[12:], settings, device=CPU, precision=precision, pad_token_id=0
            )
        losses[wrong] = state.log[1]["loss"]
        assert ("does not compute this T5ForConditionalGeneration right" in caplog.text) == wrong
        assert not any("forward" in module.__dict__ for module in model.modules())
    assert losses[True] == pytest.approx(losses[False], rel=1e-4 if precision == "fp32" else 0.02)


def test_bf16_keeps_the_adapter_in_fp32(setups: dict[str, Setup]):
    setup = setups["t5"]
    model = setup.adapted()
    settings = {**DEFAULT.model_dump(), "max_steps": 2}
    state = loop.train(model, setup.rows[:12], setup.rows[12:], settings, device=CPU, precision="bf16", pad_token_id=0)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert math.isfinite(state.log[-1]["loss"])


def test_a_loss_that_is_no_number_ends_the_run(setups: dict[str, Setup]):
    setup = setups["t5"]
    model = setup.adapted()
    untouched = weights_of(model)
    with torch.no_grad():
        next(w for name, w in model.named_parameters() if "lora_A" in name).fill_(math.nan)
    with pytest.raises(RunError, match="not a number"):
        setup.train(model, max_steps=2)
    assert untouched.keys() == weights_of(model).keys()


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, (8, 13, 39, 1, 7)),
        ({"max_steps": 5}, (8, 13, 5, 0, 7)),
        ({"num_train_epochs": 0.01}, (8, 13, 1, 0, 7)),
        ({"num_train_epochs": 100.0}, (8, 13, 1300, 65, 65)),
        ({"gradient_accumulation_steps": 4, "warmup_steps": 3}, (32, 4, 12, 3, 2)),
        ({"eval_steps": 3, "warmup_steps": 10_000}, (8, 13, 39, 38, 3)),
    ],
)
def test_plan(knobs: dict[str, Any], expected: tuple[int, ...]):
    plan = loop.Plan.of(103, {**DEFAULT.model_dump(), **knobs})
    found = (plan.rows_per_step, plan.steps_per_epoch, plan.total_steps, plan.warmup_steps, plan.eval_steps)
    assert found == expected
