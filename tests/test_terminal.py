"""`seqtune.terminal`: the live display, the notes, and that no file's content can steer the terminal."""

from __future__ import annotations

import io
import json
import logging
import warnings
from types import SimpleNamespace

import pytest
from rich.console import Console

from seqtune import progress, terminal


def shown(drawing: terminal._Drawing, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    console.print(drawing)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def drawing(monkeypatch: pytest.MonkeyPatch, *reports: tuple[float, progress.Progress]) -> terminal._Drawing:
    """A display that got each report at its second."""
    now = [0.0]
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: now[0]))
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    made = terminal._Drawing(console, trail=True)
    for at, report in reports:
        now[0] = at
        made(report)
    return made


def step(done: int, stage: str = "training") -> progress.Progress:
    return progress.Progress(stage, done, 100, "steps", {"loss": 2.34567, "validation_loss": 2.0})


@pytest.mark.parametrize("width", [66, 80, 110])
def test_the_display_shows_stage_step_loss_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    first, second = shown(drawing(monkeypatch, (10.0, step(1)), (20.0, step(21))), width)
    assert "training" in first
    assert "21/100 steps" in first
    assert second.strip() == "loss 2.346   validation loss 2.000   2.0 steps/s   40 s left"
    assert max(len(first), len(second)) <= width


def test_slow_steps_have_seconds_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "5.0 s/step   8 min 5 s left" in shown(drawing(monkeypatch, (0.0, step(1)), (10.0, step(3))))[1]


def test_between_two_reports_the_time_left_runs_down(monkeypatch: pytest.MonkeyPatch) -> None:
    made = drawing(monkeypatch, (10.0, step(1)), (20.0, step(21)))
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: 25.0))
    assert "2.0 steps/s   34 s left" in shown(made)[1]
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: 99.0))
    assert "2.0 steps/s   0 s left" in shown(made)[1]


def test_before_the_first_report_there_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = shown(drawing(monkeypatch))
    assert "getting ready 0 s" in line


def test_a_finished_stage_leaves_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    made = drawing(
        monkeypatch, (0.0, step(1)), (30.0, step(60)), (31.0, step(4, "answers")), (99.0, step(100, "answers"))
    )
    lines = made.console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split("  loss")[0] for line in lines] == [
        "✓ training  60 steps in 31 s",
        "✓ answers  100 steps in 1 min 8 s",
    ]


def test_durations() -> None:
    seconds = (0.2, 59.4, 60, 200, 3600, 7500)
    assert [terminal.duration(each) for each in seconds] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "3 min 20 s",
        "1 h 0 min",
        "2 h 5 min",
    ]


def test_without_a_terminal_notes_are_lines_and_there_is_no_display(capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 60
    with terminal.display():
        progress.advance("training", 1, 2, "steps", loss=1.0)
        progress.say(long.strip())
        progress.warn("[bold]look[/bold] \x1b[31mred\x1b[0m\x07 :smile:")
        progress.advance("training", 2, 2, "steps", loss=1.0)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{long.strip()}\nnote: [bold]look[/bold] [31mred[0m :smile:\n"


def test_on_a_terminal_notes_are_wrapped_at_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    with terminal.display(live=False):
        progress.say("source length: at most 61 tokens (the longest training row)")
    assert capsys.readouterr().err == "source length: at most 61 tokens (the\n  longest training row)\n"


def test_without_notes_warnings_are_left(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.display(notes=False):
        progress.say("a fact")
        progress.warn("a warning")
    assert capsys.readouterr().err == "note: a warning\n"


def test_the_display_leaves_the_process_as_it_was() -> None:
    loggers = [logging.getLogger(name) for name in ("seqtune", "hamilton")]
    before = [(each.level, each.propagate, list(each.handlers)) for each in loggers]
    with pytest.raises(RuntimeError), terminal.display():
        raise RuntimeError
    assert [(each.level, each.propagate, list(each.handlers)) for each in loggers] == before


def test_one_warning_of_others_is_left_out_and_no_more() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with terminal.display():
            warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed", FutureWarning, stacklevel=1)
            warnings.warn("`another` is deprecated", FutureWarning, stacklevel=1)
    assert [str(each.message) for each in caught] == ["`another` is deprecated"]


def test_control_characters_never_reach_the_terminal() -> None:
    assert terminal.clean("a\x1b]0;title\x07b\x9b31m\u202ec\r\nd\te\udc80") == "a]0;titleb31mc\nd\te"
    assert terminal.clean("می\u200cخواهم 日本語 é \u00a0") == "می\u200cخواهم 日本語 é \u00a0"


def test_json_is_the_same_value_without_characters_that_steer() -> None:
    content = {"a": "ü \x1b[31m \x9b31m \x7f \u2028 \u202e \ud800 \U0001f600 \\u0041"}
    text = terminal.as_json(content)
    assert json.loads(text) == content
    assert terminal.clean(text) == text
    assert "ü" in text
    assert "\U0001f600" in text


RESULT = {
    "metrics": {
        "hold_out": {
            "base": {"rougeL": 10.0, "loss": 3.0, "exact_match": 0.0},
            "tuned": {"rougeL": 42.25, "loss": 1.5, "exact_match": 10.0},
        }
    },
    "verdict": {
        "rows": 41,
        "sentence": "better: ROUGE-L +32.25 points over the base (95 % interval 20.1 to 40.2, 41 hold-out rows)",
    },
}


def test_the_closing_table(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_result(RESULT, "runs/x")
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "",
        "41 hold-out rows, which training has not seen:",
        "              base  tuned  difference",
        "ROUGE-L      10.00  42.25      +32.25",
        "exact match   0.00  10.00      +10.00",
        "loss          3.00   1.50       -1.50",
        "",
        "better: ROUGE-L +32.25 points over the base (95 % interval 20.1 to 40.2, 41 hold-out rows)",
        "",
        "run directory  runs/x",
        "report         runs/x/report.html",
        "ask it         seqtune predict runs/x questions.jsonl",
    ]


def test_answers(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_answers([{"input": "q [b]\x1b[2J", "reference": "r", "base": "", "tuned": "word " * 40}])
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in lines[:4]] == ["", " question q [b][2J", "reference r", "     base (nothing)"]
    assert all(len(line) <= terminal.PIPED_WIDTH for line in lines)


def test_rows_that_training_may_have_seen_are_not_said_to_be_unseen(capsys: pytest.CaptureFixture[str]) -> None:
    for unseen, said in ((False, "41 hold-out rows:"), (True, "41 hold-out rows, which training has not seen:")):
        terminal.show_result({**RESULT, "verdict": {**RESULT["verdict"], "unseen": unseen}}, None)
        assert capsys.readouterr().out.splitlines()[1] == said


def test_metrics_of_your_own_stand_below_ours(capsys: pytest.CaptureFixture[str]) -> None:
    base, tuned = RESULT["metrics"]["hold_out"].values()
    own = {"numbers [b]right\x1b": 5, "note": "text", "ok": True, "rougeLsum": 3.0}
    metrics = {"hold_out": {"base": {**own, **base}, "tuned": {**own, "only tuned": 1.0, **tuned}}}
    terminal.show_result({**RESULT, "metrics": metrics}, None)
    lines = capsys.readouterr().out.splitlines()
    names = [line[:18].rstrip() for line in lines[3 : lines.index("", 3)]]
    assert names == ["ROUGE-L", "exact match", "loss", "numbers [b]right"]
    assert lines[6].split()[-3:] == ["5.00", "5.00", "+0.00"]
