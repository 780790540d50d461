"""`torchrun … -m seqtune finetune`: for real, one process killed, and gone on with another number of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

if sys.platform == "win32":
    pytest.skip("no such signals", allow_module_level=True)

QUICK = (
    "--max-steps", "30", "--per-device-train-batch-size", "4", "--eval-steps", "10", "--max-new-tokens", "4",
    "--bootstrap-samples", "100", "--device-type", "cpu", "--save-steps", "1", "--lora-dropout", "0",
    "--early-stopping-patience", "0", "--precision", "fp32",
)  # fmt: skip


def start(processes: int, *arguments: str) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    plain = [sys.executable]
    command = [*(torchrun if processes > 1 else plain), "-m", "seqtune", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


@pytest.fixture(scope="module")
def still_t5(tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without dropout: then the number of processes does not matter."""
    folder = tmp_path_factory.mktemp("still")
    for path in tiny_t5.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.0}))
    return folder


def test_one_of_two_killed_and_gone_on_alone(rows_file: Path, still_t5: Path, tmp_path: Path):
    arguments = ("finetune", str(rows_file), "--model-id", str(still_t5), *QUICK)
    with start(1, *arguments, "--out", str(tmp_path / "plain")) as process:
        said = process.communicate(timeout=900)[0]
        assert process.returncode == 0, said
    out = tmp_path / "run"
    one_of_two_killed(out, *arguments)
    with start(1, "resume", str(out)) as process:
        said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said
    assert "ranks: was 2, is 1" in said
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("plain", "run")]
    assert runs[1]["training"]["best_validation_loss"] == pytest.approx(
        runs[0]["training"]["best_validation_loss"], abs=1e-4
    )
    assert runs[1]["data"] == runs[0]["data"]
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in (tmp_path / "plain").iterdir())


def test_one_of_two_that_share_the_base_killed_and_gone_on(rows_file: Path, still_t5: Path, tmp_path: Path):
    """The run that was never killed, to the last bit; answers included, which come from the whole base."""
    arguments = ("finetune", str(rows_file), "--model-id", str(still_t5), *QUICK, "--shard-base")
    with start(2, *arguments, "--out", str(tmp_path / "whole")) as process:
        said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said
    assert said.count("in each of 2 processes; a pass gathers") == 1
    out = tmp_path / "run"
    one_of_two_killed(out, *arguments)
    with start(2, "resume", str(out)) as process:
        said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said
    whole, again = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "run"))
    assert whole["settings"]["shard_base"]
    assert whole["settings"]["engine"] == "reference"
    assert again["training"]["resumed_at"]
    assert not whole["training"]["resumed_at"]
    assert again["adapter"]["sha256"] == whole["adapter"]["sha256"]
    assert again["metrics"] == whole["metrics"]
    with start(2, *arguments, "--out", str(tmp_path / "whole")) as process:  # nothing to do: none waits for another
        said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said
    assert said.count("this run is finished; nothing is done again") == 1


def one_of_two_killed(out: Path, *arguments: str) -> None:
    """Start a run of two processes and kill the second behind step 5: the first ends too, and the run is left."""
    with start(2, *arguments, "--out", str(out)) as process:
        until = time.monotonic() + 200
        while not any(int(path.name[5:]) >= 5 for path in out.glob("checkpoints/step-*")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.005)
        ours = psutil.Process(process.pid).children(recursive=True)
        second = next(each for each in ours if each.environ().get("RANK") == "1")
        os.kill(second.pid, signal.SIGKILL)
        said = process.communicate(timeout=900)[0]
    assert process.returncode != 0
    assert "another process of this run has ended" in said or "stopped" in said
    assert said.count("Traceback") <= 1  # torchrun's own, which says which process failed first
    assert not (out / "run.json").exists()
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in ours)


def test_bad_input_is_said_once(tmp_path: Path):
    with start(2, "finetune", str(tmp_path / "none.json"), "--out", str(tmp_path / "run")) as process:
        said = process.communicate(timeout=900)[0]
    assert process.returncode != 0
    assert said.count("no such file") == 1, said
    assert not (tmp_path / "run").exists()
