"""Checkpoints: whole or absent, whatever happens; and a run that goes on ends as if it had never been stopped."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seqtune.durable import Disk
from seqtune.engine import checkpoint
from seqtune.engine.checkpoint import Checkpoints
from seqtune.engine.state import Snapshot
from seqtune.errors import InputError, RunError

MADE_OF = {"training rows": "abc", "learning_rate": 0.001, "version of torch": "2.13.0"}


class Crash(BaseException):
    """The process is gone."""


class CrashingDisk(Disk):
    """Crashes instead of the operation of that number."""

    def __init__(self, at: int):
        self.at = at
        self.done = 0

    def _count(self) -> None:
        if self.done == self.at:
            raise Crash
        self.done += 1

    def make(self, folder: Path) -> None:
        self._count()
        super().make(folder)

    def write(self, path: Path, content: bytes) -> None:
        self._count()
        super().write(path, content)

    def sync(self, path: Path) -> None:
        self._count()
        super().sync(path)

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        super().rename(old, new)

    def remove(self, folder: Path) -> None:
        if self.done == self.at:  # in the middle of it
            next(iter(sorted(folder.iterdir()))).unlink()
        self._count()
        super().remove(folder)


class ForgetfulDisk(CrashingDisk):
    """What was not synced when the process crashed is lost: files are cut in half, names are what they were."""

    def __init__(self, at: int):
        super().__init__(at)
        self.unsynced: list[Path] = []
        self.renamed: list[tuple[Path, Path]] = []

    def write(self, path: Path, content: bytes) -> None:
        super().write(path, content)
        self.unsynced.append(path)

    def sync(self, path: Path) -> None:
        super().sync(path)
        self.unsynced = [each for each in self.unsynced if each != path]
        self.renamed = [pair for pair in self.renamed if pair[1].parent != path]

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.renamed.append((old, new))

    def lose(self) -> None:
        for old, new in reversed(self.renamed):
            if new.exists():
                new.rename(old)
        for path in self.unsynced:
            if path.exists():
                os.truncate(path, path.stat().st_size // 2)


def taken(step: int) -> Snapshot:
    return Snapshot(step, {"adapter.a": torch.full((4, 3), float(step))}, {"state": {"step": step, "log": []}})


def found(folder: Path, made_of: dict[str, Any] = MADE_OF, **knobs: Any) -> int | None:
    newest = Checkpoints(folder, **knobs).newest(made_of)
    if newest is None:
        return None
    assert torch.equal(newest.tensors["adapter.a"], taken(newest.step).tensors["adapter.a"])
    return newest.step


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def three_saved(folder: Path) -> Checkpoints:
    kept = Checkpoints(folder)
    folder.mkdir()
    for step in (1, 2, 3):
        kept.save(taken(step), MADE_OF)
    return kept


# The folder


def test_the_newest_and_the_one_before_are_kept(tmp_path: Path):
    three_saved(tmp_path / "c")
    assert names(tmp_path / "c") == ["step-00000002", "step-00000003"]
    assert found(tmp_path / "c") == 3
    assert found(tmp_path / "nowhere") is None


@pytest.mark.parametrize("kind", [CrashingDisk, ForgetfulDisk])
def test_a_crash_between_any_two_operations(tmp_path: Path, kind: type[CrashingDisk]):
    """Step 3's save, with the removal of step 1, cut off at each of its operations: step 2 or 3 is there, whole."""
    saved: list[int | None] = []
    for at in range(100):
        folder = tmp_path / str(at)
        folder.mkdir()
        for step in (1, 2):
            Checkpoints(folder).save(taken(step), MADE_OF)
        disk = kind(at)
        try:
            Checkpoints(folder, disk=disk).save(taken(3), MADE_OF)
        except Crash:
            if isinstance(disk, ForgetfulDisk):
                disk.lose()
            saved.append(found(folder))
            Checkpoints(folder).save(taken(4), MADE_OF)
            assert found(folder) == 4
            assert len([name for name in names(folder) if name.startswith("step-")]) == 2
            assert not [name for name in names(folder) if name.startswith(".partial")]
            continue
        break
    assert len(saved) == 12, "make, 3 × write and sync, sync, rename, sync, rename, remove"
    assert saved == sorted(saved, key=lambda step: step or 0)
    assert set(saved) == {2, 3}


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["bit", "cut", "gone", "pickle"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
):
    three_saved(tmp_path / "c")
    path = tmp_path / "c" / "step-00000003" / name
    canary = tmp_path / "canary"
    content = bytearray(path.read_bytes())
    if how == "bit":
        content[len(content) // 2] ^= 4
    elif how == "cut":
        content = content[: len(content) // 2]
    elif how == "pickle":
        content = bytearray(pickle.dumps(_Canary(str(canary))))
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content)
    with caplog.at_level("WARNING"):
        step = found(tmp_path / "c")
    if step == 3:  # a flipped bit in the manifest's own layout may leave its meaning as it was
        assert (name, how) == ("manifest.json", "bit")
        return
    assert step == 2
    assert "step-00000003: damaged" in caplog.text
    assert not canary.exists()


class _Canary:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (self.path, "w")


def test_no_pickle_is_read_even_where_the_digests_fit(tmp_path: Path):
    three_saved(tmp_path / "c")
    for step in (2, 3):
        folder = tmp_path / "c" / f"step-0000000{step}"
        (folder / "tensors.safetensors").write_bytes(pickle.dumps(_Canary(str(tmp_path / "canary"))))
        _sign(folder)
    assert found(tmp_path / "c") is None
    assert not (tmp_path / "canary").exists()


def _sign(folder: Path) -> None:
    """Make the manifest right for what lies there now."""
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_run_made_of_something_else_is_refused_unless_allowed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    three_saved(tmp_path / "c")
    changed = {**MADE_OF, "training rows": "xyz", "learning_rate": 0.002}
    with pytest.raises(InputError) as refused:
        found(tmp_path / "c", changed)
    assert "training rows: was abc, is xyz" in str(refused.value)
    assert "learning_rate: was 0.001, is 0.002" in str(refused.value)
    assert "--allow-changed" in str(refused.value)
    newest = Checkpoints(tmp_path / "c", allow_changed=True).newest(changed)
    assert newest is not None
    assert newest.values["changes"] == ["learning_rate: was 0.001, is 0.002", "training rows: was abc, is xyz"]
    with caplog.at_level("WARNING"):  # another version is no other run, but not the same to the last bit
        assert found(tmp_path / "c", {**MADE_OF, "version of torch": "2.14.0"}) == 3
    assert "version of torch: was 2.13.0, is 2.14.0" in caplog.text


class _FullDisk(Disk):
    def write(self, path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    three_saved(tmp_path / "c")
    full = Checkpoints(tmp_path / "c", disk=_FullDisk())
    with caplog.at_level("WARNING"):
        full.save_or_warn(taken(4), MADE_OF)
    assert "the disk is full (48 bytes needed" in caplog.text
    with pytest.raises(RunError, match="the disk is full"):
        full.save_or_fail(taken(4), MADE_OF)
    assert names(tmp_path / "c") == ["step-00000002", "step-00000003"]
    assert found(tmp_path / "c") == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; only root on Linux can make one."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, caplog: pytest.LogCaptureFixture):
    three_saved(small_disk / "c")
    (small_disk / "fill").write_bytes(b"0" * (shutil.disk_usage(small_disk).free - 8192))
    large = dataclasses.replace(taken(4), tensors={"adapter.a": torch.zeros(100_000)})
    kept = Checkpoints(small_disk / "c")
    with caplog.at_level("WARNING"):
        kept.save_or_warn(large, MADE_OF)
    assert "no checkpoint at step 4: the disk is full (400,000 bytes needed" in caplog.text
    assert names(small_disk / "c") == ["step-00000002", "step-00000003"]
    assert found(small_disk / "c") == 3
    (small_disk / "fill").unlink()
    kept.save(taken(5), MADE_OF)
    assert found(small_disk / "c") == 5


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path):
    kept = three_saved(tmp_path / "c")
    shutil.rmtree(tmp_path / "c")
    kept.save(taken(4), MADE_OF)
    assert found(tmp_path / "c") == 4


def test_a_disk_that_is_too_small_is_refused_before_training(tmp_path: Path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(RunError, match=r"bytes, .* are free"):
        Checkpoints(tmp_path).check_space(free)
    Checkpoints(tmp_path).check_space(1)
    Checkpoints().check_space(free * 2)


def test_when_one_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: clock[0]))  # not the clock of all threads
    assert [step for step in range(1, 10) if Checkpoints(tmp_path, save_steps=4).due(step)] == [4, 8]
    by_clock = Checkpoints(tmp_path, save_minutes=1.0)
    assert not by_clock.due(1)
    clock[0] = 61.0
    assert by_clock.due(2)
    by_clock.save(taken(2), MADE_OF)
    assert not by_clock.due(3)
    assert not Checkpoints(None, save_steps=1).due(1)
