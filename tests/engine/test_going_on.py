"""A run that is stopped behind any step and goes on ends as if it had not been stopped."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_checkpoint import MADE_OF, names
from test_loop import Setup, weights_of
from torch import Tensor

from seqtune.engine import hardware, loop, state
from seqtune.engine.checkpoint import Checkpoints
from seqtune.engine.speed import head
from seqtune.engine.state import Snapshot
from seqtune.errors import RunError
from seqtune.settings import DEFAULT


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup("t5", tmp_path_factory.mktemp("t5") / "model")


class Killed(BaseException):
    """Stands in for a kill right after a checkpoint."""


class KillsAfter(Checkpoints):
    """Checkpoints after each step; and the process dies behind the one of that step."""

    step = 0

    def save_or_warn(self, taken: Snapshot, made_of: dict[str, Any]) -> None:
        super().save_or_warn(taken, made_of)
        if taken.step == self.step:
            raise Killed


def run_of(
    setup: Setup, engine: str, precision: str, checkpoints: Checkpoints | None = None, device: str = "cpu", **knobs: Any
):
    """Weights and log of a run of 9 steps in epochs of 3 with all dropout on; the log without its times."""
    settings = {
        **DEFAULT.model_dump(), "learning_rate": 1e-2, "engine": engine, "per_device_train_batch_size": 4,
        "max_steps": 9, "eval_steps": 2, "early_stopping_patience": 0, **knobs,
    }  # fmt: skip
    place = torch.device(device)
    with hardware.seeded(settings["random_state"], place):
        model = setup.adapted(lora_dropout=0.1)
        if device != "cpu":
            model = copy.deepcopy(model).to(place)
        done = loop.train(
            model, setup.rows[:12], setup.rows[12:], settings, device=place, precision=precision, pad_token_id=0,
            checkpoints=checkpoints, made_of=MADE_OF,
        )  # fmt: skip
    return weights_of(model), [{k: v for k, v in line.items() if "seconds" not in k} for line in done.log], done


def interrupted(setup: Setup, engine: str, precision: str, folder: Path, at: int, device: str = "cpu"):
    kills = KillsAfter(folder, save_steps=1)
    kills.step = at
    folder.mkdir()
    with pytest.raises(Killed):
        run_of(setup, engine, precision, kills, device)
    return run_of(setup, engine, precision, Checkpoints(folder, save_steps=1), device)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("engine", "precision"), [("fast", "bf16"), ("fast", "fp32"), ("reference", "fp32")])
@pytest.mark.parametrize("at", [1, 3, 5, 8])
def test_a_run_that_goes_on_ends_as_if_it_had_not_been_stopped(
    setup: Setup, engine: str, precision: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """To the last bit: in the middle of an epoch, at its end, and before the last step; with a sampled gradient too."""
    monkeypatch.setattr(head, "LONG_VOCABULARY", dict.fromkeys(head.LONG_VOCABULARY, 1))
    weights, log, _ = run_of(setup, engine, precision)
    resumed, resumed_log, done = interrupted(setup, engine, precision, tmp_path / "c", at)
    assert same(weights, resumed)
    assert log == resumed_log
    assert done.resumed_at == [at]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize(("engine", "precision"), [("fast", "bf16"), ("fast", "fp32")])
@pytest.mark.parametrize("at", [1, 5, 8])
def test_on_a_gpu_too(setup: Setup, engine: str, precision: str, at: int, tmp_path: Path):
    """To rounding: there a shape is recorded the second time it comes, counted anew by a run that goes on."""
    weights, log, _ = run_of(setup, engine, precision, device="cuda")
    resumed, resumed_log, done = interrupted(setup, engine, precision, tmp_path / "c", at, "cuda")
    rounding = {"fp32": 1e-4, "bf16": 2e-2}[precision]
    assert done.resumed_at == [at]
    assert [line["step"] for line in log] == [line["step"] for line in resumed_log]
    losses, resumed_losses = ([line["loss"] for line in lines if "loss" in line] for lines in (log, resumed_log))
    assert resumed_losses == pytest.approx(losses, rel=rounding)
    apart = torch.stack([(weights[name] - resumed[name]).norm() / weights[name].norm() for name in weights])
    assert float(apart.max()) < 10 * rounding  # Adam makes a whole step of a gradient that is all rounding


def test_a_finished_training_is_not_done_again(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tmp_path.joinpath("c").mkdir()
    weights, _, _ = run_of(setup, "fast", "fp32", Checkpoints(tmp_path / "c"))
    monkeypatch.setattr(loop.batching, "collate", lambda *_: pytest.fail("a step was made"))
    monkeypatch.setattr(loop, "_paths", lambda *_: loop.speed.FastPaths(loop.loss.forward, loop.speed.Dice(0)))
    again, _, done = run_of(setup, "fast", "fp32", Checkpoints(tmp_path / "c"))
    assert same(weights, again)
    assert done.resumed_at == [9]


@pytest.mark.parametrize("left_out", ["random", "moments", "scheduler", "cursor", "best"])
def test_the_comparison_would_notice(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: str):
    """Negative controls: without any one part of the state the run does not end the same."""
    weights, log, _ = run_of(setup, "reference", "fp32")
    whole = state.restore

    def restore(taken: Snapshot, model: Any, optimizer: Any, scheduler: Any, now: Any) -> None:
        tensors, values = dict(taken.tensors), json.loads(json.dumps(taken.values))
        if left_out == "random":
            tensors["random.torch"] = torch.get_rng_state()
        elif left_out == "moments":
            tensors = {n: torch.zeros_like(t) if n.startswith("moments") else t for n, t in tensors.items()}
        elif left_out == "scheduler":
            values["scheduler"] = {}
            values["optimizer"] = optimizer.state_dict()["param_groups"]
        elif left_out == "cursor":
            values["state"]["place"] = []
        else:
            values["state"]["best_loss"] = 0.0
        whole(dataclasses.replace(taken, tensors=tensors, values=values), model, optimizer, scheduler, now)

    monkeypatch.setattr(loop, "restore", restore)
    resumed, resumed_log, _ = interrupted(setup, "reference", "fp32", tmp_path / "c", 5)
    assert not (same(weights, resumed) and log == resumed_log)


def test_a_checkpoint_is_safetensors_and_json(setup: Setup, tmp_path: Path):
    tmp_path.joinpath("c").mkdir()
    run_of(setup, "fast", "fp32", Checkpoints(tmp_path / "c", save_steps=4))
    assert names(tmp_path / "c") == ["step-00000008", "step-00000009"]
    folder = tmp_path / "c" / "step-00000009"
    tensors = load_file(folder / "tensors.safetensors")
    kinds = {name.split(".")[0] for name in tensors}
    assert kinds == {"adapter", "best", "moments", "random"}
    assert json.loads((folder / "state.json").read_text())["state"]["step"] == 9
    save_file(tensors, tmp_path / "again.safetensors")


def test_a_loss_that_is_no_number_names_its_rows_and_keeps_the_state(setup: Setup, tmp_path: Path):
    tmp_path.joinpath("c").mkdir()
    real = loop.loss.forward
    calls = [0]

    def sometimes(model: Any, batch: dict[str, Tensor]) -> Tensor:
        calls[0] += model.training
        return real(model, batch) * (float("nan") if model.training and calls[0] > 5 else 1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.loss, "forward", sometimes)
        with pytest.raises(RunError, match="step 6: the training loss is nan") as error:
            run_of(setup, "reference", "fp32", Checkpoints(tmp_path / "c", save_steps=1))
    assert "rows of the training set in this step: " in str(error.value)
    assert names(tmp_path / "c") == ["step-00000004", "step-00000005"]
    weights, _, _ = run_of(setup, "reference", "fp32")
    resumed, _, _ = run_of(setup, "reference", "fp32", Checkpoints(tmp_path / "c"))
    assert same(weights, resumed)
