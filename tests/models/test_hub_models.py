"""Models of a hub, of one that refuses, that is silent and that is away.

HF_ENDPOINT is read when huggingface_hub is imported: each of these runs in a process of its own.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

import hub_server
from seqtune.errors import InputError
from seqtune.models import loading
from tiny_models import copied

CPU = torch.device("cpu")

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
