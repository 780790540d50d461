"""The model card, the manifest for others, and `seqtune push` against a hub on the loopback interface."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM

import seqtune
from hub_server import HubServer, hub_environment
from seqtune import card, publishing
from seqtune.errors import InputError
from seqtune.run import adapter_sha256

SECRET = "Zebrafinch"  # in every question, every answer, and the names of folder and file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_t5: Path) -> seqtune.Run:
    """A run on rows, a file and a base model whose names and texts nobody else may see."""
    folder = tmp_path_factory.mktemp(f"of-{SECRET}")
    rows = [
        {"question": f"What is {SECRET} number {n}?", "reply": f"{SECRET} {n} is at place {3 * n}.", SECRET: n}
        for n in range(40)
    ]
    (folder / f"{SECRET}.json").write_text(json.dumps(rows), encoding="utf-8")
    base = folder / "tiny-base"
    base.symlink_to(tiny_t5, target_is_directory=True)
    return seqtune.finetune(
        folder / f"{SECRET}.json", model_id=str(base), out=folder / "run", max_steps=4, max_new_tokens=6
    )


def push(run: Path, repository: str, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seqtune", "push", str(run), repository, *options]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False, timeout=120
    )


class TestCard:
    def test_it_lies_in_the_adapter_folder_in_the_hubs_format(self, run):
        text = (run.adapter / "README.md").read_text(encoding="utf-8")
        data = ModelCard(text).data
        assert (data.library_name, data.pipeline_tag) == ("peft", "text2text-generation")
        assert "lora" in data.tags
        results = {result.metric_type: result.metric_value for result in data.eval_results}
        tuned = run.metrics["hold_out"]["tuned"]
        assert results == {name: pytest.approx(value, abs=1e-4) for name, value in tuned.items()}
        assert {result.dataset_type for result in data.eval_results} == {"private"}

    def test_it_has_the_figures_and_facts_and_no_private_text(self, run):
        text = (run.adapter / "README.md").read_text(encoding="utf-8")
        assert f"{run.metrics['hold_out']['tuned']['rougeL']:.2f}" in text
        assert "40 rows: 32 train, 4 validation, 4 hold-out" in text
        assert run.manifest["data"]["sha256"] in text
        assert f"version:{__import__('sacrebleu').__version__}" in text
        assert SECRET not in text
        assert str(run.path.parent) not in text

    def test_a_base_and_data_of_the_hub_are_named(self, run):
        source = {"path": "someone/questions", "kind": "hub", "revision": "abc"}
        manifest = {
            **run.manifest,
            "base_model": {"model_id": "google/flan-t5-small"},
            "data": {**run.manifest["data"], "sources": {"data": source}},
        }
        data = ModelCard(card.render(manifest)).data
        assert (data.base_model, data.datasets) == ("google/flan-t5-small", ["someone/questions"])
        assert data.eval_results[0].dataset_revision == "abc"

    def test_an_embedded_base_binds_the_licence(self, run):
        manifest = {**run.manifest, "base_model": {"model_id": "seqtune-mini"}}
        assert ModelCard(card.render(manifest)).data.license == "cc-by-sa-4.0"

    def test_a_manifest_of_an_older_version_has_a_card_too(self, run):
        names = ("metrics", "verdict", "base_model", "data")
        assert "ROUGE-L" in card.render({name: run.manifest[name] for name in names})
        assert "# LoRA adapter of unknown" in card.render({})

    def test_what_markdown_would_obey_is_text(self, run):
        hostile = "x](http://evil) <script>`|\n# y"
        manifest: dict[str, Any] = {
            **run.manifest,
            "verdict": {"sentence": hostile},
            "settings": {"input_template": f"```\n{hostile}", "target_modules": hostile},
            "versions": {hostile: hostile},
        }
        manifest["metrics"] = {"hold_out": {model: {hostile: 1.0} for model in ("base", "tuned")}}
        text = card.render(manifest, hostile)
        body = text.split("\n---\n", 1)[1]
        assert "\n# y" not in body
        assert "<script>" not in body.replace("\\<script\\>", "").replace("x](http://evil) <script>'", "")
        assert ModelCard(text).data.library_name == "peft"


class TestPublicManifest:
    def test_nothing_private_is_left(self, run):
        manifest = json.loads(json.dumps(run.manifest))
        manifest["data"]["findings"] = [
            {
                "check": "duplicates",
                "verdict": "WARN",
                "found": SECRET,
                "rows": 2,
                "of": 40,
                "examples": [SECRET],
                "mend": SECRET,
            }
        ]
        manifest["data"]["tokenizer_loss"] = {"rows": 1, "examples": [{"before": SECRET}]}
        manifest["derived"]["precision"]["reason"] = f"as in /home/{SECRET}/settings.yaml, and C:\\{SECRET}\\x"
        text = json.dumps(publishing.public_manifest(manifest))
        assert SECRET not in text
        assert str(run.path.parent) not in text

    def test_the_figures_are(self, run):
        public = publishing.public_manifest(run.manifest)
        for name in ("metrics", "lifts", "guard_rails", "verdict", "training", "versions"):
            assert public[name] == run.manifest[name]
        assert public["data"]["splits"] == run.manifest["data"]["splits"]
        assert public["settings"]["learning_rate"] == run.manifest["settings"]["learning_rate"]
        assert public["settings"]["model_id"] == "tiny-t5"


class TestPush:
    def test_adapter_card_and_manifest_go_up_and_nothing_else(self, run, tiny_t5, tmp_path):
        with HubServer() as server:
            environment = {**server.environment(tmp_path / "home"), "HF_TOKEN": "hf_loopback"}
            done = push(run.path, "team/support", environment)
            assert done.returncode == 0, done.stderr
            files = server.uploaded["team/support"]
            assert server.created["team/support"]["visibility"] == "private"
        expected = {"README.md", "run.json", "adapter_config.json", "adapter_model.safetensors"}
        assert expected | {"tokenizer.json", "tokenizer_config.json"} == set(files)
        for name, content in files.items():
            assert SECRET.encode() not in content, name
            assert str(run.path.parent).encode() not in content, name
        assert ModelCard(files["README.md"].decode()).data.model_name == "support"

        down = tmp_path / "down"
        down.mkdir()
        for name, content in files.items():
            (down / name).write_bytes(content)
        assert json.loads(files["run.json"])["adapter"]["sha256"] == adapter_sha256(down)
        assert PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(tiny_t5), str(down)).peft_config

    def test_a_dry_run_asks_nobody(self, run, tmp_path):
        environment = hub_environment("http://127.0.0.1:9", tmp_path / "home")
        done = push(run.path, "team/support", environment, "--dry-run", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["url"] is None
        assert "README.md" in json.loads(done.stdout)["files"]

    def test_refusals_say_what_to_do(self, run, tmp_path):
        with HubServer(gated=("team/closed",)) as server:
            environment = {**server.environment(tmp_path / "home"), "HF_TOKEN": "hf_loopback"}
            done = push(run.path, "team/closed", environment)
            assert (done.returncode, done.stdout) == (2, "")
            assert "the hub refuses it (status 403)" in done.stderr
            nobody = push(run.path, "team/new", {**server.environment(tmp_path / "home"), "HF_TOKEN": ""})
            assert nobody.returncode == 2
            assert "hf auth login" in nobody.stderr
        away = {**hub_environment("http://127.0.0.1:9", tmp_path / "home"), "HF_TOKEN": "hf_loopback"}
        done = push(run.path, "team/new", away)
        assert done.returncode == 1
        assert "can't be reached" in done.stderr
        assert "Traceback" not in done.stderr

    def test_names_and_folders_that_are_none(self, run, tmp_path):
        with pytest.raises(InputError, match="no name of a repository"):
            publishing.push(run.path, "a/b/c")
        with pytest.raises(InputError, match="no run directory"):
            publishing.push(tmp_path, "team/x")
