"""Hamilton's cache on our dataflow: nothing is computed twice, and nothing stale is ever served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hamilton import driver as hamilton_driver
from hamilton.caching import fingerprinting

import seqtune
from seqtune import store
from seqtune.models import loading
from tiny_models import tiny

OUTPUTS = ["save_best_models", "verdict"]

#: Nodes that only pick or join what other nodes made.
SETTLED = {"train_set", "validation_set", "hold_out_set", "split_warnings"}


def plain(folder: Path) -> Any:
    """Hamilton's own builder and its own cache."""
    builder = hamilton_driver.Builder().with_modules(*seqtune.modules()).with_config({"start": "base"})
    return builder.with_cache(str(folder)).build()


def ours(folder: Path) -> Any:
    """Our driver, with the store that does not pickle."""
    return seqtune.build_driver({"start": "base"}, cache=folder)


def executed(driver: Any) -> set[str]:
    """The nodes that the last execution computed rather than read."""
    logs = driver.cache.logs(driver.cache.last_run_id)
    return {name for name, events in logs.items() if any(event.event_type.name == "EXECUTE_NODE" for event in events)}


@pytest.fixture
def inputs(tiny_t5: Path, rows_file: Path, tmp_path: Path) -> dict[str, Any]:
    data = tmp_path / "rows.json"
    shutil.copy(rows_file, data)
    return {
        "data_path": str(data),
        "model_id": str(tiny_t5),
        "max_steps": 2,
        "max_new_tokens": 4,
        "out": str(tmp_path / "run"),
        "overwrite": True,
        "work_dir": str(tmp_path / "work"),
    }


@pytest.fixture(params=[plain, ours], ids=["plain", "ours"])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    return lambda: request.param(tmp_path / "cache")


def test_same_inputs_retrain_nothing(build: Callable[[], Any], inputs: dict[str, Any]):
    first_driver = build()
    first = first_driver.execute(OUTPUTS, inputs=inputs)
    assert "trained_adapter" in executed(first_driver)
    shutil.rmtree(inputs["out"])
    again_driver = build()  # another driver, as in another process
    again = again_driver.execute(OUTPUTS, inputs=inputs)
    computed = executed(again_driver)
    assert "trained_adapter" not in computed
    assert not {name for name in computed if name.endswith(("_validation_set", "_hold_out_set"))}, "answered again"
    assert first["verdict"] == again["verdict"]
    assert (Path(inputs["out"]) / "run.json").is_file(), "a sink whose file is gone writes it again"


def test_a_changed_input_retrains(build: Callable[[], Any], inputs: dict[str, Any], tmp_path: Path):
    driver = build()
    driver.execute(OUTPUTS, inputs=inputs)
    sha256 = {driver.execute(OUTPUTS, inputs=inputs)["save_best_models"]["sha256"]}
    assert "trained_adapter" not in executed(driver)

    changed_data = json.loads(Path(inputs["data_path"]).read_text())
    for row in changed_data:
        row["reply"] = row["reply"].upper()
    for change in (
        {"random_state": 7},
        {"model_id": str(tiny("t5", tmp_path / "other"))},
        {"learning_rate": 0.02},
        {},  # the same path, with other content
    ):
        if not change:
            Path(inputs["data_path"]).write_text(json.dumps(changed_data))
        sha256.add(driver.execute(OUTPUTS, inputs={**inputs, **change})["save_best_models"]["sha256"])
        assert "trained_adapter" in executed(driver), change
    assert len(sha256) == 5


def test_changed_code_retrains(build: Callable[[], Any], inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    driver = build()
    driver.execute(OUTPUTS, inputs=inputs)
    versions = store.versions()
    everything = executed(driver)
    driver.execute(OUTPUTS, inputs=inputs)
    assert executed(driver) < everything
    monkeypatch.setattr(store, "versions", lambda: {**versions, "seqtune_source_sha256": "other"})
    driver.execute(OUTPUTS, inputs=inputs)
    apart = everything - executed(driver)
    assert not apart - SETTLED, "nodes call code whose change they would not see"


def test_the_source_digest_sees_every_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    before = store.versions()["seqtune_source_sha256"]
    copy = tmp_path / "seqtune"
    shutil.copytree(Path(store.__file__).parent, copy, ignore=shutil.ignore_patterns("seqtune_mini"))
    monkeypatch.setattr(store, "__file__", str(copy / "store.py"))
    assert store.versions()["seqtune_source_sha256"] == before
    (copy / "engine" / "loss.py").write_text("# changed")
    assert store.versions()["seqtune_source_sha256"] != before


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_an_adapter_whose_files_are_gone_is_trained_again(
    build: Callable[[], Any], inputs: dict[str, Any], damage: str
):
    driver = build()
    first = driver.execute(OUTPUTS, inputs=inputs)["save_best_models"]["sha256"]
    (adapter,) = (Path(inputs["work_dir"]) / "adapters").iterdir()
    if damage == "gone":
        shutil.rmtree(adapter)
    else:
        (adapter / "adapter_model.safetensors").write_bytes(b"damaged")
    again = build()
    assert again.execute(OUTPUTS, inputs=inputs)["save_best_models"]["sha256"] == first
    assert "trained_adapter" in executed(again)
    again.execute(OUTPUTS, inputs=inputs)
    assert "trained_adapter" not in executed(again), "what was made again is kept again"


def test_our_store_holds_no_pickle(inputs: dict[str, Any], tmp_path: Path):
    ours(tmp_path / "cache").execute(OUTPUTS, inputs=inputs)
    kept = [path for path in (tmp_path / "cache" / "results").iterdir() if path.is_file()]
    assert len(kept) > 20
    for path in kept:
        if path.suffix in ("", ".adapter"):
            json.loads(path.read_text())
        else:
            assert path.suffix in (".arrow", ".live"), path
            assert not path.read_bytes().startswith(b"\x80"), f"{path} is a pickle"


def test_a_damaged_entry_of_our_store_is_computed_again(inputs: dict[str, Any], tmp_path: Path):
    driver = ours(tmp_path / "cache")
    first = driver.execute(OUTPUTS, inputs=inputs)
    for path in (tmp_path / "cache" / "results").iterdir():
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = ours(tmp_path / "cache")
    assert again.execute(OUTPUTS, inputs=inputs)["verdict"] == first["verdict"]


def test_models_that_differ_have_other_fingerprints(tiny_t5: Path):
    """Hamilton's own fingerprint is the same for any two models of a class."""
    model = loading.load_model(loading.resolve(str(tiny_t5)), torch.device("cpu"))
    before = fingerprinting.hash_value(model)
    assert before == fingerprinting.hash_value(loading.shared_copy(model))
    other = loading.load_model(loading.resolve(str(tiny_t5)), torch.device("cpu"))
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1e-3
    assert fingerprinting.hash_value(other) != before


def test_tokenizers_that_differ_have_other_fingerprints(tiny_t5: Path):
    checkpoint = loading.resolve(str(tiny_t5))
    one, other = loading.load_tokenizer(checkpoint), loading.load_tokenizer(checkpoint)
    assert fingerprinting.hash_value(one) == fingerprinting.hash_value(other)
    other.add_tokens(["{"])
    assert fingerprinting.hash_value(one) != fingerprinting.hash_value(other)
