"""The dataflow under start=base, on tiny models: what every family, order and file must hold."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from hamilton import driver as hamilton_driver
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

import seqtune
from sample_rows import pairs, written
from seqtune.data import split_numbers
from seqtune.engine import loop
from seqtune.engine.batching import collate
from seqtune.errors import InputError
from tiny_models import FAMILIES, tiny

ASKED = [
    "save_best_models",
    "hold_out_set_predictions",
    "training_and_validation_set_metrics",
    "finetuned_model_on_validation_set",
]


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Length of the difference, in lengths of what was expected."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_train_save_reload(family: str, tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """What is delivered is what was trained: not the untrained adapter, and the same logits after reloading."""
    in_memory: dict[str, torch.Tensor] = {}
    untrained: dict[str, torch.Tensor] = {}

    def watched(model: Any, *args: Any, **kwargs: Any) -> Any:
        untrained.update({name: weight.clone() for name, weight in get_peft_model_state_dict(model).items()})
        state = loop.train(model, *args, **kwargs)
        in_memory.update({name: weight.clone() for name, weight in get_peft_model_state_dict(model).items()})
        return state

    monkeypatch.setattr("seqtune.dataflow.finetuning.loop", types.SimpleNamespace(train=watched))
    inputs["model_id"] = str(tiny(family, tmp_path / family))
    if family == "umt5":  # its random start is so near to uniform that queries and values alone change nothing
        inputs.update(target_modules="all-linear", max_steps=20)
    found = seqtune.build_driver().execute(
        ["save_best_models", "finetuned_model", "base_model", "tokenized_hold_out", "manifest"], inputs=inputs
    )
    saved = load_file(Path(found["save_best_models"]["adapter"]) / "adapter_model.safetensors")
    assert found["manifest"]["training"]["best_step"] > 0
    assert saved.keys() == in_memory.keys() == untrained.keys()
    for name, weight in saved.items():
        assert torch.equal(in_memory[name], weight), f"{name} is not what training left in memory"
    assert any(not torch.equal(untrained[name], weight) for name, weight in saved.items()), "the untrained adapter"

    batch = collate(found["tokenized_hold_out"].to_list(), 0)
    with torch.inference_mode():
        logits = found["finetuned_model"](**batch).logits
        untouched = found["base_model"](**batch).logits
        reloaded = seqtune.load(found["save_best_models"]["path"])
        assert distance(reloaded.model(**batch).logits, logits) < 1e-5
        assert distance(reloaded.merged()(**batch).logits, logits) < 1e-5
        assert distance(reloaded.model(**batch).logits, logits) < 1e-5, "merging leaves the model as it was"
    assert distance(untouched, logits) > 1e-3


def test_run_directory_is_as_designed(inputs: dict[str, Any]):
    path = Path(seqtune.build_driver().execute(["save_best_models"], inputs=inputs)["save_best_models"]["path"])
    names = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert {
        "run.json",
        "log.jsonl",
        "splits.json",
        "report.html",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "adapter/tokenizer.json",
        "predictions/validation.jsonl",
        "predictions/hold_out.jsonl",
    } <= names
    assert not any(Path(name).name == "model.safetensors" for name in names), "the base model is not copied"

    run = seqtune.Run(path)
    metrics = {"loss", "rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "chrf", "exact_match"}
    for split in ("validation", "hold_out"):
        for model in ("base", "tuned"):
            assert metrics <= run.metrics[split][model].keys()
    assert run.manifest["data"]["splits"] == {"train": 32, "validation": 4, "hold_out": 4}
    ids = json.loads((path / "splits.json").read_text())
    numbers = {name: split_numbers.read(text) for name, text in ids.items()}
    assert sorted(number for each in numbers.values() for number in each) == list(range(1, 41))
    assert numbers["hold_out"] == sorted(row["row"] for row in run.predictions["hold_out"])
    assert run.manifest["data"]["split_sha256"] == split_numbers.digests(ids)
    assert {"seconds", "steps", "best_step", "tokens"} <= run.manifest["training"].keys()
    assert run.manifest["seed"] == 42
    for row in run.predictions["hold_out"]:
        assert {"input", "reference", "base", "tuned", "scores"} <= row.keys()
        assert row["extra"]["topic"] in row["input"]
    assert [row["step"] for row in run.log or []] == list(range(7))
    assert {"step", "epoch", "loss", "learning_rate", "tokens", "seconds"} <= (run.log or [])[1].keys()
    best = min((row["validation_loss"], row["step"]) for row in run.log or [] if "validation_loss" in row)
    assert best[1] == run.manifest["training"]["best_step"]
    # The final scores are always fp32's.
    bound = 1e-5 if run.manifest["derived"]["precision"]["value"] == "fp32" else 5e-3
    assert run.metrics["validation"]["tuned"]["loss"] == pytest.approx(best[0], rel=bound)


def test_any_order_and_subset_gives_the_same(inputs: dict[str, Any], tmp_path: Path):
    driver = hamilton_driver.Builder().with_modules(*seqtune.modules()).with_config({"start": "base"}).build()
    together = driver.execute(ASKED, inputs={**inputs, "out": str(tmp_path / "a")})
    backwards = driver.execute(ASKED[::-1], inputs={**inputs, "out": str(tmp_path / "b")})
    alone = driver.execute(["save_best_models"], inputs={**inputs, "out": str(tmp_path / "c")})
    some = driver.execute(["hold_out_set_predictions"], inputs=inputs)
    assert together["save_best_models"]["sha256"] == backwards["save_best_models"]["sha256"]
    assert together["save_best_models"]["sha256"] == alone["save_best_models"]["sha256"]
    assert together["hold_out_set_predictions"] == backwards["hold_out_set_predictions"]
    assert together["hold_out_set_predictions"] == some["hold_out_set_predictions"]
    assert together["finetuned_model_on_validation_set"] == backwards["finetuned_model_on_validation_set"]
    assert seqtune.Run(tmp_path / "a").metrics == seqtune.Run(tmp_path / "c").metrics
    assert seqtune.Run(tmp_path / "a").predictions == seqtune.Run(tmp_path / "b").predictions


def test_the_specifications_own_call(tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rows that also hold lists and nested fields; nothing given but model, path and keys."""
    rows = [
        {
            "question": f"What is the code of door {i}?",
            "gpt4_replies_target": f"Door {i} opens with {i * 7919 % 1000}.",
            "history": [["a", 1], {"b": None}],
            "meta": {"tags": ["x"] * (i % 3), "score": i / 7 if i % 2 else "none"},
        }
        for i in range(40)
    ]
    monkeypatch.chdir(tmp_path)
    Path("example-support-dataset.json").write_text(json.dumps(rows))
    dr = hamilton_driver.Builder().with_modules(*seqtune.modules()).with_config({"start": "base"}).build()
    result = dr.execute(
        [
            "save_best_models",
            "hold_out_set_predictions",
            "training_and_validation_set_metrics",
            "finetuned_model_on_validation_set",
        ],
        inputs={
            "model_id": str(tiny_t5),
            "work_dir": str(tmp_path / "work"),
            "data_path": "example-support-dataset.json",
            "input_text_key": "question",
            "output_text_key": "gpt4_replies_target",
        },
    )
    assert result["save_best_models"]["path"] == "runs/example-support-dataset"
    assert [row["extra"]["history"] for row in result["hold_out_set_predictions"]] == [[["a", 1], {"b": None}]] * 4
    assert 5 <= result["training_and_validation_set_metrics"]["training"]["steps"] <= 12
    assert len(result["finetuned_model_on_validation_set"]["predictions"]) == 4


