"""A base model shared by two processes trains what two whole ones and one alone train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_process import trained
from test_loop import CPU, Setup, weights_of
from test_ranks import assert_same, launch, result
from torch import nn

from seqtune.engine import sharding
from seqtune.engine.ranks import ALONE, RankGoneError, Ranks
from seqtune.engine.sharding import WHOLE, Shards
from seqtune.errors import InputError
from seqtune.settings import DEFAULT

STEPS = 8
PLAIN: dict[str, Any] = {"max_steps": STEPS, "engine": "reference"}

#: Passes of one row, 3 a step of 13 rows: two for one process and one for the other, and in the last step of an epoch,
#: of one row, none.
UNEVEN: dict[str, Any] = {**PLAIN, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 3}

#: Embeddings that are tied (t5, bart) and not; weights that are trained beside the LoRA matrices.
KINDS: dict[str, dict[str, Any]] = {
    "shared": PLAIN,
    "uneven": UNEVEN,
    "tied": {**PLAIN, "family": "t5"},
    "bart": {**PLAIN, "family": "bart"},
    "dora": {**PLAIN, "adapter": {"use_dora": True}},
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of all the cases."""
    out = tmp_path_factory.mktemp("two")
    dropped = {**PLAIN, "shard_base": True, "dropout": True}
    cases = [
        *({**case, "name": name, "shard_base": True} for name, case in KINDS.items()),
        *({**KINDS[name], "name": f"{name}, whole"} for name in ("shared", "dora")),
        {**PLAIN, "name": "left", "shard_base": True, "folder": str(out / "left"), "signal_at": 4},
        {**dropped, "name": "never stopped"},
        {**dropped, "name": "stopped", "folder": str(out / "stopped"), "signal_at": 4},
        {**dropped, "name": "gone on", "folder": str(out / "stopped")},
    ]
    launch(2, out / "model", cases, out)
    return out


@pytest.mark.parametrize("kind", ["shared", "dora"])
def test_two_that_share_are_two_that_do_not(two: Path, kind: str):
    shared, whole = result(two, kind), result(two, f"{kind}, whole")
    assert len(shared[0]) == STEPS + 1
    assert_same(whole, shared)


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "dora"])  # whose rounding is larger, shared or not
def test_two_that_share_are_one(two: Path, kind: str):
    case = KINDS[kind]
    setup = Setup(case.get("family", "flan-t5"), two / "model")
    before = weights_of(setup.adapted(**case.get("adapter", {})))
    state, model = trained(setup, case)
    assert_same((state.log, weights_of(model)), result(two, kind))
    assert before.keys() == result(two, kind)[1].keys()
    assert any((result(two, kind)[1][name] - weight).abs().max() > 1e-3 for name, weight in before.items())


@pytest.mark.parametrize("kind", KINDS)
def test_each_holds_a_half(two: Path, kind: str):
    """All weights of the base, each once, between the two; so small a model has a few that do not halve evenly."""
    case = KINDS[kind]
    base = Setup(case.get("family", "flan-t5"), two / "model").base
    frozen = sum(weight.nbytes for weight in base.parameters())
    found = json.loads((two / f"{kind}.json").read_text())
    assert found["held_in_all"] == frozen
    assert frozen / 2 <= found["held"] < 0.53 * frozen
    assert json.loads((two / "shared, whole.json").read_text())["held"] == 0


def test_stopped_and_gone_on_bit_for_bit(two: Path):
    assert json.loads((two / "stopped.json").read_text())["signals"] == 30.0  # SIGTERM, in both
    (log, adapter), (log_2, adapter_2) = result(two, "never stopped"), result(two, "gone on")
    assert [line.get("loss") for line in log] == [line.get("loss") for line in log_2]
    assert [line.get("validation_loss") for line in log] == [line.get("validation_loss") for line in log_2]
    assert all(torch.equal(weight, adapter_2[name]) for name, weight in adapter.items())


