from __future__ import annotations

import pytest
import torch

from seqtune.engine import hardware
from seqtune.errors import InputError


def test_a_device_that_is_not_there_is_refused():
    wanted = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(InputError, match=f"device_type = {wanted}"):
        hardware.choose_device(wanted)
    assert hardware.choose_device("cpu") == torch.device("cpu")


def test_precision_has_a_reason():
    assert hardware.choose_precision("bf16", torch.device("cpu")) == {"value": "bf16", "reason": "given"}


@pytest.mark.parametrize("units", [True, False])
def test_bf16_where_the_processor_has_units_for_it(monkeypatch: pytest.MonkeyPatch, units: bool):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: units)
    chosen = hardware.choose_precision("auto", torch.device("cpu"))
    assert chosen["value"] == ("bf16" if units else "fp32")
    assert "bf16 units" in chosen["reason"]


def test_seeded_puts_the_generator_back():
    before = torch.random.get_rng_state()
    with hardware.seeded(3, torch.device("cpu")):
        first = torch.rand(2)
    with hardware.seeded(3, torch.device("cpu")):
        assert torch.equal(first, torch.rand(2))
    assert torch.equal(before, torch.random.get_rng_state())
