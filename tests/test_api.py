from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import seqtune
from seqtune.errors import InputError, RunError


@pytest.fixture(scope="module")
def run(tiny_t5: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> seqtune.Run:
    out = tmp_path_factory.mktemp("api") / "run"
    return seqtune.finetune(
        rows_file,
        model_id=str(tiny_t5),
        out=str(out),
        max_steps=8,
        learning_rate=1e-2,
        max_new_tokens=8,
        precision="fp32",  # the same answers on every machine
        input_template="answer: {question} {braces}",
    )


def test_what_finetune_returns(run: seqtune.Run):
    assert run.metrics["hold_out"].keys() == {"base", "tuned"}
    assert run.verdict in ("better", "no clear difference", "worse")
    assert len(run.predictions["hold_out"]) == 4
    assert run.path.is_dir()
    assert repr(run).startswith("Run(")


def test_a_loaded_model_answers_as_in_its_run(run: seqtune.Run):
    """Template, limits and token limit are the run's; the batch and the order make no difference."""
    model = seqtune.load(run.path)
    rows = run.predictions["hold_out"]
    texts = [row["input"] for row in rows]
    assert model.generate(texts) == [row["tuned"] for row in rows]
    assert model.generate(texts[::-1], batch_size=1) == [row["tuned"] for row in rows[::-1]]
    assert list(model.stream(iter(texts))) == list(zip(texts, model.generate(texts), strict=True))
    assert model.generate([]) == []


def test_generate_takes_transformers_knobs(run: seqtune.Run):
    model = seqtune.load(run.path)
    assert len(model.tokenizer(model.generate(["What?"], max_new_tokens=2)[0]).input_ids) <= 4
    sampled = {"do_sample": True, "temperature": 5.0, "top_k": 0}
    assert model.generate(["What?"], **sampled) == model.generate(["What?"], **sampled), "seeded"
    assert len(model.generate(["a", "b"], num_beams=3)) == 2


@pytest.mark.parametrize(("texts", "message"), [("one", "takes a list"), ([1], r"texts\[0\] is int")])
def test_generate_refuses_what_is_no_text(run: seqtune.Run, texts: Any, message: str):
    with pytest.raises(InputError, match=message):
        seqtune.load(run.path).generate(texts)


def test_load_refuses_a_folder_without_an_adapter(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}))
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        seqtune.load(tmp_path)


def test_a_pickled_adapter_is_never_read(run: seqtune.Run, tmp_path: Path):
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04canary")
    with pytest.raises(InputError, match="safetensors"):
        seqtune.load(tmp_path)


def test_a_failed_delivery_keeps_the_trained_adapter(
    tiny_t5: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seqtune.run.write_jsonl", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(RunError, match="No space left on device") as caught:
        seqtune.finetune(rows_file, model_id=str(tiny_t5), out=str(tmp_path / "out"), max_steps=1, max_new_tokens=2)
    (line,) = caught.value.details
    kept = Path(line.removeprefix("the trained adapter is kept: "))
    assert (kept / "adapter_model.safetensors").is_file()
    assert seqtune.load(kept).generate(["a"])
    with pytest.raises(InputError, match="seqtune resume"):
        seqtune.load(tmp_path / "out")
    monkeypatch.undo()
    finished = seqtune.resume(tmp_path / "out")
    assert finished.manifest["training"]["resumed_at"] == [1]
    assert [path.name for path in tmp_path.joinpath("out").glob("checkpoints")] == []


def test_the_module_has_what_it_names():
    for name in seqtune.__all__:
        assert getattr(seqtune, name) is not None
    with pytest.raises(AttributeError, match="finetunes"):
        seqtune.finetunes  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
