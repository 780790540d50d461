"""The command line stopped and killed for real, and started again. (POSIX: Windows has no such signals.)"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("no such signals", allow_module_level=True)

QUICK = (
    "--max-steps", "40", "--per-device-train-batch-size", "4", "--eval-steps", "10", "--max-new-tokens", "4",
    "--bootstrap-samples", "100", "--device-type", "cpu", "--save-steps", "1", "--early-stopping-patience", "0",
)  # fmt: skip


def start(*arguments: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "seqtune", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=_usual_signals
    )


def _usual_signals() -> None:
    """Under nohup or in the background of a script some are ignored, and a child inherits that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def finish(*arguments: Any) -> tuple[int, str]:
    with start(*arguments) as process:
        _, errors = process.communicate(timeout=300)
        return process.returncode, errors


def outcome(out: Path) -> tuple[str, list[tuple[int, float | None, float | None]]]:
    """Digest of the weights, and the losses of every step."""
    digest = hashlib.sha256((out / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return digest, [(line["step"], line.get("loss"), line.get("validation_loss")) for line in log]


def saved(out: Path, steps: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many steps are saved."""
    until = time.monotonic() + 240
    while not any(int(path.name[5:]) >= steps for path in out.glob("checkpoints/step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture(scope="module")
def arguments(rows_file: Path, tiny_t5: Path) -> tuple[str, ...]:
    return ("finetune", str(rows_file), "--model-id", str(tiny_t5), *QUICK)


@pytest.fixture(scope="module")
def uninterrupted(arguments: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    status, errors = finish(*arguments, "--out", out)
    assert status == 0, errors
    return out


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_stopped_and_gone_on_with(
    arguments: tuple[str, ...], uninterrupted: Path, tmp_path: Path, number: signal.Signals, status: int
):
    out = tmp_path / "run"
    with start(*arguments, "--out", out) as process:
        saved(out, 7, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    assert not (out / "run.json").exists()
    if number != signal.SIGKILL:
        assert f"is saved. `seqtune resume {out}` goes on from there" in errors
    if number == signal.SIGHUP:  # handled as SIGTERM is
        return
    found, errors = finish("resume", out) if number != signal.SIGINT else finish(*arguments, "--out", out)
    assert found == 0, errors
    assert "going on from step" in errors
    assert outcome(out) == outcome(uninterrupted)
    assert not (out / "checkpoints").exists()
    assert json.loads((out / "run.json").read_text())["training"]["resumed_at"]


def test_a_finished_run_is_left_as_it_is(arguments: tuple[str, ...], uninterrupted: Path):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
    for command in (("resume", uninterrupted), (*arguments, "--out", uninterrupted)):
        status, errors = finish(*command)
        assert status == 0, errors
    assert before == {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
    status, errors = finish(*arguments, "--out", uninterrupted, "--lora-r", 3)
    assert status == 2
    assert "lora_r: was 16, now 3" in errors


def test_the_same_again(uninterrupted: Path):
    status, errors = finish("rerun", uninterrupted)
    assert status == 0, errors


def test_a_second_run_in_the_directory_and_changed_data(arguments: tuple[str, ...], rows_file: Path, tmp_path: Path):
    out = tmp_path / "run"
    data = tmp_path / "data.json"
    data.write_bytes(rows_file.read_bytes())
    here = ("finetune", str(data), *arguments[2:], "--out", out)
    with start(*here) as process:
        saved(out, 3, process)
        process.send_signal(signal.SIGSTOP)  # it would be done before the other has begun
        status, errors = finish(*here)
        assert status == 2, errors
        assert f"process {process.pid} is at work here" in errors
        process.kill()
    rows = json.loads(data.read_text())
    for row in rows:
        row["reply"] += " And more."
    data.write_text(json.dumps(rows))
    status, errors = finish("resume", out)
    assert status == 2, errors
    assert "made of something else" in errors
    assert "rows: was " in errors
    status, errors = finish("resume", out, "--allow-changed")
    assert status == 0, errors
    assert any("rows: was" in change for change in json.loads((out / "run.json").read_text())["training"]["changes"])
