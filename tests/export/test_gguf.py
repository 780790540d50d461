"""GGUF files by themselves: tokenizers inside them, what is refused, and a llama.cpp that ends its process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from exporting_help import Run, asked
from seqtune import export
from seqtune.errors import InputError, RunError
from seqtune.export import tuned, vocabulary
from seqtune.models import loading
from tiny_models import tiny_model

gguf = pytest.importorskip("gguf")
pytest.importorskip("cyllama")
target: Any = export.target_of("gguf")


def written(found: tuned.Tuned, folder: Path, quantization: str = "float32") -> dict[str, Any]:
    """The tensors of the file that is written of this model, by name."""
    target.write(found, folder, quantization)
    return {tensor.name: tensor for tensor in gguf.GGUFReader(folder / "model.gguf").tensors}


@pytest.mark.parametrize("which", ["sentencepiece", "seqtune-mini"])
def test_llama_cpp_cuts_texts_as_the_run_does(which: str, run_of: Run, mini_run: Path, tmp_path: Path):
    path = mini_run if which == "seqtune-mini" else run_of(which)
    found = export.write(path, "gguf", tmp_path / "out")
    assert sorted(found["files"]) == ["load.py", "model.gguf"]  # no tokenizer beside it: what follows is llama.cpp's
    assert found["check"]["same"] + found["check"]["tied"] == found["check"]["rows"]
    ours = tuned.load(path)
    texts = [*ours.texts, *ours.references, *vocabulary.PROBES, "", "end token: </s>", "many words " * 1000]
    ids = [ours.tokenizer(text, truncation=True, max_length=1024)["input_ids"] for text in texts]
    assert target._asked(tmp_path / "out", "encoded", texts) == ids
    plain = [ours.tokenizer.decode(each, skip_special_tokens=True).strip() for each in ids]
    assert target._asked(tmp_path / "out", "decoded", ids) == plain
    questions = ["How long is it?", "", "a long question " * 200]
    answers = ours.answerer.answer(
        [ours.tokenizer(text, truncation=True, max_length=1024)["input_ids"] for text in questions],
        batch_size=1, random_state=0, max_new_tokens=ours.limit,
    )  # fmt: skip
    assert asked(tmp_path / "out", questions) == [line for answer in answers for line in (answer + "\n").splitlines()]


def test_a_tokenizer_that_llama_cpp_does_not_have_lies_beside_the_file(run_of: Run, tmp_path: Path):
    written(tuned.load(run_of("t5")), tmp_path)  # byte-level BPE with one blank at most before a text
    assert (tmp_path / "tokenizer.json").is_file()
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert reader.fields["tokenizer.ggml.model"].contents() == "none"


def test_a_tokenizer_that_cuts_otherwise_lies_beside_the_file(
    run_of: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = tuned.load(run_of("sentencepiece"))
    add = vocabulary._add_unigram

    def without_the_map(writer: Any, state: dict[str, Any], size: int) -> None:
        add(writer, {**state, "normalizer": None}, size)

    monkeypatch.setattr(vocabulary, "_add_unigram", without_the_map)
    written(found, tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()


def test_the_scale_of_the_outputs_is_in_the_file(run_of: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = tuned.load(run_of("t5"))
    tensors = written(found, tmp_path)
    assert "output.weight" not in tensors  # it is the embedding
    last = found.model.get_decoder().final_layer_norm.weight.detach()
    assert torch.allclose(torch.from_numpy(tensors["dec.output_norm.weight"].data.copy()), last * 32**-0.5)
    weights = target._weights
    unscaled = {"dec.output_norm": last}
    monkeypatch.setattr(target, "_weights", lambda model: {**dict(weights(model)), **unscaled}.items())
    with pytest.raises(RunError, match="does not answer as the tuned model does"):
        export.write(run_of("t5"), "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_of_its_own_and_q8_0(run_of: Run, tmp_path: Path):
    found = tuned.load(run_of("flan-t5"))
    (tmp_path / "plain").mkdir()
    (tmp_path / "small").mkdir()
    plain, small = written(found, tmp_path / "plain"), written(found, tmp_path / "small", "q8_0")
    assert {tensor.tensor_type.name for tensor in plain.values()} == {"F32"}
    head = found.model.get_output_embeddings().weight.detach()
    assert torch.equal(torch.from_numpy(plain["output.weight"].data.copy()), head)
    kinds = {name: tensor.tensor_type.name for name, tensor in small.items()}
    assert kinds["output.weight"] == kinds["token_embd.weight"] == kinds["dec.blk.1.cross_attn_q.weight"] == "Q8_0"
    assert kinds["enc.blk.0.attn_rel_b.weight"] == kinds["dec.output_norm.weight"] == "F32"
    assert kinds["dec.blk.0.ffn_down.weight"] == "F32"  # 48 columns are no blocks of 32


def test_a_decoder_of_fewer_layers(run_of: Run, tmp_path: Path):
    found = tuned.load(run_of("sentencepiece"))
    sizes = {"num_layers": 3, "num_decoder_layers": 1}
    model: Any = type(found.model)(type(found.model.config)(**{**found.model.config.to_dict(), **sizes}))
    found = replace(found, model=model.eval())
    written(found, tmp_path)
    answers = [[5, 6, 7]] * len(found.sources)
    theirs, ours = target.log_probs(found, tmp_path, answers), found.log_probs(model, answers)
    assert torch.allclose(torch.tensor(theirs), torch.tensor(ours), atol=target.BOUND)


@pytest.mark.parametrize("family", ["bart", "longt5"])
def test_families_that_are_refused(family: str, run_of: Run, tmp_path: Path):
    with pytest.raises(InputError, match=r"llama\.cpp has no such") as raised:
        export.write(run_of(family), "gguf", tmp_path / "out")
    assert "merged" in raised.value.mend
    assert list(tmp_path.iterdir()) == []


def test_all_that_llama_cpp_would_compute_otherwise_is_told(run_of: Run):
    model: Any = tiny_model("flan-t5")
    target._check(model)
    model.config.dense_act_fn = "silu"
    model.config.relative_attention_max_distance = 64
    model.config.num_decoder_layers = 3
    model.decoder.embed_tokens = torch.nn.Embedding.from_pretrained(model.shared.weight.detach() + 1)
    with pytest.raises(InputError) as raised:
        target._check(model)
    assert [detail.split("   ")[0] for detail in raised.value.details] == [
        "its activation is silu",
        "its relative_attention_max_distance is 64",
        "its decoder has more layers than its encoder",
        "its encoder and decoder have embeddings of their own",
    ]
    plain: Any = tiny_model("t5")
    plain.config.dense_act_fn = "gelu_new"
    with pytest.raises(InputError, match="expected relu or a gated gelu_new"):
        target._check(plain)


def test_the_packaged_model_can_be_exported():
    """Nothing is raised, unlike above."""
    target._check(loading.load_model(loading.resolve("seqtune-mini"), torch.device("cpu")))


@pytest.mark.parametrize("what", ["cut off", "too little room"])
def test_what_llama_cpp_dislikes_ends_its_own_process_alone(
    what: str, run_of: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = target.write

    def wrong(found: tuned.Tuned, folder: Path, quantization: str) -> None:
        write(found, folder, quantization)
        data = (folder / "model.gguf").read_bytes()
        (folder / "model.gguf").write_bytes(data[: len(data) // 2])

    if what == "cut off":
        monkeypatch.setattr(target, "write", wrong)
    else:  # an assertion of llama.cpp, by which it aborts
        snippet = target.SNIPPET.replace("settings.n_ubatch = len(ids)", "settings.n_ubatch = 1")
        monkeypatch.setattr(target, "SNIPPET", snippet)
    with pytest.raises(RunError, match=r"llama\.cpp can't use the export"):
        export.write(run_of("t5"), "gguf", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
