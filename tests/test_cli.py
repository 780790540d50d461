"""`seqtune.cli`: the options, the help, the commands' results, pipes and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from seqtune import cli, tables
from seqtune.settings import Settings, knobs

QUICK = ("--max-steps", 3, "--max-new-tokens", 4, "--bootstrap-samples", 100, "--device-type", "cpu")
COMMANDS = (
    "check",
    "plan",
    "finetune",
    "resume",
    "rerun",
    "sweep",
    "evaluate",
    "compare",
    "runs",
    "report",
    "predict",
    "push",
    "chat",
    "serve",
    "export",
    "demo",
    "show",
    "inputs",
)


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, tiny_t5: Path, rows_file: Path) -> Path:
    """The directory of a run of three steps on a tiny model."""
    import seqtune

    out = tmp_path_factory.mktemp("runs") / "run"
    run = seqtune.finetune(
        rows_file,
        model_id=str(tiny_t5),
        out=out,
        max_steps=3,
        max_new_tokens=4,
        bootstrap_samples=100,
        device_type="cpu",
    )
    return run.path


def options(name: str) -> dict[str, click.Option]:
    found = cli.seqtune.commands[name].params
    return {str(option.name): option for option in found if isinstance(option, click.Option)}


# The options


@pytest.mark.parametrize(
    ("name", "beside", "without"),
    [
        (
            "finetune",
            {"config", "as_json", "live", "track", "on", "workers", "storage"},
            {"adapter_path", "checkpoints_path"},
        ),
        ("demo", {"as_json", "live"}, {"adapter_path", "checkpoints_path", "data_path"}),
    ],
)
def test_every_knob_is_an_option_of_the_same_name(name: str, beside: set[str], without: set[str]) -> None:
    found = options(name)
    assert set(found) == set(knobs()) - without | beside
    for each in set(found) & set(knobs()):
        option, knob = found[each], knobs()[each]
        assert option.opts == [knob.option]
        assert option.default is None, "the default is the knob's, and is not given twice"
        if knob.choices:
            assert isinstance(option.type, click.Choice)
            assert tuple(option.type.choices) == knob.choices
        else:
            kinds = {int: "integer", float: "float", str: "text", bool: "boolean"}
            assert option.type.name == kinds[knob.type]


def test_evaluate_takes_what_the_dataflow_takes_that_starts_from_an_adapter() -> None:
    import seqtune

    driver = seqtune.build_driver({"start": "presaved"})
    takes = {row["name"] for row in driver.inputs_table()}
    of_delivery = {"out", "overwrite", "report_text"}
    assert set(options("evaluate")) - {"config", "as_json"} == takes & set(knobs()) - of_delivery


def test_the_command_line_comes_before_the_file(tmp_path: Path, rows_file: Path, monkeypatch: Any) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(cli.training, "_tune", lambda values, *_, **__: seen.append(values))
    (tmp_path / "a.yaml").write_text(
        f"data_path: {rows_file}\nlearning_rate: 5e-3\nlora_r: 4\nuse_dora: yes\nuse_rslora: no\n"
    )
    arguments = ["--config", str(tmp_path / "a.yaml"), "--lora-r", "8", "--no-use-dora", "--num-train-epochs", "2"]
    cli.seqtune.main(["finetune", *arguments], standalone_mode=False)
    cli.seqtune.main(["finetune", "mine.json", *arguments], standalone_mode=False)
    expected = {
        "data_path": str(rows_file),
        "learning_rate": 0.005,
        "lora_r": 8,
        "use_dora": False,
        "use_rslora": False,
        "num_train_epochs": 2.0,
    }
    assert seen == [expected, {**expected, "data_path": "mine.json"}]


# The help


@pytest.mark.parametrize("width", [80, 110])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits(name: str, width: int, command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    status, out, err = command(*name.split(), "--help")
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= width
    assert "Show this message and exit." in out
    for heading in ("Data:", "Model:", "Finetuning:", "Delivery:") if name in ("finetune", "demo") else ():
        assert heading in out.splitlines()
    assert "..." not in out.partition("Commands:")[2], "a command's first sentence is cut off"
    assert [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()] == ([] if name else [*COMMANDS])


def test_help_and_inputs_do_not_wait_for_pytorch() -> None:
    script = f"""
import sys
from seqtune import cli
for arguments in {[[name, "--help"] for name in COMMANDS] + [["--help"], ["--version"], ["inputs"], []]}:
    sys.argv = ["seqtune", *arguments]
    try:
        cli.main()
    except SystemExit as stop:
        assert stop.code in (0, 2), arguments
