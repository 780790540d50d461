"""Nothing is unpickled: not by the code, and not by whatever it calls when a pickle lies where it reads a file."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import seqtune

REPOSITORY = Path(__file__).parents[1]

#: Modules that run code when they read.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "imp"}
#: Calls that unpickle, or run what came with a file.
CALLS = {
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "pd.read_pickle",
}
#: Calls of Python's own that run text.
BUILT_IN = {"eval", "exec", "compile", "__import__"}


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every import, call or argument in a file that could run what is read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name) for each in node.names if each.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield node.lineno, str(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS or name in BUILT_IN:
                yield node.lineno, name
            for keyword in node.keywords:
                told = ast.unparse(keyword.value)
                if (keyword.arg in ("allow_pickle", "trust_remote_code") and told != "False") or (
                    keyword.arg == "weights_only" and told != "True"
                ):
                    yield node.lineno, f"{name}({keyword.arg}={told})"


@pytest.mark.parametrize("folder", ["src", "recipes", "benchmarks", "examples"])
def test_no_code_of_ours_unpickles(folder: str) -> None:
    files = sorted((REPOSITORY / folder).rglob("*.py"))
    assert files
    found = [
        f"{path.relative_to(REPOSITORY)}:{line} {name}"
        for path in files
        for line, name in faults(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=flag)",
        "yaml.load(text)",
        "eval(text)",
    ],
)
def test_the_walk_finds_what_it_is_for(code: str) -> None:
    assert list(faults(ast.parse(code)))


# A pickle in the place of a file


class Canary:
    """Unpickled, it makes a folder."""

    def __init__(self, place: Path):
        self.place = str(place)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.place,)


QUICK = {"max_steps": 3, "max_new_tokens": 4, "bootstrap_samples": 100, "device_type": "cpu", "save_steps": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_t5: Path, rows_file: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    seqtune.finetune(rows_file, model_id=str(tiny_t5), out=str(out), **QUICK)
    return out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_t5: Path, rows_file: Path) -> Path:
    """A run that ended after its training, with its checkpoints."""
    from seqtune import claim
    from seqtune.driver import build_driver

    out = tmp_path_factory.mktemp("runs") / "stopped"
    given = {"data_path": str(rows_file), "model_id": str(tiny_t5), "out": str(out), **QUICK}
    with claim.claimed(out, given) as folder:
        build_driver().execute(["trained_adapter"], inputs={**given, "checkpoints_path": str(folder)})
    return out


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def with_canary(source: Path, place: Path, name: str, canary: Path) -> None:
    shutil.copytree(source, place)
    (place / name).write_bytes(pickle.dumps(Canary(canary)))


def test_the_canary_sings(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "sang")))
    assert (tmp_path / "sang").is_dir()


def test_no_file_of_a_run_is_unpickled(finished: Path, command: Callable, tmp_path: Path) -> None:
    names = files_of(finished)
    assert {"run.json", "adapter/adapter_model.safetensors", "adapter/tokenizer.json", "log.jsonl"} <= set(names)
    for number, name in enumerate(names):
        run, canary = tmp_path / f"run{number}", tmp_path / "canary"
        with_canary(finished, run, name, canary)
        arguments = ("predict", run, "-") if name.startswith("adapter") else ("report", run)
        status, _, err = command(*arguments, stdin=b"How?\n")
        assert not canary.exists(), name
        assert "Traceback" not in err, (name, err[-2000:])
        assert status in (0, 2), (name, err)


@pytest.mark.parametrize("name", ["training_args.bin", "adapter_model.bin", "optimizer.pt", "pytorch_model.bin"])
def test_no_file_that_others_leave_beside_an_adapter_is_unpickled(
    name: str, finished: Path, command: Callable, tmp_path: Path
) -> None:
    with_canary(finished, tmp_path / "run", f"adapter/{name}", tmp_path / "canary")
    status, out, _ = command("predict", tmp_path / "run" / "adapter", "-", stdin=b"How?\n")
    assert (status, json.loads(out)["input"]) == (0, "How?")
    assert not (tmp_path / "canary").exists()


def test_no_file_of_a_stopped_run_is_unpickled(stopped: Path, command: Callable, tmp_path: Path) -> None:
    names = files_of(stopped)
    assert any(name.endswith("state.json") for name in names)
    assert "checkpoints/inputs.json" in names
    for number, name in enumerate(names):
        run, canary = tmp_path / f"run{number}", tmp_path / "canary"
        with_canary(stopped, run, name, canary)
        status, _, err = command("resume", run)
        assert not canary.exists(), name
        assert "Traceback" not in err, (name, err[-2000:])
        assert status in (0, 2), (name, err)


def test_no_file_of_a_base_model_is_unpickled(
    tiny_t5: Path, rows_file: Path, command: Callable, tmp_path: Path
) -> None:
    for number, name in enumerate([*files_of(tiny_t5), "pytorch_model.bin", "modeling_custom.py"]):
        model, canary = tmp_path / f"model{number}", tmp_path / "canary"
        with_canary(tiny_t5, model, name, canary)
        status, _, err = command("plan", rows_file, "--model-id", model, "--max-new-tokens", 4)
        assert not canary.exists(), name
        assert "Traceback" not in err, (name, err[-2000:])
        assert status in (0, 2), (name, err)


@pytest.mark.parametrize(
    "name", ["rows.json", "rows.jsonl", "rows.csv", "rows.parquet", "rows.json.gz", "rows.pkl", "rows"]
)
def test_no_file_of_rows_is_unpickled(name: str, command: Callable, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    status, _, err = command("check", path)
    assert status == 2
    assert not (tmp_path / "canary").exists()
    assert "Traceback" not in err


def test_no_settings_are_run(command: Callable, rows_file: Path, tmp_path: Path) -> None:
    place = tmp_path / "canary"
    (tmp_path / "a.yaml").write_text(f"lora_r: !!python/object/apply:os.mkdir ['{place}']\n")
    status, _, err = command("finetune", rows_file, "--config", tmp_path / "a.yaml")
    assert status == 2
    assert "a.yaml: can't be read" in err
    assert not place.exists()
