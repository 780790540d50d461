"""Passes that are recorded and played, on a GPU; skipped where there is none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_exactness import adapted, rows, step

import tiny_models
from seqtune.engine import speed
from seqtune.engine.batching import IGNORED, collate
from seqtune.engine.speed import graphs

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
BOUND = {"fp32": 1e-4, "bf16": 2e-2}


def test_rounded_widths():
    found = [graphs.rounded(length) for length in range(1, 3000)]
    assert all(width >= length for length, width in enumerate(found, 1))
    assert found == sorted(found)
    assert all(width <= 1.15 * length for length, width in enumerate(found, 1) if length > 112)
    assert len(set(found)) < 48  # shapes are recorded one by one: there must be few of them


def test_no_width_goes_beyond_the_positions_that_the_model_has():
    made = graphs.Graphs(lambda *_: pytest.fail("no pass"), 0, (100, None))
    batch = {name: torch.zeros(1, 99) for name in ("input_ids", "attention_mask", "labels")}
    assert {name: tensor.shape[1] for name, tensor in made._padded(batch).items()} == {
        "input_ids": 100, "attention_mask": 100, "labels": 112,
    }  # fmt: skip


def wide(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a rounded width: dropout's numbers go by the place in a tensor."""
    fillers = {"input_ids": 0, "attention_mask": 0, "labels": IGNORED}
    return {
        name: F.pad(tensor, (0, graphs.rounded(tensor.shape[1]) - tensor.shape[1]), value=fillers[name])
        for name, tensor in batch.items()
    }


@GPU
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["t5", "flan-t5", "mt5", "bart", "pegasus"])
def test_a_played_pass_is_the_plain_one(family: str, precision: str, monkeypatch: pytest.MonkeyPatch):
    """Four passes with dropout, each with the random numbers of the same place: losses and gradients."""
    monkeypatch.setattr(graphs, "warn", pytest.fail)
    played: list[int] = []
    play = graphs._Recording.play
    monkeypatch.setattr(graphs._Recording, "play", lambda *given: played.append(len(found)) or play(*given))
    device = torch.device("cuda")
    model = adapted(family, lora_dropout=0.1).to(device)
    batch = wide(collate(rows(family), 0, device))
    changed = {**batch, "input_ids": batch["input_ids"].flip(0), "attention_mask": batch["attention_mask"].flip(0)}
    found = {}
    for without in ((), ("graphs",)):
        model.train()
        found[without] = []
        with speed.fast_paths(model, device=device, precision=precision, seed=0, without=without) as paths:
            for number, given in enumerate((batch, batch, batch, changed)):
                torch.manual_seed(number)
                found[without].append(step(model, given, paths.forward))
    assert played == [1] * 4  # by the first engine alone: three passes, and the check of the recording
    for (loss, gradient), (plain_loss, plain_gradient) in zip(found[()], found["graphs",], strict=True):
        assert float(((loss - plain_loss) / plain_loss).abs().max()) < BOUND[precision]
        assert float((gradient - plain_gradient).norm() / plain_gradient.norm()) < BOUND[precision]
    assert float((found[()][1][1] - found[()][3][1]).norm()) > 0  # another batch and other numbers: another gradient


@GPU
def test_what_cannot_be_recorded_is_passed_as_ever(monkeypatch: pytest.MonkeyPatch):
    """A model that asks the GPU for a number on the way: said once, and the same loss."""
    said: list[str] = []
    monkeypatch.setattr(graphs, "warn", said.append)
    device = torch.device("cuda")
    model = adapted("t5").to(device).train()
    batch = wide(collate(rows("t5"), 0, device))
    layer = model.get_base_model().decoder.final_layer_norm
    layer.register_forward_hook(lambda module, given, output: output * float(output.new_ones(1).sum()))
    with speed.fast_paths(model, device=device, precision="fp32", seed=0) as paths:
        losses = []
        for _ in range(3):
            torch.manual_seed(0)
            losses.append(step(model, batch, paths.forward)[0])
    assert len(said) == 1
    assert "kernels are launched one by one" in said[0]
    assert torch.equal(losses[0], losses[2])


def test_layers_left_out_by_chance_are_not_recorded():
    base = tiny_models.tiny_model("bart")
    assert graphs.can_be_recorded(base)
    base.config.encoder_layerdrop = 0.1
    assert not graphs.can_be_recorded(base)
