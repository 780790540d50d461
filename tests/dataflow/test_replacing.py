"""What a driver takes: modules that replace nodes, lifecycle adapters; and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hamilton.lifecycle import NodeExecutionHook

import seqtune
from seqtune.errors import InputError


def example(name: str) -> types.ModuleType:
    """A module of ``examples/replacing``, which the documentation shows."""
    path = Path(__file__).parents[2] / "examples" / "replacing" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class TestReplacing:
    """Any node can be replaced by a function of the same name: the three that the documentation shows."""

    def test_a_reader(self, inputs: dict[str, Any], tmp_path: Path):
        (tmp_path / "pairs.txt").write_text("a = 1\nb = 2\nc = 3\nd = 4\n")
        inputs["data_path"] = str(tmp_path / "pairs.txt")
        found = seqtune.build_driver(example("my_reader")).execute(["train_set", "validation_set"], inputs=inputs)
        rows = [*found["train_set"], *found["validation_set"]]
        assert {"a": "1", "b": "2", "c": "3", "d": "4"}.items() >= {
            row["input"]: row["reference"] for row in rows
        }.items()
        assert len(rows) == 3

    def test_a_metric(self, inputs: dict[str, Any]):
        driver = seqtune.build_driver({"start": "base"}, example("my_metric"))
        path = driver.execute(["save_best_models"], inputs=inputs)["save_best_models"]["path"]
        run = seqtune.Run(path)
        assert 0 <= run.metrics["hold_out"]["tuned"]["numbers_right"] <= 100
        assert "rougeL" in run.metrics["hold_out"]["base"]
        assert "numbers_right" not in run.metrics["validation"]["tuned"]

    def test_a_lora_configuration(self, inputs: dict[str, Any]):
        driver = seqtune.build_driver(example("my_lora"))
        assert "feed_forward_rank" in [row["name"] for row in driver.inputs_table()]
        found = driver.execute(["save_best_models"], inputs={**inputs, "feed_forward_rank": 2})
        config = json.loads((Path(found["save_best_models"]["adapter"]) / "adapter_config.json").read_text())
        assert config["r"] == 2
        assert set(config["target_modules"]) == {"wi_0", "wi_1", "wo"}

    @pytest.mark.parametrize("start", ["base", "presaved"])
    def test_a_node_more(self, start: str, inputs: dict[str, Any], tmp_path: Path):
        given = inputs
        if start == "presaved":
            delivered = seqtune.build_driver().execute(["save_best_models"], inputs=inputs)["save_best_models"]
            given = {"adapter_path": delivered["path"], "out": str(tmp_path / "again")}
        driver = seqtune.build_driver({"start": start}, example("my_export"))
        export_path = tmp_path / "exported"
        found = driver.execute(["exported_model"], inputs={**given, "export_path": str(export_path)})["exported_model"]
        assert found["check"]["same"] == found["check"]["rows"] > 0
        assert (export_path / "model.safetensors").is_file()


class TestRefusals:
    def test_unknown_inputs_overrides_and_outputs_all_at_once(self, inputs: dict[str, Any]):
        with pytest.raises(InputError) as caught:
            seqtune.build_driver().execute(
                ["verdic"],
                inputs={**inputs, "learnig_rate": 1, "lora_r": 0, "train_set": 1},
                overrides={"tokeniser": 1},
            )
        text = str(caught.value)
        assert "learnig_rate is no input   did you mean `learning_rate`?" in text
        assert "lora_r = 0" in text
        assert "train_set is made by a node" in text
        assert "tokeniser is no node to override   did you mean `tokenizer`?" in text
        assert "verdic is no output   did you mean `verdict`?" in text
        assert text.startswith("inputs: 5 problems")

    def test_a_training_knob_under_presaved(self, tmp_path: Path):
        with pytest.raises(InputError, match="lora_r has no use with start=presaved"):
            seqtune.build_driver({"start": "presaved"}).execute(
                ["verdict"], inputs={"adapter_path": str(tmp_path), "lora_r": 8}
            )

    def test_an_unknown_start(self):
        with pytest.raises(InputError, match="did you mean `presaved`"):
            seqtune.build_driver({"start": "presave"})

    def test_targets_that_match_nothing(self, inputs: dict[str, Any]):
        with pytest.raises(InputError, match=r"wi_0"):
            seqtune.build_driver().execute(["save_best_models"], inputs={**inputs, "target_modules": "q_proj"})
        assert not Path(inputs["out"]).exists()

    def test_a_template_without_a_place_for_the_question(self, inputs: dict[str, Any]):
        with pytest.raises(InputError, match="question"):
            seqtune.build_driver().execute(["tokenized_train"], inputs={**inputs, "input_template": "answer:"})


def test_lifecycle_adapters_are_taken(inputs: dict[str, Any]):
    seen: list[str] = []

    class Watch(NodeExecutionHook):
        def run_before_node_execution(self, *, node_name: str, **_: Any) -> None:
            seen.append(node_name)

        def run_after_node_execution(self, **_: Any) -> None:
            pass

    seqtune.build_driver(adapters=[Watch()]).execute(["train_set"], inputs=inputs)
    assert "data_splits" in seen
