"""Bad usage and bad input, from the command line: one clear message, exit status 2, nothing written, no waiting."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seqtune.errors import InputError, RunError, did_you_mean

FILES = {
    "good.json": '[{"question": "a", "reply": "b"}, {"question": "c", "reply": "d"}, {"question": "e", "reply": "f"}]',
    "text.json": "not JSON at all",
    "object.json": '{"rows": [{"question": "a", "reply": "b"}]}',
    "empty.json": "[]",
    "answers.json": '[{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]',
    "bad.json": '[{"question": "a", "reply": ""}, {"question": ["c"], "reply": "d"}, {"question": "e\\u001b[31m"}]',
    "unknown.yaml": "lora_rr: 8\n",
    "broken.yaml": "lora_r: [8\n",
    "useless.yaml": "adapter_path: x\n",
    "run.json": "{}",
    "gpt/config.json": '{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}',
    "nothing/readme.txt": "no run",
    "damaged/run.json": '{"format": 1',
    "newer/run.json": '{"format": 99}',
}

#: What is typed → the lines of the message that tell what, where and what to do.
CASES = {
    "finetune": ["Missing argument 'FILE'", "seqtune finetune --help"],
    "finetun good.json": ["No such command 'finetun'", "Did you mean 'finetune'?"],
    "finetune god.json": ["god.json: no such file; did you mean `good.json`?"],
    "finetune nowhere/good.json": ["nowhere/good.json: no such file; there is no folder nowhere"],
    "finetune text.json": ["text.json: not JSON at line 1, column 1", "Expected a list of objects"],
    "finetune object.json": ["object.json: a JSON object instead of a list", 'its key "rows" holds a list'],
    "finetune empty.json": ["empty.json: an empty list, no rows"],
    "finetune answers.json": ['answers.json: no row has "reply"', "answer ", "Did you mean --output-text-key answer?"],
    "finetune bad.json": [
        "bad.json: 3 problems in 3 rows",
        'row 1  "reply" is empty',
        'row 2  "question" is a list',
        'row 3  "reply" is missing',
        "Nothing was trained.",
    ],
    "finetune good.json --lora-rr 8": ["No such option '--lora-rr'", "'--lora-r'"],
    "finetune good.json --lora-r eight": ["Invalid value for '--lora-r': 'eight' is not a valid integer."],
    "finetune good.json --lora-r 0 --top-p 2": [
        "settings: 2 problems",
        "lora_r = 0   expected a whole number, at least 1",
        "top_p = 2.0   expected a number, above 0, at most 1",
    ],
    "finetune good.json --precision fp16": ["Invalid value for '--precision': 'fp16' is not one of 'auto', 'fp32'"],
    "finetune good.json --input-template hello": ["input_template = 'hello'   expected text with {question}"],
    "finetune good.json --train-size 0.9 --hold-out-size 0.1": ["nothing is left for validation_size"],
    "finetune good.json --data-path good.json": ["good.json and --data-path: give one of them."],
    "finetune good.json extra.json": ["unexpected extra argument"],
    "finetune good.json --config unknown.yaml": ["unknown.yaml: settings: 1 problem", "did you mean `lora_r`?"],
    "finetune good.json --config unknwn.yaml": ["unknwn.yaml: no such file; did you mean `unknown.yaml`?"],
    "finetune good.json --config broken.yaml": ["broken.yaml: can't be read", "line 2, column 1"],
    "finetune good.json --config useless.yaml": ["useless.yaml: 1 problem", "no use in `seqtune finetune`"],
    "finetune good.json --model-id ./none": ["./none: no such folder", "seqtune-mini"],
    "finetune good.json --model-id nothing": ["nothing: no model folder; it has no config.json"],
    "finetune good.json --out good.json/run": ["good.json/run: can't be written (Not a directory", "--out"],
    "finetune good.json --out /proc/run": ["/proc/run: can't be written", "Choose another --out."],
    f"finetune good.json --out {'x' * 250}": ["can't be written (File name too long"],
    f"finetune good.json --out {'x' * 300}": ["can't be written (File name too long"],
    "finetune good.json --work-dir good.json": ["good.json: can't be written (Not a directory", "--work-dir"],
    "finetune good.json --out nothing": ["nothing: already there", "--overwrite"],
    "finetune good.json --out nothing --overwrite": ["nothing: is no run directory, so --overwrite does not replace"],
    "evaluate": ["Missing argument 'RUN'"],
    "evaluate nothing": ["nothing: neither a run directory nor an adapter folder: run.json, adapter_config.json"],
    "evaluate nothin": ["nothin: no such folder; did you mean `nothing`?"],
    "evaluate damaged": ["damaged/run.json: damaged (", "Make the run again."],
    "evaluate newer": ["newer/run.json: written by a newer seqtune (format 99", "pip install --upgrade"],
    "evaluate nothing --lora-r 3": ["No such option '--lora-r'"],
    "predict nothing good.json": ["nothing: neither a run directory nor an adapter folder"],
    "predict good.json good.json": ["good.json: a file, not a folder"],
    "show --format png": ["'png' is not one of 'mermaid', 'svg', 'html'"],
}
HEAVY = ("torch", "transformers", "datasets", "hamilton", "peft", "huggingface_hub", "pandas", "pyarrow", "numpy")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files of `FILES`."""
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("typed", CASES)
def test_one_clear_message(typed: str, folder: Path, command: Callable) -> None:
    before = listing(folder)
    status, out, err = command(*typed.split())
    assert status == 2
    assert out == ""
    for part in CASES[typed]:
        assert part in err
    assert "Traceback" not in err
    assert "\x1b" not in err
    assert len(err.splitlines()) < 12
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("gpt", ["gpt: not an encoder-decoder model", "found: GPT2LMHeadModel (model_type gpt2)", "T5"]),
        ("nobody/nothing", ["nobody/nothing: not on this machine", "--model-id seqtune-mini", "hf download"]),
    ],
)
def test_a_model_that_can_not_be_used(folder: Path, command: Callable, model: str, said: list[str]) -> None:
    before = listing(folder)
    status, out, err = command("finetune", "good.json", "--model-id", model)
    assert (status, out) == (2, "")
    for part in said:
        assert part in err
    assert "Traceback" not in err
    assert "hamilton" not in err.lower()
    assert listing(folder) == before


def test_none_of_it_waits_for_pytorch(folder: Path) -> None:
    script = f"""
import sys
from seqtune import cli
for arguments in {json.dumps([typed.split() for typed in CASES])}:
    sys.argv = ["seqtune", *arguments]
    try:
        cli.main()
        raise AssertionError(arguments)
    except SystemExit as stop:
        assert stop.code == 2, arguments
    heavy = [name for name in {HEAVY} if name in sys.modules]
    assert not heavy, (arguments, heavy)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_error_says_all_in_its_lines() -> None:
    error = InputError("x.json: 2 problems", ["row 1", "row 2"], "Mend them.")
    assert str(error) == "x.json: 2 problems\n  row 1\n  row 2\nMend them."
    assert str(RunError("disk full")) == "disk full"
    assert (InputError("").exit_status, RunError("").exit_status) == (2, 1)


def test_did_you_mean() -> None:
    assert did_you_mean("learning_rat", ["lora_r", "learning_rate"]) == "did you mean `learning_rate`?"
    assert did_you_mean("zzz", ["lora_r"]) == ""
