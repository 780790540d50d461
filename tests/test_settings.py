"""`seqtune.settings`: what is refused and in which words, config files, and that nothing made from it disagrees."""

from __future__ import annotations

import inspect
import json
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel

from seqtune import settings, tables
from seqtune.errors import InputError
from seqtune.settings import DEFAULT, Settings, knobs, read_config, resolved, validated


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("lora_r", 0, "lora_r = 0   expected a whole number, at least 1"),
        ("lora_r", "x", "lora_r = 'x'   expected a whole number, at least 1"),
        ("lora_r", 1.5, "lora_r = 1.5   expected a whole number, at least 1"),
        ("lora_r", True, "lora_r = yes   expected a whole number, at least 1"),
        ("lora_r", None, "lora_r is empty   expected a whole number, at least 1"),
        ("lora_r", [16], "lora_r = [16]   expected a whole number, at least 1"),
        ("learning_rate", "fast", "learning_rate = 'fast'   expected a number, above 0"),
        ("learning_rate", float("inf"), "learning_rate = inf   expected a number, above 0"),
        ("weight_decay", float("nan"), "weight_decay = nan   expected a number, at least 0"),
        ("train_size", 1, "train_size = 1   expected a number, above 0, below 1"),
        ("top_p", 1.5, "top_p = 1.5   expected a number, above 0, at most 1"),
        ("random_state", -1, "random_state = -1   expected a whole number, at least 0, below 4,294,967,296"),
        ("use_dora", 3, "use_dora = 3   expected yes or no"),
        ("precision", "fp16", "precision = 'fp16'   expected auto, fp32 or bf16"),
        ("on_bad_rows", None, "on_bad_rows is empty   expected fail or skip"),
        ("input_text_key", 5, "input_text_key = 5   expected text"),
        ("model_id", "", "model_id is empty   expected text"),
        ("input_template", "answer", "input_template = 'answer'   expected text with {question}"),
        ("precision", "x" * 1000, "expected auto, fp32 or bf16"),
    ],
)
def test_refused_in_words(name: str, value: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        validated({name: value})
    assert caught.value.headline == "settings: 1 problem"
    assert said in caught.value.details[0]
    assert len(caught.value.details[0]) < 200
    assert "pydantic" not in str(caught.value)


def test_all_problems_at_once() -> None:
    with pytest.raises(InputError) as caught:
        validated({"learning_rat": 1, "lora_r": 0, "top_p": 2})
    assert caught.value.headline == "settings: 3 problems"
    assert caught.value.details[0] == "learning_rat is no setting   did you mean `learning_rate`?"
    assert caught.value.exit_status == 2


def test_converted() -> None:
    values = validated({"learning_rate": "5e-3", "lora_r": "8", "lora_alpha": 16, "out": Path("x"), "use_dora": "yes"})
    assert values == {"learning_rate": 0.005, "lora_r": 8, "lora_alpha": 16.0, "out": "x", "use_dora": True}
    assert isinstance(values["lora_alpha"], float)


def test_only_what_was_given_comes_back() -> None:
    assert validated({"max_steps": None}) == {"max_steps": None}


def test_resolved_takes_the_given_then_the_saved_then_the_default() -> None:
    saved = {"settings": {"lora_r": 4, "num_beams": 3}}
    given = {"lora_r": 8, "num_beams": None, "top_k": None}
    assert resolved(saved, given) == {"lora_r": 8, "num_beams": 3, "top_k": 50}
    with pytest.raises(InputError):
        resolved(None, {"data_path": None}, required=["data_path"])


YAML = "learning_rate: 5e-3\nlora-r: 8\nuse_dora: yes\ntarget_modules: q,v\nmax_steps: null\n"
TOML = "learning_rate = 5e-3\nlora-r = 8\nuse_dora = true\ntarget_modules = 'q,v'\n"


@pytest.mark.parametrize(("name", "text"), [("a.yaml", YAML), ("a.yml", YAML), ("A.TOML", TOML)])
def test_config_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
    found = read_config(tmp_path / name)
    assert found.pop("max_steps", None) is None
    assert found == {"learning_rate": 0.005, "lora_r": 8, "use_dora": True, "target_modules": "q,v"}


def test_an_empty_config_file_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing yet\n")
    assert read_config(tmp_path / "a.yaml") == {}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.yaml", b"lora_rr: 3\n", "a.yaml: settings: 1 problem\n  lora_rr is no setting   did you mean `lora_r`?"),
        ("a.yaml", b"lora_r:\n  value: 3\n", "settings stand side by side"),
        ("a.toml", b"[finetuning]\nlora_r = 3\n", "finetuning holds lora_r"),
        ("a.yaml", b"lora_r: [1\n", "line 2, column 1: expected"),
        ("a.yaml", b"lora_r: !!python/object:os.system 3\n", "line 1, column 9"),
        ("a.toml", b"lora_r: 3\n", "line 1, column 7"),
        ("a.yaml", b"\xff\xfe\x00", "can't be read"),
        ("a.yaml", b"- lora_r\n", "expected settings with their values, found list"),
        ("a.yaml", b"just text\n", "expected settings with their values, found str"),
        ("a.yaml", b"3: 4\n", "found a name that is no text"),
        ("a.yaml", b"input_text_key: 2020-01-01\n", "expected text"),
        ("a.yaml", b"a: " + b"[" * 5000, "can't be read"),
    ],
)
def test_refused_config_files(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_config(tmp_path / name)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_a_config_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("")
    with pytest.raises(InputError, match=r"no such file; did you mean `settings.yaml`"):
        read_config(tmp_path / "setings.yaml")


def test_every_knob_is_explained_in_one_sentence_or_two() -> None:
    for knob in knobs().values():
        assert knob.help.endswith("."), knob.name
        assert "\n" not in knob.help
        assert knob.group in settings.GROUPS
        assert knob.default is not None or knob.derived, f"{knob.name}: what stands in for None?"
        assert knob.expected
        assert knob.default is None or type(knob.default) is (str if knob.choices else knob.type), knob.name


def test_defaults_are_within_their_own_bounds() -> None:
    assert validated(DEFAULT.model_dump()) == DEFAULT.model_dump()


def test_the_page_of_inputs_is_up_to_date() -> None:
    page = (Path(__file__).parents[1] / "docs" / "inputs.md").read_text(encoding="utf-8")
    head, _, rest = page.partition("\n\n### ")
    assert head.startswith("# Inputs\n\n")
    assert "### " + rest == tables.markdown() + "\n", "run `seqtune inputs --markdown` and put it into docs/inputs.md"


def test_table_and_schema_agree() -> None:
    schema = Settings.model_json_schema()
    assert schema["additionalProperties"] is False
    json.dumps(schema, allow_nan=False)
    rows = {row["name"]: row for row in tables.rows()}
    assert list(rows) == list(schema["properties"])
    kinds = {"integer": "int", "number": "float", "string": "str", "boolean": "bool"}
    for name, row in rows.items():
        said = schema["properties"][name]
        kind = next((part for part in said.get("anyOf", []) if part["type"] != "null"), said)
        assert row["type"] == (" | ".join(kind["enum"]) if "enum" in kind else kinds[kind["type"]])
        assert row["use"] == said["description"]
        bounds = [kind[key] for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if key in kind]
        assert sorted(f"{bound:,}" for bound in bounds) == sorted(
            part.split(" ")[-1] for part in row["bounds"].split(", ") if part
        ), name


def test_nodes_take_the_defaults_and_types_of_the_knobs() -> None:
    import seqtune

    known, seen = knobs(), set()
    for module in seqtune.modules():
        for node, function in vars(module).items():  # Hamilton takes the suffix off function.__name__
            if not inspect.isfunction(function) or function.__module__ != module.__name__:
                continue
            hints = typing.get_type_hints(function)
            for name, parameter in inspect.signature(function).parameters.items():
                if name not in known:
                    assert parameter.default is inspect.Parameter.empty, f"{node}({name}) is no knob"
                    continue
                seen.add(name)
                where = f"{module.__name__}.{node}({name})"
                declared = typing.cast(type[BaseModel], Settings).model_fields[name].annotation
                if parameter.default is inspect.Parameter.empty:
                    assert name in ("data_path", "adapter_path"), where
                    assert hints[name] is str, where
                elif node.endswith("__presaved"):
                    assert parameter.default is None, where
                    assert hints[name] == known[name].type | None, where
                else:
                    assert parameter.default == getattr(DEFAULT, name), where
                    assert hints[name] == declared, where
    assert seen == set(known)


def test_the_store_of_adapters_promises_no_more_than_it_keeps() -> None:
    assert knobs()["work_dir"].help == (
        "Where trained adapters are kept (each under its SHA-256; they may be deleted when delivered)."
    )
