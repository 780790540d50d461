"""The dataflow under start=presaved: a run gives its own figures again, and nothing it was trained on is scored."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForSeq2SeqLM

import seqtune
from sample_rows import pairs, written
from seqtune.driver import PUBLIC_OUTPUTS
from seqtune.errors import InputError
from tiny_models import tiny

ASKED = [
    "save_best_models",
    "hold_out_set_predictions",
    "training_and_validation_set_metrics",
    "finetuned_model_on_validation_set",
]


def test_every_public_output_exists_under_both_starts(inputs: dict[str, Any], tmp_path: Path):
    base = seqtune.build_driver({"start": "base"}).execute(PUBLIC_OUTPUTS, inputs=inputs)
    presaved = seqtune.build_driver({"start": "presaved"}).execute(
        PUBLIC_OUTPUTS, inputs={"adapter_path": inputs["out"], "out": str(tmp_path / "again")}
    )
    assert base.keys() == presaved.keys() == set(PUBLIC_OUTPUTS)
    assert all(value is not None for value in presaved.values())
    for name in ("hold_out_set_predictions", "training_and_validation_set_metrics", "hold_out_set_metrics", "verdict"):
        assert presaved[name] == base[name], name
    for name in ("train_set", "validation_set", "hold_out_set"):
        assert presaved[name].to_list() == base[name].to_list()
    assert presaved["save_best_models"]["sha256"] == base["save_best_models"]["sha256"]
    first, second = (seqtune.Run(path) for path in (inputs["out"], tmp_path / "again"))
    assert first.metrics == second.metrics
    assert first.manifest["settings"] == second.manifest["settings"]
    assert first.manifest["training"] == second.manifest["training"]


def test_evaluate_of_a_run_gives_its_metrics_and_takes_changes(inputs: dict[str, Any]):
    run = seqtune.finetune(**inputs)
    assert seqtune.evaluate(run.path) == {"metrics": run.metrics, "verdict": run.manifest["verdict"]}
    assert seqtune.evaluate(run.path, max_new_tokens=3)["metrics"] != run.metrics


def test_an_adapter_from_elsewhere(inputs: dict[str, Any], tmp_path: Path):
    """Plain PEFT, with its own task type: evaluated, with what its training measured given as unknown."""
    model = AutoModelForSeq2SeqLM.from_pretrained(inputs["model_id"])
    torch.manual_seed(1)
    adapter = PeftModel(model, LoraConfig(r=4, target_modules=["q", "v"], init_lora_weights=False))
    folder = tmp_path / "elsewhere"
    adapter.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": "SEQ_2_SEQ_LM"}))

    given = {
        "adapter_path": str(folder),
        "data_path": inputs["data_path"],
        "out": str(tmp_path / "x"),
        "max_new_tokens": 8,
    }
    found = seqtune.build_driver({"start": "presaved"}).execute([*ASKED, "manifest"], inputs=given)
    assert found["training_and_validation_set_metrics"]["training"] is None
    assert found["manifest"]["training"] is None
    assert found["manifest"]["derived"]["precision"]["value"] == "unknown"
    assert found["manifest"]["metrics"]["hold_out"]["base"] != found["manifest"]["metrics"]["hold_out"]["tuned"]
    assert seqtune.Run(tmp_path / "x").log is None
    with pytest.raises(InputError, match="data_path is needed"):
        seqtune.build_driver({"start": "presaved"}).execute(["verdict"], inputs={"adapter_path": str(folder)})


def test_plain_peft_loads_what_we_deliver(inputs: dict[str, Any]):
    """In a process of its own, in which nothing of seqtune is imported."""
    run = seqtune.finetune(**inputs)
    code = f"""
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
base = AutoModelForSeq2SeqLM.from_pretrained({inputs["model_id"]!r})
model = PeftModel.from_pretrained(base, {str(run.adapter)!r}).eval()
tokenizer = AutoTokenizer.from_pretrained({str(run.adapter)!r})
print(sum(float(w.abs().sum()) for n, w in model.named_parameters() if "lora_B" in n) > 0)
print(len(model.generate(**tokenizer("What?", return_tensors="pt"), max_new_tokens=3)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "1"], done.stderr


def test_changed_files_of_a_run_are_noticed(inputs: dict[str, Any]):
    run = seqtune.finetune(**inputs)
    weights = run.adapter / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(InputError, match="changed since the run was written"):
        seqtune.evaluate(run.path)


def test_another_base_model_than_the_adapters_is_refused(inputs: dict[str, Any], tmp_path: Path):
    run = seqtune.finetune(**inputs)
    with pytest.raises(InputError, match="not the base model that the adapter was trained on"):
        seqtune.evaluate(run.path, model_id=str(tiny("t5", tmp_path / "other")))


def test_evaluate_on_another_file(inputs: dict[str, Any], tmp_path: Path):
    run = seqtune.finetune(**inputs)
    found = seqtune.evaluate(run.path, hold_out_path=written(tmp_path / "new.json", pairs("abcdef")))
    assert found["verdict"]["rows"] == 6
    assert found["metrics"]["validation"] == run.metrics["validation"], "the run's own sets stay what they were"
    trained = [{"question": "How long is the warranty of the LAMP ?", "reply": "?"}, *pairs("abcdef")]
    again = seqtune.evaluate(run.path, hold_out_path=written(tmp_path / "seen.json", trained))
    assert again["metrics"] == found["metrics"], "a question that was trained on is not scored"


def test_a_saved_run_is_divided_as_it_was(inputs: dict[str, Any], tmp_path: Path):
    """Another seed or share would score rows that the adapter was trained on."""
    run = seqtune.finetune(**inputs)
    for other in ({"random_state": 7}, {"train_size": 0.5}, {"max_samples": 30}):
        with pytest.raises(InputError, match=next(iter(other))):
            seqtune.evaluate(run.path, **other)
    assert seqtune.evaluate(run.path, random_state=42)["metrics"] == run.metrics


def test_rows_the_adapter_was_chosen_by_are_no_hold_out(inputs: dict[str, Any], tmp_path: Path):
    run = seqtune.finetune(**inputs)
    chosen_by = [{"question": row["input"], "reply": row["reference"]} for row in run.predictions["validation"]]
    found = seqtune.evaluate(run.path, hold_out_path=written(tmp_path / "x.json", [*chosen_by, *pairs("abcdef")]))
    assert found["verdict"]["rows"] == 6


def test_a_run_with_its_own_hold_out_file_is_scored_on_another(inputs: dict[str, Any], tmp_path: Path):
    first = written(tmp_path / "first.json", pairs("abcdef"))
    run = seqtune.finetune(**{**inputs, "hold_out_path": first})
    second = written(tmp_path / "second.json", pairs("ghijkl"))
    found = seqtune.evaluate(run.path, hold_out_path=second)
    assert found["metrics"]["validation"] == run.metrics["validation"]
    assert found["metrics"]["hold_out"] != run.metrics["hold_out"]
    assert found["verdict"]["unseen"]
    assert seqtune.evaluate(run.path)["metrics"] == run.metrics


def test_it_is_said_where_rows_may_have_been_trained_on(inputs: dict[str, Any], tmp_path: Path):
    run = seqtune.finetune(**inputs)
    assert run.manifest["verdict"]["unseen"]
    other = written(tmp_path / "other.json", pairs("abcdefghij"))
    assert not seqtune.evaluate(run.path, data_path=other, max_new_tokens=4)["verdict"]["unseen"]


def test_a_model_folder_by_a_relative_path(
    inputs: dict[str, Any], tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tiny_t5.parent)
    run = seqtune.finetune(**{**inputs, "model_id": tiny_t5.name})
    monkeypatch.chdir(tmp_path)
    assert seqtune.load(run.path).generate(["a"])
    assert seqtune.evaluate(run.path)["metrics"] == run.metrics


def test_another_tokenizer_than_the_runs_is_refused(inputs: dict[str, Any], tiny_t5: Path, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(tiny_t5, model)
    run = seqtune.finetune(**{**inputs, "model_id": str(model)})
    content = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**content, "model_max_length": 77}))
    with pytest.raises(InputError, match="not the tokenizer"):
        seqtune.evaluate(run.path)


@pytest.mark.parametrize("content", ["{", "[]", '{"peft_type": "NONE", "base_model_name_or_path": "?"}'])
def test_a_damaged_adapter_configuration(inputs: dict[str, Any], content: str):
    run = seqtune.finetune(**inputs)
    (run.adapter / "adapter_config.json").write_text(content)
    (run.path / "run.json").unlink()
    given = {"adapter_path": str(run.adapter), "data_path": inputs["data_path"], "model_id": inputs["model_id"]}
    for outputs in (["lora_config"], ["finetuned_model"]):
        with pytest.raises(InputError, match="adapter"):
            seqtune.build_driver({"start": "presaved"}).execute(outputs, inputs=given)


def test_an_adapter_that_names_no_base_model(inputs: dict[str, Any]):
    run = seqtune.finetune(**inputs)
    (run.path / "run.json").unlink()
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == inputs["model_id"]
    (run.adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(InputError, match="does not name the base model"):
        seqtune.load(run.adapter)
    assert seqtune.load(run.adapter, model_id=inputs["model_id"]).generate(["a"])