heavy = [n for n in ("torch", "transformers", "datasets", "hamilton", "peft", "numpy", "pyarrow") if n in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


# inputs and show


def test_inputs(command: Callable) -> None:
    assert json.loads(command("inputs", "--json")[1]) == tables.rows()
    assert json.loads(command("inputs", "--schema")[1]) == Settings.model_json_schema()
    assert command("inputs", "--markdown")[1] == tables.markdown() + "\n"
    out = command("inputs")[1]
    for name, knob in knobs().items():
        assert f"  {name}  " in out
        assert knob.help.split()[0] in out
    assert all(line == line.rstrip() and len(line) <= 100 for line in out.splitlines())


@pytest.mark.parametrize("start", ["base", "presaved"])
@pytest.mark.parametrize(("kind", "begins"), [("mermaid", ""), ("svg", "<svg"), ("html", "<!")])
def test_show(command: Callable, tmp_path: Path, kind: str, begins: str, start: str) -> None:
    status, out, _ = command("show", "--format", kind, "--start", start)
    assert status == 0
    assert out.lower().startswith(begins)
    assert "save_best_models" in out
    assert command("show", "--format", kind, "--start", start, "--output", tmp_path / "x")[:2] == (0, "")
    assert (tmp_path / "x").read_text(encoding="utf-8").rstrip() == out.rstrip()


def test_show_says_where_it_can_not_write(command: Callable, tmp_path: Path) -> None:
    status, out, err = command("show", "--output", tmp_path / "no" / "x")
    assert (status, out) == (2, "")
    assert "can't be written (No such file or directory)" in err


# finetune, evaluate, predict, demo


def test_finetune(command: Callable, tiny_t5: Path, rows_file: Path, tmp_path: Path) -> None:
    out_dir = tmp_path / "run"
    status, out, err = command("finetune", rows_file, "--model-id", tiny_t5, "--out", out_dir, *QUICK)
    assert status == 0
    lines = out.splitlines()
    assert lines[1] == "4 hold-out rows, which training has not seen:"
    assert lines[2].split() == ["base", "tuned", "difference"]
    assert lines[-3:] == [
        f"run directory  {out_dir}",
        f"report         {out_dir}/report.html",
        f"ask it         seqtune predict {out_dir} questions.jsonl",
    ]
    assert all(len(line) <= 80 for line in lines[:12])
    assert "source length: at most" in err
    for noise in ("Traceback", "FutureWarning", "\x1b", "  \n", "hamilton"):
        assert noise not in err
    assert {path.name for path in tmp_path.iterdir()} == {"run"}

    status, again, err = command("finetune", rows_file, "--model-id", tiny_t5, "--out", out_dir, *QUICK)
    assert (status, again) == (0, out)
    assert "this run is finished; nothing is done again" in err

    status, out, err = command("finetune", rows_file, "--model-id", tiny_t5, "--out", out_dir, *QUICK, "--lora-r", 2)
    assert (status, out) == (2, "")
    assert "lora_r: was 16, now 2" in err
    assert "already there" in err

    arguments = ("finetune", "--data-path", rows_file, "--model-id", tiny_t5, "--out", out_dir, "--overwrite", "--json")
    status, out, err = command(*arguments, *QUICK)
    assert (status, err) == (0, "")
    manifest = json.loads((out_dir / "run.json").read_text(encoding="utf-8"))
    assert json.loads(out) == {"path": str(out_dir), **manifest}


def test_evaluate(command: Callable, run_dir: Path) -> None:
    status, out, err = command("evaluate", run_dir, "--json")
    manifest = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    assert (status, err) == (0, "")
    assert json.loads(out) == {"metrics": manifest["metrics"], "verdict": manifest["verdict"]}


def test_evaluate_prints_the_table(command: Callable, run_dir: Path) -> None:
    status, out, err = command("evaluate", "--adapter-path", run_dir, "--max-eval-rows", 2, "--device-type", "cpu")
    assert status == 0, err
    assert out.splitlines()[1] == "2 hold-out rows, which training has not seen:"
    assert "run directory" not in out


def test_predict_from_a_file(command: Callable, run_dir: Path, rows_file: Path) -> None:
    status, out, err = command("predict", run_dir, rows_file)
    assert (status, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    asked = [row["question"] for row in json.loads(rows_file.read_text(encoding="utf-8"))]
    assert [list(row) for row in answers] == [["input", "output"]] * len(asked)
    assert [row["input"] for row in answers] == asked
    predictions = [json.loads(line) for line in (run_dir / "predictions" / "hold_out.jsonl").open(encoding="utf-8")]
    tuned = {row["input"]: row["output"] for row in answers}
    assert {row["input"]: row["tuned"] for row in predictions} == {
        row["input"]: tuned[row["input"]] for row in predictions
    }


def test_predict_from_standard_input(command: Callable, run_dir: Path) -> None:
    lines = ['{"question": "one", "id": 7}', '"zwei \\u009b31m"', "three", ""]
    status, out, err = command("predict", run_dir, "-", stdin="\n".join(lines).encode())
    assert (status, err) == (0, "")
    assert [json.loads(line)["input"] for line in out.splitlines()] == ["one", "zwei \x9b31m", "three"]
    assert "\x9b" not in out


def test_predict_with_another_key(command: Callable, run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("id,ask\n1,How?\n")
    status, out, err = command("predict", run_dir, tmp_path / "q.csv")
    assert (status, out) == (2, "")
    assert 'no text under "question"' in err
    assert "the first row has: id, ask" in err
    status, out, _ = command("predict", run_dir, tmp_path / "q.csv", "--input-text-key", "ask", "--num-beams", 2)
    assert status == 0
    assert json.loads(out)["input"] == "How?"


def test_a_damaged_adapter_is_said_without_a_traceback(command: Callable, run_dir: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    weights = copy / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    for arguments in (("predict", copy, "-"), ("evaluate", copy)):
        status, out, err = command(*arguments, stdin=b"How?\n")
        assert status in (1, 2), err
        assert out == ""
        assert str(copy / "adapter") in err
        assert "Traceback" not in err


def test_the_demo_shows_three_answers(command: Callable, tiny_t5: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = command("demo", "--model-id", tiny_t5, "--max-samples", 40, "--lora-r", 2, *QUICK)
    assert status == 0, err
    assert "The best, the middle and the worst answer on the hold-out rows:" in out
    assert [out.count(f"{name} ") >= 3 for name in ("question", "reference", "base", "tuned")] == [True] * 4
    manifest = json.loads((tmp_path / "runs" / "support" / "run.json").read_text(encoding="utf-8"))
    assert (manifest["settings"]["lora_r"], manifest["settings"]["target_modules"]) == (2, "all-linear")


def test_predict_hands_on_the_base_model(
    command: Callable, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqtune import api
    from seqtune.predicting import filling

    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(api, "load", lambda path, **given: calls.append(given))
    monkeypatch.setattr(filling, "answered", lambda model, texts, total, **_: ((text, text) for text in texts))
    for given in ((), ("--model-id", "someone/moved", "--device-type", "cpu")):
        assert command("predict", run_dir, "-", *given, stdin=b"How?\n")[0] == 0
    assert calls == [{}, {"model_id": "someone/moved", "device_type": "cpu"}]
    status, out, err = command("predict", run_dir, "-", "--model-id", tmp_path / "none", stdin=b"How?\n")
    assert (status, out) == (2, "")
    assert "none: no such folder" in err


class OutOfMemoryError(RuntimeError):
    """Named as PyTorch's."""


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")],
)
def test_out_of_memory_is_said_without_a_traceback(
    command: Callable, tiny_t5: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from seqtune.engine import loop

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(loop, "train", full)
    status, out, err = command("finetune", rows_file, "--model-id", tiny_t5, "--out", tmp_path / "run", *QUICK)
    assert (status, out) == (1, "")
    headline, last, mend = err.splitlines()[-3:]
    assert headline == "out of memory while running `seqtune finetune`"
    assert last.startswith("  the last that was reported: ")
    assert mend == (
        "Try a smaller --per-device-train-batch-size, or a smaller --per-device-eval-batch-size, or a smaller "
        "--max-source-length."
    )
    assert "Traceback" not in err
    assert "hamilton" not in err.lower()
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_nobody_foresaw_keeps_its_traceback(
    command: Callable, rows_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqtune import preflight

    def broken(_: Any) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(preflight, "check", broken)
    with pytest.raises(RuntimeError, match="unforeseen"):
        command("finetune", rows_file)


# Signals and pipes


@pytest.mark.parametrize(("signal_number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_training(
    command: Callable,
    tiny_t5: Path,
    rows_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signal_number: int,
    status: int,
) -> None:
    from seqtune.engine import loop

    work, temporary = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(loop, "advance", lambda *_, **__: os.kill(os.getpid(), signal_number))
    found, out, err = command("finetune", rows_file, "--model-id", tiny_t5, *QUICK)
    assert (found, out) == (status, "")
    (run,) = (work / "runs").iterdir()
    assert err.splitlines()[-1] == f"stopped; step 1 is saved. `seqtune resume runs/{run.name}` goes on from there"
    assert "" not in err.splitlines()
    assert "Traceback" not in err
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "report.html"]
    assert list(temporary.iterdir()) == []


def test_a_reader_that_goes_away_is_no_error() -> None:
    arguments = [sys.executable, "-m", "seqtune", "inputs", "--schema"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
