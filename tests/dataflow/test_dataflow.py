"""The dataflow as a whole, on tiny models: what every start, family, order and replacement must hold."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from hamilton import driver as hamilton_driver
from hamilton.lifecycle import NodeExecutionHook
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM

import seqtune
from seqtune.driver import PUBLIC_OUTPUTS
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


@pytest.fixture
def inputs(tiny_t5: Path, rows_file: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "data_path": str(rows_file),
        "model_id": str(tiny_t5),
        "max_steps": 6,
        "learning_rate": 1e-2,
        "max_new_tokens": 8,
        "out": str(tmp_path / "run"),
        "work_dir": str(tmp_path / "work"),
    }


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
    assert {"seconds", "steps", "best_step", "tokens"} <= run.manifest["training"].keys()
    assert run.manifest["seed"] == 42
    for row in run.predictions["hold_out"]:
        assert {"input", "reference", "base", "tuned", "scores"} <= row.keys()
        assert row["extra"]["topic"] in row["input"]
    assert [row["step"] for row in run.log or []] == list(range(7))
    assert {"step", "epoch", "loss", "learning_rate", "tokens", "seconds"} <= (run.log or [])[1].keys()
    best = min((row["validation_loss"], row["step"]) for row in run.log or [] if "validation_loss" in row)
    assert best[1] == run.manifest["training"]["best_step"]
    assert run.metrics["validation"]["tuned"]["loss"] == pytest.approx(best[0], rel=1e-5)


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


def test_lifecycle_adapters_are_taken(inputs: dict[str, Any]):
    seen: list[str] = []

    class Watch(NodeExecutionHook):
        def run_before_node_execution(self, *, node_name: str, **_: Any) -> None:
            seen.append(node_name)

        def run_after_node_execution(self, **_: Any) -> None:
            pass

    seqtune.build_driver(adapters=[Watch()]).execute(["train_set"], inputs=inputs)
    assert "data_splits" in seen


def test_a_node_never_changes_its_inputs(inputs: dict[str, Any]):
    """The base model answers the same before and after it was tuned."""
    driver = seqtune.build_driver()
    alone = driver.execute(["base_model_on_hold_out_set"], inputs=inputs)
    after = driver.execute(["finetuned_model_on_hold_out_set", "base_model_on_hold_out_set"], inputs=inputs)
    assert alone["base_model_on_hold_out_set"] == after["base_model_on_hold_out_set"]


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def pairs(names: str) -> list[dict[str, Any]]:
    return [{"question": f"What is {name}?", "reply": f"{name} is number {ord(name)}."} for name in names]


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


def test_evaluate_on_another_file(inputs: dict[str, Any], tmp_path: Path):
    run = seqtune.finetune(**inputs)
    found = seqtune.evaluate(run.path, hold_out_path=written(tmp_path / "new.json", pairs("abcdef")))
    assert found["verdict"]["rows"] == 6
    assert found["metrics"]["validation"] == run.metrics["validation"], "the run's own sets stay what they were"
    trained = [{"question": "How long is the warranty of the LAMP ?", "reply": "?"}, *pairs("abcdef")]
    again = seqtune.evaluate(run.path, hold_out_path=written(tmp_path / "seen.json", trained))
    assert again["metrics"] == found["metrics"], "a question that was trained on is not scored"


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