def test_stopped_and_gone_on_by_one_that_has_it_whole(two: Path, tmp_path: Path):
    """A checkpoint holds the adapter alone: how the base lay when it was written does not matter to it."""
    shutil.copytree(two / "left", tmp_path / "left")
    state, model = trained(Setup("flan-t5", two / "model"), {**PLAIN, "folder": str(tmp_path / "left")})
    assert state.resumed_at == [5]
    assert_same((state.log, weights_of(model)), result(two, "shared, whole"))


def test_passes_that_lend_a_hand(monkeypatch: pytest.MonkeyPatch):
    ranks = Ranks(1, 2)
    monkeypatch.setattr(Ranks, "most", lambda self, *numbers: [max(3.0, *numbers)])
    assert Shards(ranks, on=True).even([[4, 2]], [7]) == [([4, 2], 1.0), ([7], 0.0), ([7], 0.0)]
    assert Shards(ranks, on=True).even([], [7]) == [([7], 0.0)] * 3
    assert Shards(ranks, on=True).even([[1]] * 4, [7]) == [([1], 1.0)] * 4
    assert WHOLE.even([[4, 2]], [7]) == [([4, 2], 1.0)]


def test_another_that_has_ended_is_said():
    lost = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5321"
    with pytest.raises(RankGoneError, match="another process of this run has ended"), Shards(ALONE, on=True).told():
        raise RuntimeError(lost)
    for shards, text in ((Shards(ALONE, on=True), "shapes do not fit"), (WHOLE, lost)):
        with pytest.raises(RuntimeError, match=text.split()[0].replace("[", r"\[")), shards.told():
            raise RuntimeError(text)


def test_what_it_can_not_be_had_with():
    sharding.check({**DEFAULT.model_dump(), "minutes": 3, "auto_batch": True}, 1)  # not asked for: nothing to say
    sharding.check({"shard_base": True}, 2)
    sharding.check({"shard_base": True}, None)
    given = {"shard_base": True, "auto_batch": True, "minutes": 2.5, "seeds": 3, "streaming": True}
    with pytest.raises(InputError) as caught:
        sharding.check(given, 1)
    found = [line.split("   ")[0] for line in caught.value.details]
    assert found == ["one process alone", "auto_batch = yes", "minutes = 2.5", "seeds = 3", "streaming = yes"]
    assert "torchrun" in caught.value.mend


def test_one_process_refuses(two: Path):
    with pytest.raises(InputError, match="shard_base = yes") as caught:
        Setup("flan-t5", two / "model").train(Setup("flan-t5", two / "model").adapted(), shard_base=True)
    assert caught.value.details == ["one process alone   it takes several that share the weights"]


def test_the_engine_is_the_plain_one_and_it_is_said(caplog: pytest.LogCaptureFixture):
    settings = {**DEFAULT.model_dump(), "shard_base": True}
    with caplog.at_level("INFO", logger="seqtune"):
        assert sharding.settled(settings)["engine"] == "reference"
    assert "engine: reference (" in caplog.text
    assert sharding.settled(DEFAULT.model_dump()) == DEFAULT.model_dump()


@pytest.mark.parametrize(("family", "lists"), [("t5", 4), ("mbart", 4), ("pegasus", 4), ("longt5", 4)])
def test_blocks(family: str, lists: int, tmp_path: Path):
    model = Setup(family, tmp_path).adapted()
    found = sharding.blocks_of(model)
    assert len(found) == lists  # two in the encoder, two in the decoder
    assert not any(inner in found for block in found for inner in block.modules() if inner is not block)


def test_what_has_no_blocks_or_no_device(tmp_path: Path):
    model = Setup("t5", tmp_path).adapted()
    with pytest.raises(InputError, match="on mps"):
        sharding.shard(model, Ranks(0, 2), torch.device("mps"))
    base = model.get_base_model()
    base.encoder, base.decoder = nn.Identity(), nn.Identity()
    with pytest.raises(InputError, match="no blocks are known in T5ForConditionalGeneration"):
        sharding.shard(model, Ranks(0, 2), CPU)