def test_nothing_is_cut_in_silence(inputs: dict[str, Any], caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", logger="seqtune")
    limited = {**inputs, "max_source_length": 6, "max_target_length": 5}
    found = seqtune.build_driver().execute(["cut_rows", "tokenized_train", "length_limits"], inputs=limited)
    assert found["cut_rows"]["train"]["source"]["rows"] == 32
    assert found["cut_rows"]["train"]["target"]["tokens"] > 32
    assert max(map(len, found["tokenized_train"]["input_ids"])) == 6
    assert max(map(len, found["tokenized_train"]["labels"])) == 5
    assert "32 of 32 train rows have a source of more than 6 tokens" in caplog.text


def test_lengths_are_of_the_training_rows_alone(inputs: dict[str, Any]):
    outputs = ["training_lengths", "tokenized_train", "length_limits"]
    found = seqtune.build_driver().execute(outputs, inputs=inputs)
    assert found["training_lengths"]["source"]["max"] == max(map(len, found["tokenized_train"]["input_ids"]))
    assert found["length_limits"]["source"] == {
        "value": 1024,
        "reason": "the limit where the model has none",
        "positions": None,
    }


def test_a_node_never_changes_its_inputs(inputs: dict[str, Any]):
    """The base model answers the same before and after it was tuned."""
    driver = seqtune.build_driver()
    alone = driver.execute(["base_model_on_hold_out_set"], inputs=inputs)
    after = driver.execute(["finetuned_model_on_hold_out_set", "base_model_on_hold_out_set"], inputs=inputs)
    assert alone["base_model_on_hold_out_set"] == after["base_model_on_hold_out_set"]


def test_the_smallest_file(inputs: dict[str, Any], tmp_path: Path):
    """Three rows are enough, and it is said that they are few; two are not."""
    run = seqtune.finetune(**{**inputs, "data_path": written(tmp_path / "three.json", pairs("abc"))})
    assert run.manifest["data"]["splits"] == {"train": 1, "validation": 1, "hold_out": 1}
    assert run.manifest["data"]["warnings"]
    assert run.verdict == "no clear difference", "one row can't tell"
    with pytest.raises(InputError, match="3"):
        seqtune.finetune(**{**inputs, "data_path": written(tmp_path / "two.json", pairs("ab")), "out": None})


def test_own_split_files(inputs: dict[str, Any], tmp_path: Path):
    """They are taken as they are; what is in them is not trained on."""
    found = seqtune.build_driver().execute(
        ["train_set", "validation_set", "hold_out_set"],
        inputs={
            **inputs,
            "data_path": written(tmp_path / "train.json", pairs("abcdefgh")),
            "validation_path": written(tmp_path / "validation.json", pairs("ijg")),
            "hold_out_path": written(tmp_path / "hold_out.json", pairs("klh")),
        },
    )
    names = {split: sorted(row["input"][8] for row in rows) for split, rows in found.items()}
    assert names == {"train_set": list("abcdef"), "validation_set": list("gij"), "hold_out_set": list("hkl")}


def test_few_rows_are_scored_of_many(inputs: dict[str, Any], caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", logger="seqtune")
    run = seqtune.finetune(**{**inputs, "max_eval_rows": 2})
    assert run.manifest["data"]["evaluated"] == {"validation": 2, "hold_out": 2}
    assert len(run.predictions["hold_out"]) == 2
    assert "2 of 4 hold-out rows are scored (max_eval_rows)" in caplog.text


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({"use_dora": True}, {"use_dora": True}),
        ({"use_rslora": True, "lora_r": 4}, {"use_rslora": True, "r": 4}),
        ({"target_modules": "k,wo", "lora_alpha": 5}, {"lora_alpha": 5}),
        ({"target_modules": "all-linear"}, {}),
    ],
)
def test_pefts_own_switches(inputs: dict[str, Any], knobs: dict[str, Any], expected: dict[str, Any]):
    run = seqtune.finetune(**{**inputs, **knobs})
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert expected.items() <= config.items()
    weights = load_file(run.adapter / "adapter_model.safetensors")
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in weights}
    wanted = {"k,wo": {"k", "wo"}, "all-linear": {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}}
    assert adapted == wanted.get(knobs.get("target_modules", ""), {"q", "v"})
    texts = [row["input"] for row in run.predictions["hold_out"]]
    assert seqtune.load(run.path).generate(texts) == [row["tuned"] for row in run.predictions["hold_out"]]


