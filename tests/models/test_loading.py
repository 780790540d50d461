"""From a name to a model: every family through one table, and every way in which a name can be wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, LlamaConfig

import hub_server
import tiny_models
from seqtune.errors import InputError
from seqtune.models import hub, loading

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=tiny_models.FAMILIES)
def folder(request, tmp_path_factory):
    """A saved tiny model of each family."""
    return tiny_models.tiny(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A saved tiny T5."""
    return tiny_models.tiny("t5", tmp_path_factory.mktemp("t5") / "t5")


@pytest.fixture(scope="module")
def flan(tmp_path_factory):
    """A saved tiny FLAN-T5, whose output head is a weight of its own."""
    return tiny_models.tiny("flan-t5", tmp_path_factory.mktemp("flan") / "flan")


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder, to be spoilt."""
    shutil.copytree(source, target)
    return target


def logits(model, ids=((5, 6, 7, 1),)):
    """What the model says to a fixed input."""
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids), decoder_input_ids=torch.tensor(ids)).logits


def adapted(model):
    """The model with an adapter that changes its outputs, in training mode."""
    targets = ["q_proj", "v_proj"] if hasattr(model, "model") else ["q", "v"]
    config = LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=targets, r=4, init_lora_weights=False)
    return get_peft_model(model, config)


# The table of families.


def test_a_folder_is_resolved_and_loaded(folder):
    checkpoint = loading.resolve(str(folder))
    assert checkpoint == loading.resolve(str(folder))
    assert (checkpoint.model_id, checkpoint.path, checkpoint.revision) == (str(folder), str(folder), None)
    assert (checkpoint.tokenizer_id, checkpoint.tokenizer_path) == (str(folder), str(folder))
    assert checkpoint.architecture.endswith("ForConditionalGeneration")
    assert checkpoint.model_type in checkpoint.architecture.lower()
    assert json.loads(json.dumps(checkpoint.as_dict())) == dataclasses.asdict(checkpoint)

    model, tokenizer = loading.load_model(checkpoint, CPU), loading.load_tokenizer(checkpoint)
    built = tiny_models.tiny_model(folder.name, len(tokenizer))
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not any(weight.requires_grad for weight in model.parameters())
    assert torch.allclose(logits(model), logits(built), atol=1e-4)
    assert loading.weights_sha256(model) == loading.weights_sha256(built)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (folder.name not in ("flan-t5", "mt5", "umt5"))
    loading.check_fit(model, tokenizer)
    loading.check_fit(model.config, tokenizer)
    sentence = tiny_models.SENTENCES[3]
    assert tokenizer.decode(tokenizer(sentence)["input_ids"], skip_special_tokens=True).strip() == sentence


def test_a_model_saved_again_is_the_same_model(folder, tmp_path):
    model = loading.load_model(loading.resolve(str(folder)), CPU)
    model.save_pretrained(tmp_path)
    loading.load_tokenizer(loading.resolve(str(folder))).save_pretrained(tmp_path)
    again = loading.load_model(loading.resolve(str(tmp_path)), CPU)
    assert torch.allclose(logits(model), logits(again), atol=1e-4)
    assert loading.weights_sha256(model) == loading.weights_sha256(again)


def test_a_shared_copy_takes_an_adapter_and_leaves_the_original_alone(folder):
    model = loading.load_model(loading.resolve(str(folder)), CPU)
    names = [name for name, _ in model.named_modules()]
    before, digest = logits(model), loading.weights_sha256(model)

    copy = loading.shared_copy(model)
    assert type(copy) is type(model)
    assert not any(weight.requires_grad for weight in copy.parameters())
    assert copy.config is not model.config
    # No memory of its own: every tensor lies where the original's does.
    places = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    assert {name: tensor.data_ptr() for name, tensor in copy.state_dict().items()} == places
    assert {name for name, _ in copy.named_parameters()} == {name for name, _ in model.named_parameters()}
    assert not {id(weight) for weight in copy.parameters()} & {id(weight) for weight in model.parameters()}
    assert torch.equal(logits(copy), before)

    tuned = adapted(copy)
    assert not torch.equal(logits(tuned.eval()), before)
    assert tuned.generate(input_ids=torch.tensor([[5, 6, 1]]), max_new_tokens=3).shape[0] == 1
    tuned.to(torch.bfloat16).train()
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not model.training
    assert [name for name, _ in model.named_modules()] == names
    assert not any(weight.requires_grad for weight in model.parameters())
    assert torch.equal(logits(model), before)
    assert loading.weights_sha256(model) == digest

    base = tuned.get_base_model()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (base.get_output_embeddings().weight is base.get_input_embeddings().weight) == tied


# Digests.


def test_digests_follow_content_and_nothing_else(t5, tmp_path):
    checkpoint = loading.resolve(str(t5))
    twin = copied(t5, tmp_path / "twin")
    (twin / "README.md").write_text("about")
    (twin / "pytorch_model.bin").write_bytes(b"left over")
    same = loading.resolve(str(twin))
    assert (same.sha256, same.tokenizer_sha256) == (checkpoint.sha256, checkpoint.tokenizer_sha256)

    weights = load_file(twin / "model.safetensors")
    weights["shared.weight"][7, 3] += 1e-3
    save_file(weights, twin / "model.safetensors", {"format": "pt"})
    changed = loading.resolve(str(twin))
    assert changed.sha256 != checkpoint.sha256
    assert changed.tokenizer_sha256 == checkpoint.tokenizer_sha256

    models = [loading.load_model(each, CPU) for each in (checkpoint, same, changed)]
    assert loading.weights_sha256(models[0]) != loading.weights_sha256(models[2])
    (twin / "tokenizer_config.json").write_text((twin / "tokenizer_config.json").read_text() + " ")
    assert loading.resolve(str(twin)).tokenizer_sha256 != checkpoint.tokenizer_sha256


def test_the_digest_of_weights_sees_dtype_and_configuration(t5):
    model = loading.load_model(loading.resolve(str(t5)), CPU)
    digest = loading.weights_sha256(model)
    assert digest == loading.weights_sha256(loading.shared_copy(model))
    half = loading.shared_copy(model).to(torch.bfloat16)
    assert loading.weights_sha256(half) != digest
    scaled = loading.shared_copy(model)
    scaled.config.scale_decoder_outputs = False
    assert loading.weights_sha256(scaled) != digest


# Which model is meant.


def test_names(t5, flan, monkeypatch):
    asked = []

    def fetch(name, revision, *, weights, check_config):
        asked.append((name, revision, weights))
        return t5, "0" * 40

    monkeypatch.setattr(hub, "fetch", fetch)
    assert loading.resolve().model_id == "google/flan-t5-small"
    both = loading.resolve(None, "google/mt5-small", "v1")
    assert (both.model_id, both.tokenizer_id, both.revision) == ("google/mt5-small", "google/mt5-small", "0" * 40)
    assert asked == [("google/flan-t5-small", None, True), ("google/mt5-small", "v1", True)]
    apart = loading.resolve(str(flan), str(t5))
    assert (apart.path, apart.tokenizer_path, apart.model_id) == (str(flan), str(t5), str(flan))
    assert len(asked) == 2


def test_a_folder_by_other_spellings(t5, monkeypatch):
    monkeypatch.chdir(t5.parent)
    digests = {loading.resolve(name).sha256 for name in ("t5", "./t5", "../" + t5.parent.name + "/t5", str(t5))}
    assert len(digests) == 1
    monkeypatch.setenv("HOME", str(t5.parent))
    assert loading.resolve("~/t5").path == str(t5)


def test_the_embedded_model():
    if not list(loading.embedded_folder().glob("*.safetensors")):
        pytest.skip("the package has no weights of seqtune-mini yet")
    checkpoint = loading.resolve("seqtune-mini")
    assert (checkpoint.model_id, checkpoint.model_type) == ("seqtune-mini", "t5")
    model, tokenizer = loading.load_model(checkpoint, CPU), loading.load_tokenizer(checkpoint)
    loading.check_fit(model, tokenizer)
    assert tokenizer.decode(tokenizer("How many?")["input_ids"], skip_special_tokens=True) == "How many?"
    assert torch.isfinite(logits(model)).all()


def test_bf16_weights_are_loaded_as_fp32(t5, tmp_path):
    folder = copied(t5, tmp_path / "half")
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = loading.load_model(loading.resolve(str(folder)), CPU)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_loading_says_nothing(flan, tmp_path, capfd):
    loading.load_tokenizer(loading.resolve(str(flan)))
    loading.load_model(loading.resolve(str(flan)), CPU)
    assert capfd.readouterr() == ("", "")


# What can be wrong with a folder.


def test_no_such_folder(tmp_path):
    for name in (str(tmp_path / "none"), "./none", "a\\b", "runs/x/adapter"):
        with pytest.raises(InputError, match="no such folder"):
            loading.resolve(name)
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(InputError, match="a file"):
        loading.resolve(str(tmp_path / "file.txt"))


def test_a_folder_without_a_model(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError) as caught:
        loading.resolve(str(tmp_path))
    assert "no config.json" in str(caught.value)
    assert "found: notes.txt" in str(caught.value)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="a tuned adapter, not a base model"):
        loading.resolve(str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": 3}'])
def test_a_config_that_is_none(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        loading.resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "architecture"), [(LlamaConfig, "LlamaForCausalLM"), (BertConfig, "BertModel"), (None, "OwnModel")]
)
def test_the_wrong_architecture(tmp_path, config, architecture):
    if config:
        config(architectures=[architecture]).save_pretrained(tmp_path)
    else:
        (tmp_path / "config.json").write_text('{"model_type": "own", "architectures": ["OwnModel"]}')
    with pytest.raises(InputError) as caught:
        loading.resolve(str(tmp_path))
    assert "not an encoder-decoder model" in str(caught.value)
    assert f"found: {architecture}" in str(caught.value)
    assert "expected: an AutoModelForSeq2SeqLM" in str(caught.value)


def test_pickle_is_refused(t5, tmp_path):
    folder = copied(t5, tmp_path / "pickle")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError) as caught:
        loading.resolve(str(folder))
    assert "no weights in safetensors" in str(caught.value)
    assert "found: pytorch_model.bin" in str(caught.value)
    assert "save_pretrained('converted')" in str(caught.value)


def test_no_tokenizer(t5, tmp_path):
    folder = copied(t5, tmp_path / "bare")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="no tokenizer") as caught:
        loading.resolve(str(folder))
    assert "--model-id-tokenizer" in str(caught.value)
    assert loading.resolve(str(folder), str(t5)).tokenizer_path == str(t5)


def test_a_damaged_tokenizer(t5, tmp_path):
    folder = copied(t5, tmp_path / "damaged")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="the tokenizer can't be loaded"):
        loading.load_tokenizer(loading.resolve(str(folder)))


def test_missing_and_misshapen_weights(t5, tmp_path):
    folder = copied(t5, tmp_path / "part")
    tensors = load_file(folder / "model.safetensors")
    lost, cut = "encoder.block.0.layer.0.SelfAttention.q.weight", "decoder.final_layer_norm.weight"
    del tensors[lost]
    tensors[cut] = tensors[cut][:5].clone()
    tensors["classifier.weight"] = torch.zeros(3)  # beyond need: harmless
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError) as caught:
        loading.load_model(loading.resolve(str(folder)), CPU)
    assert "do not make a whole T5ForConditionalGeneration" in str(caught.value)
    assert f"missing   {lost}" in str(caught.value)
    assert f"{cut}   found (5,), expected (32,)" in str(caught.value)
    assert "classifier" not in str(caught.value)


def test_a_model_without_its_head(flan, tmp_path):
    folder = copied(flan, tmp_path / "headless")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["T5Model"]}))
    loading.load_model(loading.resolve(str(folder)), CPU)
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"missing   lm_head\.weight"):
        loading.load_model(loading.resolve(str(folder)), CPU)


def test_damaged_weights(t5, tmp_path):
    folder = copied(t5, tmp_path / "cut")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(InputError, match="the model can't be loaded"):
        loading.load_model(loading.resolve(str(folder)), CPU)


def test_a_tokenizer_that_does_not_fit(t5):
    model = loading.load_model(loading.resolve(str(t5)), CPU)
    tokenizer = tiny_models.tiny_tokenizer("t5")
    loading.check_fit(model, tokenizer)
    tokenizer.add_tokens(["one", "two", "three"])
    for each in (model, model.config):
        with pytest.raises(InputError) as caught:
            loading.check_fit(each, tokenizer)
        assert f"ids up to {len(tokenizer) - 1}" in str(caught.value)
        assert f"ids up to {model.config.vocab_size - 1}" in str(caught.value)


# The hub. HF_ENDPOINT is read when huggingface_hub is imported: each of these runs in a process of its own.

RESOLVE = """
    import json, logging, sys, time
    from seqtune.errors import SeqtuneError
    from seqtune.models import loading
    import torch
    said_so = []
    note = logging.Handler()
    note.emit = lambda record: said_so.append(record.getMessage())
    logging.getLogger("seqtune").addHandler(note)
    logging.getLogger("seqtune").setLevel(logging.INFO)
    for names in sys.argv[1:]:
        said_so.clear()
        begin = time.monotonic()
        try:
            checkpoint = loading.resolve(*[each or None for each in names.split(" ")])
            model = loading.load_model(checkpoint, torch.device("cpu"))
            tokenizer = loading.load_tokenizer(checkpoint)
            said = {**checkpoint.as_dict(), "weights": loading.weights_sha256(model), "tokens": len(tokenizer)}
        except SeqtuneError as error:
            said = {"error": str(error), "exit_status": error.exit_status}
        print(json.dumps({**said, "notes": said_so, "seconds": time.monotonic() - begin}))
