"""Answers on a Ray that is started here: every row once, in order, and the same as without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import seqtune
from seqtune import batch
from seqtune.cluster import on_ray
from seqtune.errors import RunError


@pytest.fixture(scope="module")
def run(rows_file: Path, tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    quick = {"max_steps": 2, "max_new_tokens": 4, "bootstrap_samples": 100, "device_type": "cpu"}
    return seqtune.finetune(rows_file, model_id=str(tiny_t5), out=out, **quick).path


def test_rows_that_come_twice_or_late_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(on_ray, "check", lambda on, workers: None)
    came: list[dict[str, Any]] = []
    monkeypatch.setattr(on_ray, "lines_of", lambda *_: iter(came))
    for row in (1, 0, 0, 1, 3, 2, 2):
        came.append({"what": "answer", "row": row, "output": f"answer {row}", "cut": row == 3})
    texts = ["a", "b", "c", "d"]
    found = [(text, f"answer {row}") for row, text in enumerate(texts)]
    with caplog.at_level("WARNING", logger="seqtune"):
        assert list(batch.answers(tmp_path, texts, "ray")) == found
    assert "1 of 4 questions have more tokens than fit" in caplog.text
    with pytest.raises(RunError, match="1 of 5 rows without an answer"):
        list(batch.answers(tmp_path, [*texts, "e"], "ray"))


def lines_of(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def test_a_worker_killed_and_every_row_once(run: Path, tmp_path: Path):
    pytest.importorskip("ray", reason="Ray is not installed")
    texts = [f"What is number {number} of the lamp?" for number in range(3000)]
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(texts))
    out, partial = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.partial"
    command = [
        sys.executable, "-m", "seqtune", "predict", str(run), str(questions), "--on", "ray", "--workers", "2",
        "--output", str(out), "--answer-key", "answer",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as p:
        until = time.monotonic() + 1800
        killed = False
        while p.poll() is None and not killed and time.monotonic() < until:
            for each in psutil.Process(p.pid).children(recursive=True) if lines_of(partial) > 1 else []:
                if "MapWorker" in " ".join(each.cmdline() if each.is_running() else []):
                    each.kill()
                    killed = True
                    break
            time.sleep(0.02)
        errors = (p.communicate(timeout=1800)[1] or b"").decode()
    assert killed, "it was done before a worker could be killed"
    assert p.returncode == 0, errors
    assert not partial.exists()
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [each["input"] for each in found] == texts
    some = list(range(0, 3000, 517))
    model = seqtune.load(run, device_type="cpu")
    assert [found[row]["answer"] for row in some] == model.generate([texts[row] for row in some])