def test_a_file_in_another_script_is_scored(inputs: dict[str, Any], tmp_path: Path):
    """Google's ROUGE tokenizer sees nothing in Japanese."""
    rows = [{"question": f"{n}番の鍵は?", "reply": f"鍵は{n * 37}号室にあります。"} for n in range(40)]
    run = seqtune.finetune(**{**inputs, "data_path": written(tmp_path / "ja.json", rows)})
    assert run.manifest["derived"]["rouge_tokenizer"]["value"] == "unicode"


@pytest.mark.parametrize("family", ["bart", "pegasus"])
def test_long_answers_stay_within_the_positions(family: str, inputs: dict[str, Any], tmp_path: Path):
    rows = [{**row, "reply": row["reply"] * 30} for row in pairs("abcdefghij")]
    run = seqtune.finetune(
        data_path=written(tmp_path / "long.json", rows),
        model_id=str(tiny(family, tmp_path / family)),
        out=inputs["out"],
        max_steps=1,
    )
    assert run.manifest["settings"]["max_new_tokens"] == 127
    assert run.manifest["data"]["cut"]["train"]["target"]["rows"] == 8


def test_constant_learning_rate_is_warmed_up(inputs: dict[str, Any]):
    run = seqtune.finetune(**{**inputs, "lr_scheduler_type": "constant", "warmup_steps": 3})
    rates = [row["learning_rate"] for row in (run.log or [])[1:]]
    assert rates[0] < rates[1] < rates[2] < rates[3] == rates[-1] == 0.01