"""


def resolved(environment, *names):
    """What `loading.resolve` and the loaders come to in a fresh process, for each "MODEL TOKENIZER REVISION"."""
    command = [sys.executable, "-c", textwrap.dedent(RESOLVE), *names]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return [json.loads(line) for line in process.stdout.splitlines()]


def test_a_model_of_the_hub_and_again_without_network(t5, flan, tmp_path):
    published = copied(t5, tmp_path / "published")
    (published / "pytorch_model.bin").write_bytes(b"never fetched")
    (published / "onnx").mkdir()
    (published / "onnx" / "model.safetensors").write_bytes(b"never fetched")
    with hub_server.HubServer({"team/tiny": published, "team/other": flan}) as server:
        names = ("team/tiny", "team/tiny team/other", "team/tiny")
        first, apart, cached = resolved(server.environment(tmp_path / "home"), *names)
        asked, url = list(server.requests), server.url
    assert "error" not in first, first["error"]
    here = loading.resolve(str(t5))
    assert (first["sha256"], first["tokenizer_sha256"]) == (here.sha256, here.tokenizer_sha256)
    assert first["weights"] == loading.weights_sha256(loading.load_model(here, CPU))
    assert first["model_id"] == first["tokenizer_id"] == "team/tiny"
    assert len(first["revision"]) == 40
    assert first["notes"] == ["downloading team/tiny from the hub …"]
    assert apart["notes"] == ["downloading team/other from the hub …"]
    assert cached["notes"] == []
    assert not any("pytorch_model" in each or "onnx" in each for each in asked)
    order = [each.rpartition("/")[2] for each in asked if each.startswith("GET") and "/resolve/" in each]
    assert order[0] == "config.json"
    assert "model.safetensors" in order[1:]
    assert apart["tokenizer_id"] == "team/other"
    other = Path(apart["tokenizer_path"])
    assert (other / "tokenizer.json").is_file()
    assert not (other / "model.safetensors").exists()

    keys = ("sha256", "tokenizer_sha256", "weights", "revision", "path")
    (told,) = resolved(hub_server.hub_environment(url, tmp_path / "home", offline=True), "team/tiny")
    gone, part = resolved(hub_server.hub_environment(url, tmp_path / "home"), "team/tiny", "team/other")
    assert [told[key] for key in keys] == [first[key] for key in keys]
    assert [gone[key] for key in keys] == [first[key] for key in keys]
    # The cache knows the tokenizer of this one, but not its weights.
    assert "not on this machine" in part["error"]


def test_what_the_hub_refuses(t5, tmp_path):
    pickle = copied(t5, tmp_path / "pickle")
    (pickle / "model.safetensors").rename(pickle / "pytorch_model.bin")
    decoder = copied(t5, tmp_path / "decoder")
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(decoder)
    models = {"team/tiny": t5, "team/pickle": pickle, "team/llama": decoder, "team/closed": t5}
    names = ("google/flan-t5-smal", "team/pickle", "team/llama", "team/closed", "team/tiny  v9")
    with hub_server.HubServer(models, gated=("team/closed",)) as server:
        said = dict(zip(names, resolved(server.environment(tmp_path / "home"), *names), strict=True))
        asked = list(server.requests)
    assert {each["exit_status"] for each in said.values()} == {2}
    texts = {name: each["error"] for name, each in said.items()}
    assert "no such model on the hub" in texts["google/flan-t5-smal"]
    assert "did you mean `google/flan-t5-small`?" in texts["google/flan-t5-smal"]
    assert "no weights in safetensors" in texts["team/pickle"]
    assert "found: LlamaForCausalLM" in texts["team/llama"]
    assert "hf auth login" in texts["team/closed"]
    assert "no revision 'v9'" in texts["team/tiny  v9"]
    # What can be known from the configuration is said before any weight is fetched.
    assert not any(each.endswith((".safetensors", ".bin")) for each in asked)


def test_without_network_and_cache_the_error_says_what_to_do(tmp_path):
    dead = "http://127.0.0.1:9"  # nobody listens on the discard port
    for offline in (True, False):
        (said,) = resolved(hub_server.hub_environment(dead, tmp_path, offline=offline), "google/flan-t5-small")
        assert said["exit_status"] == 2
        assert "google/flan-t5-small: not on this machine" in said["error"]
        assert ("HF_HUB_OFFLINE is set" in said["error"]) == offline
        for mend in ("--model-id seqtune-mini", "local folder", "hf download google/flan-t5-small"):
            assert mend in said["error"]
        assert said["seconds"] < 10


def test_a_hub_that_never_answers_does_not_hold_us(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # accepts and says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begin = time.monotonic()
        (said,) = resolved(hub_server.hub_environment(url, tmp_path), "google/flan-t5-small")
    assert "the hub can't be reached" in said["error"]
    assert said["seconds"] < 10
    assert time.monotonic() - begin < 60


def test_an_impossible_name():
    with pytest.raises(InputError, match="possible name on the hub"):
        loading.resolve("flan t5 small")


def test_loading_leaves_the_bars_as_they_were():
    """The hub's bars, turned off where nobody sees them, are not turned on again by the way."""
    script = """
        import huggingface_hub.utils as hub
        from transformers.utils import logging as theirs
        from seqtune.models.quiet import quiet
        for off in (False, True, False):
            (hub.disable_progress_bars if off else hub.enable_progress_bars)()
            with quiet():
                assert hub.are_progress_bars_disabled() and not theirs.is_progress_bar_enabled()
            assert hub.are_progress_bars_disabled() == off and theirs.is_progress_bar_enabled()
    """
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_PROGRESS_BARS"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert (process.returncode, process.stderr) == (0, "")
