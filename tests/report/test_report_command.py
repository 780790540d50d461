"""`seqtune report`: of a finished run, of one that was stopped, with and without its text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqtune import api, progress
from seqtune.errors import InputError

QUICK: dict[str, Any] = {
    "max_steps": 4, "eval_steps": 2, "save_steps": 1, "max_new_tokens": 4, "bootstrap_samples": 100, "device_type": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(rows_file: Path, tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    api.finetune(rows_file, model_id=str(tiny_t5), out=str(out), **QUICK)
    return out


class EnoughError(Exception):
    pass


@pytest.fixture
def stopped(rows_file: Path, tiny_t5: Path, tmp_path: Path) -> Path:
    """A run that ended after two of its four steps."""

    def stop(report: progress.Progress) -> None:
        if report.stage == "training" and report.done == 2:
            raise EnoughError

    with pytest.raises(EnoughError), progress.listening(stop):
        api.finetune(rows_file, model_id=str(tiny_t5), out=str(tmp_path / "run"), **QUICK)
    return tmp_path / "run"


def test_a_run_has_a_page_without_the_text_of_its_rows(finished: Path):
    html = (finished / "report.html").read_text(encoding="utf-8")
    rows = api.Run(finished).predictions["hold_out"]
    assert rows
    assert not any(row["input"] in html or row["reference"] in html for row in rows)
    assert '<a href="#training"><g class="node' in html
    assert "<span>run</span>" in html


def test_the_text_is_added_where_it_is_asked_for(command: Callable, finished: Path, tmp_path: Path):
    before = (finished / "report.html").read_text(encoding="utf-8")
    status, out, _ = command("report", finished, "--report-text", "all", "--output", tmp_path / "all.html")
    assert (status, out.strip()) == (0, str(tmp_path / "all.html"))
    html = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert all(row["input"] in html for row in api.Run(finished).predictions["hold_out"])
    assert (finished / "report.html").read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [tmp_path / "all.html"]


def test_a_run_that_was_stopped_has_a_page(stopped: Path, opened: Callable[..., Any]):
    path = api.report(stopped)
    assert path == stopped / "report.html"
    view = opened(path.read_text(encoding="utf-8"))
    assert "This run has no verdict yet" in view.page.text_content("h1")
    assert view.page.evaluate("data.curves.steps") == [1, 2]
    assert view.page.is_visible("figure[data-chart=loss] .js-line")
    assert "max_steps" in view.page.text_content("#settings")
    assert view.faults == []


def test_a_stopped_run_with_a_page_goes_on(stopped: Path):
    api.report(stopped)
    run = api.resume(stopped)
    assert run.manifest["training"]["resumed_at"] == [2]
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Stopped and gone on with at step 2." in html


def test_refused(command: Callable, finished: Path, tmp_path: Path):
    status, _, err = command("report", tmp_path)
    assert (status, "no run directory" in err) == (2, True)
    status, _, err = command("report", finished, "--output", tmp_path / "no" / "x.html")
    assert (status, "can't be written" in err) == (2, True)
    begun = tmp_path / "begun" / "checkpoints"
    begun.mkdir(parents=True)
    (begun / "inputs.json").write_text('{"inputs": {"data_path": "x"}, "replaces": null}')
    with pytest.raises(InputError, match="nothing of this run is saved yet"):
        api.report(begun.parent)
