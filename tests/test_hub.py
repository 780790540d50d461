"""A run whose data set and model are ids of the hub, from the command line, with the hub and without it.

`HF_ENDPOINT` is read when huggingface_hub is imported, so each command runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hub_server import HubServer, hub_environment
from sample_rows import question_rows

DATA, MODEL = "someone/questions", "someone/tiny-t5"


def finetune(environment: dict[str, str], out: Path, data: str = DATA) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seqtune", "finetune", data, "--model-id", MODEL, "--out", str(out)]
    return subprocess.run(
        [*command, "--max-steps", "2", "--max-new-tokens", "4"],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )


@pytest.fixture
def published(tmp_path: Path, rows_file: Path) -> Path:
    """The folder of a data set repository with one JSON file."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "questions.json").write_bytes(rows_file.read_bytes())
    return folder


def test_data_and_model_of_the_hub_and_again_without_it(published, tiny_t5, tmp_path):
    home = tmp_path / "home"
    with HubServer({MODEL: tiny_t5}, {DATA: published}) as server:
        first = finetune(server.environment(home), tmp_path / "first")
        assert first.returncode == 0, first.stderr
        commits = {}
        for request in server.requests:  # "GET /api/models/someone/tiny-t5/tree/<commit>"
            path = request.partition(" ")[2].split("/")
            if path[1] == "api" and "tree" in path:
                commits[path[2]] = path[path.index("tree") + 1]
        url = server.url

    manifest = json.loads((tmp_path / "first" / "run.json").read_text(encoding="utf-8"))
    assert manifest["settings"]["data_path"] == DATA
    assert manifest["settings"]["model_id"] == manifest["base_model"]["model_id"] == MODEL
    assert manifest["settings"]["model_revision"] == manifest["base_model"]["revision"] == commits["models"]
    source = {"path": DATA, "kind": "hub", "split": "train", "revision": commits["datasets"]}
    assert manifest["data"]["sources"] == {"data": source}
    assert manifest["data"]["rows"] == len(question_rows())

    again = finetune(hub_environment(url, home, offline=True), tmp_path / "again")
    assert again.returncode == 0, again.stderr
    repeated = json.loads((tmp_path / "again" / "run.json").read_text(encoding="utf-8"))
    assert repeated["data"] == manifest["data"]
    assert repeated["base_model"] == manifest["base_model"]
    weights = [tmp_path / each / "adapter" / "adapter_model.safetensors" for each in ("first", "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_data_set_that_has_become_unreadable_is_not_replaced_by_an_older_one(published, tmp_path):
    script = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from seqtune.data import readers\n"
        "from seqtune.errors import InputError\n"
        "def rows():\n"
        "    try:\n"
        f"        return len(readers.read(readers.identify({DATA!r}, 'train'), 'train'))\n"
        "    except InputError as error:\n"
        "        return str(error)\n"
        "first = rows()\n"
        "Path(sys.argv[1], 'questions.json').rename(Path(sys.argv[1], 'questions.bin'))\n"
        "print(json.dumps([first, rows()]))\n"
    )
    with HubServer(datasets={DATA: published}) as server:
        command = [sys.executable, "-c", script, str(published)]
        environment = server.environment(tmp_path / "home")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=True)
    first, second = json.loads(done.stdout.splitlines()[-1])
    assert first == len(question_rows())
    assert str(second).startswith(f'{DATA}: split "train" can\'t be read: commit ')


def test_without_hub_and_cache_the_error_says_what_to_do(rows_file, tmp_path):
    environment = hub_environment("http://127.0.0.1:9", tmp_path / "empty", offline=True)
    for data, expected in (
        (DATA, ("the hub can't be reached", "give a file on this machine", "connect to the network once")),
        (str(rows_file), ("--model-id seqtune-mini", "local folder", f"hf download {MODEL}")),
    ):
        done = finetune(environment, tmp_path / "run", data)
        assert done.returncode == 2
        assert all(part in done.stderr for part in expected), done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()


def test_an_unknown_data_set(published, tmp_path):
    with HubServer(datasets={DATA: published}) as server:
        done = finetune(server.environment(tmp_path / "home"), tmp_path / "run", "someone/question")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "someone/question: no such file here and no such dataset on the hub",
        "Check the path or id; a private dataset needs `hf auth login`.",
    ]
    assert not (tmp_path / "run").exists()
