"""`seqtune report`: of a finished run, of one that was stopped, with and without its text."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seqtune
from seqtune import api, progress
from seqtune.errors import InputError, RunError

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


def test_a_run_that_was_stopped_has_a_page(stopped: Path, rows_file: Path, opened: Callable[..., Any]):
    """Written when it stopped, nobody asks for it; with all that is known of the data, and the curves up to there."""
    html = (stopped / "report.html").read_text(encoding="utf-8")
    view = opened(html)
    assert "This run has no verdict yet" in view.page.text_content("h1")
    assert view.page.evaluate("data.curves.steps") == [1, 2]
    assert view.page.is_visible("figure[data-chart=loss] .js-line")
    assert "max_steps" in view.page.text_content("#settings")
    data = view.page.text_content("#data")
    for part in (rows_file.name, "trained on", "Checks", "Lengths of the training rows"):
        assert part in data, part
    assert view.page.locator("#checks + ul > li").count() > 3
    assert view.page.locator("figure[data-chart=lengths-source] .point").count() > 3
    assert "derived" in view.page.text_content("#settings")
    assert "torch" in view.page.text_content("#again")
    assert view.faults == []
    api.report(stopped)
    assert (stopped / "report.html").read_text(encoding="utf-8") == html


def test_a_run_that_failed_has_a_page(rows_file: Path, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RunError("no answers today")

    monkeypatch.setattr("seqtune.scoring.answers_of", fail)
    with pytest.raises(RunError, match="no answers today"):
        api.finetune(rows_file, model_id=str(tiny_t5), out=str(tmp_path / "run"), **QUICK)
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "This run has no verdict yet" in html
    assert '"steps":[1,2,3,4]' in html


def test_a_page_that_can_not_be_written_hides_no_error(
    rows_file: Path, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def stop(report: progress.Progress) -> None:
        if report.stage == "training" and report.done == 2:
            raise EnoughError

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seqtune.run.write_text", full)
    with pytest.raises(EnoughError), progress.listening(stop):
        api.finetune(rows_file, model_id=str(tiny_t5), out=str(tmp_path / "run"), **QUICK)
    assert [m for m in caplog.messages if "no report of how far it came" in m]


def test_a_run_that_replaces_another_leaves_its_page_alone(
    finished: Path, tiny_t5: Path, rows_file: Path, tmp_path: Path
):
    out = tmp_path / "run"
    shutil.copytree(finished, out)

    def stop(report: progress.Progress) -> None:
        if report.stage == "training" and report.done == 2:
            raise EnoughError

    with pytest.raises(EnoughError), progress.listening(stop):
        api.finetune(rows_file, model_id=str(tiny_t5), out=str(out), overwrite=True, learning_rate=0.01, **QUICK)
    assert (out / "report.html").read_bytes() == (finished / "report.html").read_bytes()


def test_a_presaved_run_has_a_page(finished: Path, tmp_path: Path, opened: Callable[..., Any]):
    """From a run directory, where training is known, and from an adapter alone, where it is not."""
    for name, adapter, more in (
        ("run", finished, {}),
        ("adapter", shutil.copytree(finished / "adapter", tmp_path / "adapter-alone"), {"elsewhere": True}),
    ):
        settings = api.Run(finished).manifest["settings"]
        inputs = {"adapter_path": str(adapter), "out": str(tmp_path / name), "report_text": "all"}
        if more:
            inputs |= {n: settings[n] for n in ("data_path", "model_id", "max_new_tokens", "bootstrap_samples")}
        seqtune.build_driver({"start": "presaved"}).execute(["save_best_models"], inputs=inputs)
        done = api.Run(tmp_path / name)
        view = opened((done.path / "report.html").read_text(encoding="utf-8"), name=f"{name}.html")
        assert done.manifest["verdict"]["sentence"].endswith(view.page.text_content(".sentence"))
        assert view.page.locator("figure[data-chart=scores] .point").count() > 3
        assert f"{len(done.predictions['hold_out'])} hold-out rows" in view.page.text_content("#found")
        for part in ("Checks", "Splits", "Lengths of the training rows"):
            assert part in view.page.text_content("#data")
        known = "adapter was trained elsewhere" not in view.page.text_content("#training")
        assert known == view.page.is_visible("figure[data-chart=loss]") == (not more)
        drawn = view.page.text_content("#dataflow")
        assert "saved_run" in drawn
        assert "training_settings" not in drawn, "the picture is that of the run"
        assert view.faults == []
        anew = api.report(done.path, output=tmp_path / "anew.html").read_text(encoding="utf-8")
        assert "saved_run" in anew
        assert "training_settings" not in anew


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
