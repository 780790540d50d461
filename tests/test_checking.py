"""`seqtune check`, and the same checks in a run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import seqtune

GOOD = [{"question": f"What is {i}?", "reply": f"It is number {i}."} for i in range(30)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.json").write_text(json.dumps(GOOD))
    return tmp_path


def test_good_rows_pass(command: Callable, here: Path) -> None:
    status, out, err = command("check", "good.json")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "PASS  reading  good.json: 30 rows, JSON list, UTF-8"
    assert out.splitlines()[-1].startswith("PASS  ")
    assert [path.name for path in here.iterdir()] == ["good.json"]


def test_bad_rows_fail_or_are_left_out(command: Callable, here: Path) -> None:
    (here / "bad.json").write_text(json.dumps([*GOOD, {"question": "a", "reply": ""}, {"question": 3}]))
    status, out, _ = command("check", "bad.json", "--json")
    found = json.loads(out)
    assert (status, found["verdict"]) == (2, "FAIL")
    failed = {each["check"]: each for each in found["findings"] if each["verdict"] == "FAIL"}
    assert {name: (each["rows"], each["of"]) for name, each in failed.items()} == {
        "missing_text": (2, 32),
        "not_text": (1, 32),
    }
    status, out, _ = command("check", "bad.json", "--json", "--on-bad-rows", "skip")
    assert (status, json.loads(out)["verdict"]) == (0, "WARN")


def test_what_stops_a_run_is_a_finding(command: Callable, here: Path) -> None:
    (here / "one.json").write_text(json.dumps(GOOD[:1]))
    for arguments, check in (
        (("god.json",), "reading"),
        (("good.json", "--output-text-key", "answer"), "reading"),
        (("one.json",), "splits"),
        (("good.json", "--validation-path", "none.json"), "reading"),
    ):
        status, out, _ = command("check", *arguments, "--json")
        assert status == 2
        assert [each["check"] for each in json.loads(out)["findings"] if each["verdict"] == "FAIL"] == [check]


def test_a_run_has_them_in_its_manifest(here: Path, tiny_t5: Path) -> None:
    driver = seqtune.build_driver({"start": "base"})
    found = driver.execute(["data_findings"], inputs={"data_path": "good.json"})["data_findings"]
    assert found[0] == {
        "check": "reading",
        "verdict": "PASS",
        "found": "good.json: 30 rows, JSON list, UTF-8",
        "rows": 0,
        "of": 30,
        "examples": [],
        "mend": "",
    }


def test_control_tokens_are_those_of_the_model_that_is_named(command: Callable, here: Path, tmp_path: Path) -> None:
    from tiny_models import tiny  # not above: it brings PyTorch

    rows = [*GOOD, {"question": "What is en_XX?", "reply": "A language."}]
    (here / "codes.json").write_text(json.dumps(rows))
    model = tmp_path / "model"
    tiny("mbart", model)
    found = {}
    for options in ((), ("--model-id", str(model))):
        _, out, _ = command("check", "codes.json", "--json", *options)
        (found[options],) = [each for each in json.loads(out)["findings"] if each["check"] == "control_tokens"]
    without, with_model = found.values()
    assert (without["verdict"], without["rows"]) == ("PASS", 0)
    assert (with_model["verdict"], with_model["rows"]) == ("WARN", 1)
    driver = seqtune.build_driver({"start": "base"})
    inputs = {"data_path": "codes.json", "model_id": str(model)}
    of_run = driver.execute(["data_findings", "token_findings"], inputs=inputs)
    assert [each for part in of_run.values() for each in part if each["check"] == "control_tokens"] == [with_model]


def test_checking_does_not_wait_for_pytorch(here: Path) -> None:
    script = "import sys; sys.argv = ['seqtune', 'check', 'good.json']\nfrom seqtune import cli\ncli.main()\n"
    script += "assert not {'torch', 'transformers', 'hamilton'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=here)


def test_own_files_that_overlap_are_told(command: Callable, here: Path) -> None:
    rows = [{"question": f"{word} and where is it kept?", "reply": word} for word in ("lamp", "key", "cup", "map")]
    (here / "own.json").write_text(json.dumps([*GOOD[:3], *rows]))
    status, out, _ = command("check", "good.json", "--hold-out-path", "own.json", "--json")
    (finding,) = [each for each in json.loads(out)["findings"] if each["check"] == "splits"]
    assert (status, finding["verdict"]) == (0, "WARN")
    assert finding["examples"] == ["3 training rows were left out: the same question is in the hold-out file"]
