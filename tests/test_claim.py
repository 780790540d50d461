"""The place of a run that is not finished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqtune import claim, run
from seqtune.data import shards
from seqtune.errors import InputError

GIVEN = {"data_path": "data.json", "learning_rate": 0.001}


def stopped(out: Path, inputs: dict[str, Any] | None = None) -> Path:
    """A run that was stopped after its first checkpoint."""
    with claim.claimed(out, inputs or GIVEN) as folder:
        (folder / "step-00000005").mkdir()
    return out


def deliver(out: Path, overwrite: bool = False, **manifest: Any) -> None:
    with run.publishing(out, overwrite) as folder:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights").write_text(str(manifest))
        run.write_json(folder / "run.json", {"format": 1, "settings": {}, **manifest})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_that_failed_at_once_leaves_nothing(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), claim.claimed(tmp_path / "runs" / "x", GIVEN):
        raise ZeroDivisionError
    assert not (tmp_path / "runs" / "x").exists()


def test_a_base_in_shares_takes_as_many_processes_again(tmp_path: Path):
    out = stopped(tmp_path / "x", {**GIVEN, "shard_base": True})
    (out / "checkpoints" / "step-00000005" / "state.json").write_text('{"made_of": {"ranks": 3}}')
    command = f"`torchrun --nproc-per-node 3 -m seqtune resume {out}`"
    assert claim.how_to_go_on(out) == f"step 5 is saved. {command} goes on from there"
    with pytest.raises(InputError) as refused:
        run.Run(out)
    assert refused.value.mend == f"{command} goes on."


def test_a_run_that_was_stopped_can_go_on_and_be_finished(tmp_path: Path):
    out = stopped(tmp_path / "x")
    assert run.is_unfinished(out)
    assert claim.inputs_of(out) == {**GIVEN, "out": str(out)}
    assert claim.how_to_go_on(out) == f"step 5 is saved. `seqtune resume {out}` goes on from there"
    run.check_destination(out, overwrite=False)
    assert run.place_for(out, overwrite=False) == out
    with pytest.raises(InputError, match="seqtune resume"):
        run.Run(out)
    with (
        pytest.raises(InputError, match=r"learning_rate: was 0\.001, now 1"),
        claim.claimed(out, {**GIVEN, "learning_rate": 1}),
    ):
        pass
    with claim.claimed(out, {**GIVEN, "learning_rate": 0.1, "allow_changed": True}):
        pass
    assert claim.inputs_of(out)["learning_rate"] == 0.1
    with claim.claimed(out, {**GIVEN, "learning_rate": 0.1, "save_steps": 7}):
        deliver(out)
    assert names(out) == ["adapter", "run.json"]
    assert not run.is_unfinished(out)


def test_overwriting_keeps_the_old_run_until_the_new_one_is_there(tmp_path: Path):
    out = tmp_path / "x"
    deliver(out, verdict="old")
    with pytest.raises(InputError, match="already there"), claim.claimed(out, GIVEN):
        pass
    assert names(out) == ["adapter", "run.json"]
    over = {**GIVEN, "overwrite": True}
    stopped(out, over)
    assert run.is_unfinished(out)
    assert json.loads((out / "run.json").read_text())["verdict"] == "old"
    with claim.claimed(out, over):
        deliver(out, overwrite=True, verdict="new")
    assert names(out) == ["adapter", "run.json"]
    assert run.Run(out).manifest["verdict"] == "new"
    assert not run.is_unfinished(out)


def test_a_crash_while_parts_are_moved_in_leaves_a_run_that_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = stopped(tmp_path / "x")
    whole = Path.rename

    def rename(self: Path, target: Any) -> Path:
        if self.name == "run.json":
            raise KeyboardInterrupt
        return whole(self, target)

    with claim.claimed(out, GIVEN), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            deliver(out)
    assert run.is_unfinished(out)
    with claim.claimed(out, GIVEN):
        deliver(out)
    assert names(out) == ["adapter", "run.json"]


def test_one_process_at_a_time(tmp_path: Path):
    out = tmp_path / "x"
    code = (
        "import sys, time\nfrom seqtune import claim\n"
        f"with claim.claimed({str(out)!r}, {{}}):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {other.pid} is at work here"), claim.claimed(out, GIVEN):
            pass
        other.kill()
    with claim.claimed(out, GIVEN):  # the lock of a dead process is no lock
        assert json.loads((out / "checkpoints" / "holder.json").read_text())["process"] == os.getpid()


def test_a_place_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"), claim.claimed(tmp_path / "file" / "x", GIVEN):
        pass


def test_without_out_the_same_run_goes_on_and_another_gets_a_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    stopped(Path("runs/data"))
    assert claim.place({**GIVEN, "save_steps": 3}) == "runs/data"
    assert claim.place({**GIVEN, "learning_rate": 0.5}) == "runs/data-2"
    assert claim.place({**GIVEN, "out": "runs/own"}) == "runs/own"


def test_a_finished_run_is_told_from_another(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    out = tmp_path / "x"
    data = tmp_path / "data.json"
    assert claim.finished({**GIVEN, "out": str(out)}) is None
    settings = {"data_path": str(data), "learning_rate": 0.001, "lora_r": 16, "max_new_tokens": 7}
    data.write_text("[]")
    sources = {"data": {"path": str(data), "sha256": run.file_sha256(data)}}
    deliver(out, settings=settings, data={"sources": sources})
    given = {"data_path": str(data), "learning_rate": 0.001, "out": str(out), "save_steps": 5}
    with caplog.at_level("INFO", logger="seqtune"):
        same = claim.finished(given)
    assert same is not None
    assert same.path == out
    assert "nothing is done again" in caplog.text
    assert claim.finished({**given, "overwrite": True}) is None
    with pytest.raises(InputError, match="already there") as other:
        claim.finished({**given, "lora_r": 4})
    assert "lora_r: was 16, now 4" in str(other.value)
    with pytest.raises(InputError, match=r"learning_rate: was 0\.001, now 0\.01"):  # no longer given: the default
        claim.finished({"data_path": str(data), "out": str(out), "learning_rate": 0.01})
    data.write_text("[1]")
    with pytest.raises(InputError, match="has changed since"):
        claim.finished(given)


def test_a_folder_of_shards_that_has_changed_is_noticed(tmp_path: Path):
    folder, out = tmp_path / "shards", tmp_path / "x"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"question": "a", "reply": "b"}\n')
    given = {"data_path": str(folder), "streaming": True, "out": str(out)}
    deliver(out, settings=given, data={"sources": {"data": shards.identify(str(folder))}})
    assert claim.finished(given) is not None
    (folder / "b.jsonl").write_text('{"question": "c", "reply": "d"}\n')
    with pytest.raises(InputError, match="finished run of something else") as raised:
        claim.finished(given)
    assert "shards has changed since" in raised.value.details[0]


@pytest.mark.parametrize("content", ["", "[]", '{"inputs": 3}', "{"])
def test_damaged_inputs_are_said(tmp_path: Path, content: str):
    out = stopped(tmp_path / "x")
    (out / "checkpoints" / "inputs.json").write_text(content)
    with pytest.raises(InputError, match="damaged"):
        claim.inputs_of(out)
    with pytest.raises(InputError, match="no run that was stopped"):
        claim.inputs_of(tmp_path)
