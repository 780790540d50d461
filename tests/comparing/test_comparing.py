"""`seqtune.comparing` and the commands `compare` and `runs`, on two real runs that differ in one knob."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seqtune
from seqtune import comparing
from seqtune.comparing import listing, page
from seqtune.errors import InputError

HOSTILE = "</script><script>alert(1)</script>\x1b[31m'\"&<b>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_t5: Path, rows_file: Path) -> Path:
    """Two runs that differ in the rank of the adapter alone, and a third on other data."""
    runs = tmp_path_factory.mktemp("runs")
    quick = {"model_id": str(tiny_t5), "max_steps": 8, "learning_rate": 2e-2, "max_new_tokens": 8, "train_size": 0.5}
    for rank in (2, 8):
        seqtune.finetune(rows_file, out=runs / f"rank{rank}", lora_r=rank, **quick)
    other = runs.parent / "other.json"
    rows = json.loads(rows_file.read_text(encoding="utf-8"))
    other.write_text(json.dumps(rows[:30]), encoding="utf-8")
    seqtune.finetune(other, out=runs / "other", **quick)
    return runs


def test_two_runs_that_differ_in_one_knob_show_just_that_knob(folder):
    found = comparing.compare([folder / "rank2", folder / "rank8"])
    assert found["differences"] == {
        "settings": {"lora_r": [2, 8]},
        "derived": {},
        "data": {},
        "base_model": {},
        "versions": {},
        "machine": {},
    }
    assert [run["name"] for run in found["runs"]] == ["rank2", "rank8"]
    assert found["notes"] == []


def test_the_metrics_are_the_runs_own_with_intervals(folder):
    paths = [folder / "rank2", folder / "rank8"]
    found = comparing.compare(paths, samples=500)
    runs = [seqtune.Run(path) for path in paths]
    for split in ("validation", "hold_out"):
        each = found["sets"][split]
        assert each["rows"] == len(runs[0].predictions[split])
        assert set(each["metrics"]) == set(runs[0].metrics[split]["tuned"])
        for name, metric in each["metrics"].items():
            assert metric["values"] == pytest.approx([run.metrics[split]["tuned"][name] for run in runs], abs=1e-9)
            first, against = metric["against_first"]
            assert first is None
            assert against["lift"] == pytest.approx(metric["values"][1] - metric["values"][0], abs=1e-9)
            assert against["low"] <= against["lift"] <= against["high"]


def test_the_answers_that_changed(folder):
    found = comparing.compare([folder / "rank2", folder / "rank8"])
    a, b = (seqtune.Run(folder / name).predictions["hold_out"] for name in ("rank2", "rank8"))
    changed = {row["input"] for row, other in zip(a, b, strict=True) if row["tuned"] != other["tuned"]}
    assert changed
    rows = found["sets"]["hold_out"]["changed"]
    assert {row["input"] for row in rows} == changed
    gaps = [abs(row["scores"][1] - row["scores"][0]) for row in rows]
    assert gaps == sorted(gaps, reverse=True)


def test_a_run_and_its_copy_differ_in_nothing(folder, tmp_path):
    shutil.copytree(folder / "rank2", tmp_path / "rank2")
    found = comparing.compare([folder / "rank2", tmp_path / "rank2", folder / "rank8"], samples=200)
    assert found["differences"]["settings"] == {"lora_r": [2, 2, 8]}
    assert len({run["name"] for run in found["runs"]}) == 3, "told apart by the folder before"
    for metric in found["sets"]["hold_out"]["metrics"].values():
        _, same, _ = metric["against_first"]
        assert (same["lift"], same["low"], same["high"], same["clear"]) == (0, 0, 0, False)


def test_other_data_is_said_and_only_shared_rows_are_compared(folder):
    found = comparing.compare([folder / "rank8", folder / "other"], samples=200)
    assert "sha256" in found["differences"]["data"]
    assert found["differences"]["settings"].keys() >= {"lora_r", "data_path"}
    assert found["notes"][0].startswith("the runs were made from other data")
    texts = [
        {row["input"] for row in seqtune.Run(folder / name).predictions["hold_out"]} for name in ("rank8", "other")
    ]
    assert found["sets"]["hold_out"]["rows"] == len(texts[0] & texts[1])


def test_runs_of_an_older_version_can_be_compared(folder, tmp_path):
    """Without flags, targets, lifts, signatures, F1: what there is is compared."""
    old = tmp_path / "old"
    shutil.copytree(folder / "rank2", old)
    manifest = json.loads((old / "run.json").read_text(encoding="utf-8"))
    for name in ("lifts", "guard_rails", "forgetting", "signatures", "derived"):
        manifest.pop(name)
    (old / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    for path in (old / "predictions").iterdir():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            del row["flags"], row["target"], row["scores"]["tuned"]["f1"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = comparing.compare([old, folder / "rank8"], samples=200)
    assert {"rougeL", "bleu", "chrf"} <= set(found["sets"]["hold_out"]["metrics"])
    assert "f1" not in found["sets"]["hold_out"]["metrics"]


def test_answers_scored_by_other_words_are_scored_again(folder, tmp_path):
    other = tmp_path / "unicode"
    shutil.copytree(folder / "rank2", other)
    manifest = json.loads((other / "run.json").read_text(encoding="utf-8"))
    manifest["derived"]["rouge_tokenizer"] = manifest["settings"]["rouge_tokenizer"] = {
        "value": "unicode",
        "reason": "given",
    }
    (other / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    found = comparing.compare([folder / "rank2", other], samples=200)
    assert found["sets"]["hold_out"]["scored_again"]
    metric = found["sets"]["hold_out"]["metrics"]["rougeL"]
    assert metric["values"][0] == metric["values"][1], "the same answers, by the same words"


@pytest.mark.parametrize("damage", ["predictions", "run.json", "one"])
def test_what_cannot_be_compared_is_refused(folder, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(folder / "rank2", copy)
    if damage == "predictions":
        shutil.rmtree(copy / "predictions")
    elif damage == "run.json":
        (copy / "run.json").write_text("{", encoding="utf-8")
    paths = [copy] if damage == "one" else [folder / "rank8", copy]
    with pytest.raises(
        InputError, match={"predictions": "can't be read", "run.json": "damaged", "one": "one run"}[damage]
    ):
        comparing.compare(paths)


# The commands


def test_compare_on_the_command_line(folder, command: Callable, tmp_path):
    file = tmp_path / "page.html"
    paths = str(folder / "rank2"), str(folder / "rank8")
    status, out, err = command("compare", *paths, "--html", file, "--answers", 1)
    assert (status, err) == (0, "")
    assert "lora_r" in out
    assert "learning_rate" not in out
    assert out.count("question ") == 1
    assert file.is_file()
    status, out, _ = command("compare", *paths, "--json")
    assert (status, json.loads(out)["differences"]["settings"]) == (0, {"lora_r": [2, 8]})
    assert command("compare", paths[0])[0] == 2
    status, _, err = command("compare", paths[0], str(folder / "rank9"))
    assert status == 2
    assert "no run directory" in err


def test_runs_on_the_command_line(folder, command: Callable):
    status, out, err = command("runs", folder)
    assert (status, err) == (0, "")
    best = max(("rank2", "rank8"), key=lambda name: seqtune.Run(folder / name).metrics["hold_out"]["tuned"]["rougeL"])
    names = [line.split()[0] for line in out.splitlines() if line.startswith(("rank", "other"))]
    assert names[-2:] == [best, "rank2" if best == "rank8" else "rank8"] or names[:2][0] == best
    assert any(bar in out for bar in listing.BARS)
    status, out, _ = command("runs", folder, "--json")
    rows = json.loads(out)
    assert {row["name"] for row in rows} == {"rank2", "rank8", "other"}
    assert len({row["group"] for row in rows}) == 2, "other data, another group"
    status, _, err = command("runs", folder.parent / "run")
    assert status == 2
    assert "did you mean" in err or "no such folder" in err


def test_looking_at_runs_does_not_wait_for_pytorch(folder):
    script = (
        "import sys\nfrom seqtune import comparing\nfrom seqtune.comparing import listing, page, table\n"
        f"page.render(comparing.compare([{str(folder / 'rank2')!r}, {str(folder / 'rank8')!r}], samples=100))\n"
        f"listing.runs_of({str(folder)!r})\nprint([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stopped_and_damaged_runs_are_listed_as_such(folder, tmp_path):
    shutil.copytree(folder / "rank2", tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("[]", encoding="utf-8")
    (tmp_path / "half" / "checkpoints").mkdir(parents=True)
    (tmp_path / "half" / "checkpoints" / "inputs.json").write_text("{}", encoding="utf-8")
    (tmp_path / "notes").mkdir()
    found = {row["name"]: row["state"] for row in listing.runs_of(tmp_path)}
    assert found == {"good": "finished", "half": "stopped", "bad": "damaged"}


# The page


def test_hostile_text_is_text(folder):
    found: dict[str, Any] = comparing.compare([folder / "rank2", folder / "rank8"], samples=100)
    found["runs"][0]["name"] = HOSTILE
    found["notes"] = [HOSTILE]
    found["differences"]["settings"][HOSTILE] = [HOSTILE, None]
    found["sets"]["hold_out"]["metrics"][HOSTILE] = found["sets"]["hold_out"]["metrics"]["rougeL"]
    found["sets"]["hold_out"]["changed"] = [
        {"input": HOSTILE, "reference": HOSTILE, "answers": [HOSTILE, ""], "scores": [1.0, None]}
    ]
    text = page.render(found)
    assert "<script" not in text
    assert "<b>" not in text
    assert "default-src 'none'; script-src 'none'; style-src 'sha256-" in html.unescape(text)
    assert "unsafe" not in text
    assert text.count("&lt;/script&gt;") >= 9


def test_only_clear_differences_have_a_colour(folder):
    found = comparing.compare([folder / "rank2", folder / "rank8"], samples=100)
    for each in found["sets"].values():
        each["metrics"] = dict(list(each["metrics"].items())[:3])
        for (low, lift), metric in zip(((1, 2), (-1, 2), (-3, -2)), each["metrics"].values(), strict=True):
            metric["against_first"][1] = {"lift": lift, "low": low, "high": 3, "clear": low * lift > 0}
    text = page.render({**found, "sets": {"hold_out": found["sets"]["hold_out"]}})
    assert re.findall(r'<td class="n lift (\w+)">', text) == ["good", "quiet", "bad"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""),
        ([2.0], "▁"),
        ([1, 1, 1], "▁▁▁"),
        ([0, 7], "▁█"),
        ([None, float("nan"), 0.0, 1.0], "▁█"),
        (list(range(8)), "▁▂▃▄▅▆▇█"),
        (list(range(1600)), "▁▁▂▂▃▃▄▄▅▅▆▆▇▇██"),
    ],
)
def test_sparkline(values, expected):
    assert listing.sparkline(values) == expected
