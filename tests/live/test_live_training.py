"""A run that is looked at is the run that nobody looked at, to the last bit; and it goes on after a stop."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seqtune import api, progress
from seqtune.live.watching import Watching
from seqtune.report import safety
from seqtune.run import answers_while_training

QUICK: dict[str, Any] = {
    "max_steps": 6, "eval_steps": 2, "save_steps": 1, "max_new_tokens": 4, "bootstrap_samples": 100,
    "device_type": "cpu",
}  # fmt: skip


def outcome(run: Any) -> tuple[str, list[dict[str, Any]], Any]:
    """The digest of the adapter, the log without its times, and the metrics."""
    log = [{name: value for name, value in row.items() if "seconds" not in name} for row in run.log]
    return run.manifest["adapter"]["sha256"], log, run.metrics


@pytest.mark.parametrize(("engine", "precision"), [("fast", "fp32"), ("fast", "bf16"), ("reference", "fp32")])
def test_looking_on_changes_nothing(rows_file: Path, tiny_t5: Path, tmp_path: Path, engine: str, precision: str):
    knobs = {**QUICK, "engine": engine, "precision": precision, "lora_dropout": 0.2}
    runs = []
    for live in (False, True):
        torch.manual_seed(3)
        out = str(tmp_path / f"live-{live}")
        run = api.finetune(rows_file, live=live, model_id=str(tiny_t5), out=out, **knobs)
        runs.append((outcome(run), torch.get_rng_state().tolist()))
    assert runs[0] == runs[1]
    assert runs[0][0][0]


def test_the_terminal_shows_the_same_few_answers(
    rows_file: Path, tiny_t5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, "seqtune"):
        run = api.finetune(rows_file, live=True, model_id=str(tiny_t5), out=str(tmp_path / "run"), **QUICK)
    said = caplog.messages
    assert re.fullmatch(r"live at http://127\.0\.0\.1:\d+/[\w-]{22}/", next(m for m in said if m.startswith("live")))
    steps = [message for message in said if re.match(r"step \d+, validation loss", message)]
    assert [int(message.split()[1].strip(",")) for message in steps] == [0, 2, 4, 6]
    questions = {row["input"] for row in run.predictions["validation"]}
    shown = [message.strip().split("  →  ") for message in said if "  →  " in message]
    assert len(shown) == 4 * 4
    assert {question.rstrip("…") for question, _ in shown[:4]} == {question.rstrip("…") for question, _ in shown[-4:]}
    assert all(any(q.startswith(question.rstrip("…")) for q in questions) for question, _ in shown)


class EnoughError(Exception):
    pass


def test_it_goes_on_after_a_stop(rows_file: Path, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = api.finetune(rows_file, model_id=str(tiny_t5), out=str(tmp_path / "whole"), **QUICK)

    def stop(report: progress.Progress) -> None:
        if report.stage == "training" and report.done == 3:
            raise EnoughError

    out = tmp_path / "run"
    with pytest.raises(EnoughError), progress.listening(stop):
        api.finetune(rows_file, live=True, model_id=str(tiny_t5), out=str(out), **QUICK)
    assert (out / "checkpoints" / "while_training.jsonl").is_file()

    seen: list[Watching] = []
    made = Watching.__init__
    monkeypatch.setattr(Watching, "__init__", lambda self, *given: (seen.append(self), made(self, *given))[1])
    run = api.resume(out, live=True)
    assert [each["step"] for each in seen[0].state.samples] == [0, 2, 4, 6]
    assert outcome(run)[0] == outcome(whole)[0]
    assert not (out / "checkpoints").exists()
    assert [each["step"] for each in answers_while_training(out / "predictions")] == [0, 2, 4, 6]
    html = api.report(out, report_text="all").read_text(encoding="utf-8")
    assert f'"learned":{safety.in_html(seen[0].state.samples)}' in html
    assert '"learned":[]' in api.report(out).read_text(encoding="utf-8")


def test_answers_that_fail_are_said_and_left_out(
    rows_file: Path, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_: Any, **__: Any) -> list[str]:
        raise ValueError("no answers today")

    monkeypatch.setattr("seqtune.live.watching._answers", fail)
    run = api.finetune(rows_file, live=True, model_id=str(tiny_t5), out=str(tmp_path / "run"), **QUICK)
    assert run.manifest["training"]["steps"] == 6
    assert [m for m in caplog.messages if "no longer answered" in m] == [
        "the few questions are no longer answered while it trains: ValueError: no answers today"
    ]


def test_the_command_line(rows_file: Path, tiny_t5: Path, tmp_path: Path, opened: Callable[..., Any]):
    """For real: the page is opened while it trains, moves, and turns into the report."""
    command = [
        sys.executable, "-m", "seqtune", "finetune", str(rows_file), "--model-id", str(tiny_t5), "--live",
        "--max-steps", "400", "--eval-steps", "40", "--early-stopping-patience", "0", "--max-new-tokens", "4",
        "--bootstrap-samples", "100", "--device-type", "cpu", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("live at"))
        view = opened(line.split()[-1])
        view.until("document.querySelector('#samples') === null || !document.querySelector('#samples').hidden")
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 0
    view.until("!document.querySelector('#live') && document.querySelector('.badge').textContent !== 'at work'")
    assert view.page.is_visible("figure[data-chart=scores]")
    assert "step 400, validation loss" in rest
    assert {url.split("/")[2] for url in view.requests} == {line.split("/")[2]}


def test_live_and_json_are_refused_together(command: Callable, rows_file: Path):
    status, _, err = command("finetune", rows_file, "--live", "--json")
    assert status == 2
    assert "--live is for people and --json for programs" in err
