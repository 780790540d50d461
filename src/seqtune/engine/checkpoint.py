"""Checkpoints: a run's state on the disk, whole or not at all, in safetensors and JSON.

```
checkpoints/
  step-00000120/
    tensors.safetensors   adapter, best adapter, moments, generators
    state.json            counters, log, place in the schedule, what the run is made of
    manifest.json         size and SHA-256 of the two; written last
```

A checkpoint is written beside its place, synced, and renamed there; only then are older ones removed, all but the one
before, which is used where the newest turns out to be damaged. One process writes (`seqtune.claim`), the first of those
that train together (`seqtune.engine.ranks`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of

from seqtune.durable import Disk
from seqtune.engine.state import Snapshot
from seqtune.errors import InputError, RunError
from seqtune.progress import say, warn

#: Of the layout; one that is unknown counts as damaged.
FORMAT = 2
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"

#: Checkpoints that are kept: the newest, and the one before for the case that the newest is damaged.
KEPT = 2


class _DamagedError(Exception):
    """A checkpoint that can't be used, and why."""


@dataclass
class Checkpoints:
    """Where a run keeps its checkpoints, and when it makes one.

    Attributes:
        folder: of all checkpoints of the run; None keeps none.
        save_steps: steps between two; None goes by the minutes alone.
        save_minutes: minutes between two; 0 goes by the steps alone.
        allow_changed: go on although the run is not made of the same as before.
        disk: the operations; tests put failures there.
    """

    folder: Path | None = None
    save_steps: int | None = None
    save_minutes: float = 0.0
    allow_changed: bool = False
    disk: Disk = field(default_factory=Disk)
    _last: float = field(default_factory=lambda: time.monotonic())

    @property
    def newest_step(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        places = self._places()
        return int(places[-1].name.removeprefix("step-")) if places else None

    @property
    def on(self) -> bool:
        """Whether any are kept."""
        return self.folder is not None

    def due(self, step: int) -> bool:
        """Whether one should be made after this step."""
        by_steps = self.save_steps is not None and step % self.save_steps == 0
        by_time = self.save_minutes > 0 and time.monotonic() - self._last >= 60 * self.save_minutes
        return self.on and (by_steps or by_time)

    def check_space(self, size: int) -> None:
        """Refuse a disk that the checkpoints of this run will not fit on.

        Args:
            size: of one, in bytes.

        Raises:
            RunError: with the bytes that are needed and free.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        needed = size * (KEPT + 1 - len(self._places()))
        if free < needed:
            raise RunError(
                f"{self.folder}: the checkpoints of this run need {needed:,} bytes, {free:,} are free",
                mend="Free some space, or choose another --out.",
            )

    def save(self, taken: Snapshot, made_of: dict[str, Any]) -> None:
        """Write a checkpoint, then remove what it makes superfluous.

        Args:
            taken: the state.
            made_of: what the run is made of; `newest` compares it.

        Raises:
            OSError: it could not be written; those before are untouched.
        """
        if self.folder is None:
            return
        disk, place = self.disk, self.folder / f"step-{taken.step:08d}"
        if place.exists():
            return
        self._sweep(".partial-*")
        partial = self.folder / f".partial-{taken.step:08d}"
        disk.make(partial)
        try:
            state = {"format": FORMAT, "made_of": made_of, **taken.values}
            contents = {TENSORS: bytes_of(taken.tensors), STATE: json.dumps(state, allow_nan=False).encode()}
            listed = {name: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in contents.items()}
            contents[MANIFEST] = json.dumps({"format": FORMAT, "files": listed}).encode()
            for name, content in contents.items():
                disk.write(partial / name, content)
                disk.sync(partial / name)
            disk.sync(partial)
            disk.rename(partial, place)
            disk.sync(self.folder)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._last = time.monotonic()
        for old in self._places()[:-KEPT]:
            self._remove(old)
        self._sweep(".removed-*")

    def save_or_warn(self, taken: Snapshot, made_of: dict[str, Any]) -> None:
        """`save`, but where it fails the run goes on: the checkpoint before is there, and the next may succeed."""
        try:
            self.save(taken, made_of)
        except OSError as error:
            self._last = time.monotonic()
            warn(f"no checkpoint at step {taken.step}: {self._reason(error, taken)}; the one before is kept")

    def save_or_fail(self, taken: Snapshot, made_of: dict[str, Any]) -> None:
        """`save`, as the last thing before the run ends.

        Raises:
            RunError: it could not be written.
        """
        try:
            self.save(taken, made_of)
        except OSError as error:
            raise RunError(
                f"{self.folder}: no checkpoint at step {taken.step}: {self._reason(error, taken)}",
                mend="Free some space and start the same command again: it goes on from the checkpoint before.",
            ) from None

    def newest(self, made_of: dict[str, Any] | None) -> Snapshot | None:
        """The newest whole checkpoint; damaged ones are named in a warning and passed over.

        Args:
            made_of: what the run is made of now; None: nothing goes on from it, so that it does not matter.

        Returns:
            None where there is none. ``values["changes"]`` lists what has changed and was allowed.

        Raises:
            InputError: it belongs to a run made of something else, and ``allow_changed`` is not set.
        """
        if self.folder is None or not self.folder.is_dir():
            return None
        for place in reversed(self._places()):
            try:
                taken, before = _read(place)
            except _DamagedError as error:
                warn(f"{place}: damaged ({error}); it is not used")
                aside = place.with_name(f"damaged-{place.name}")  # or it would count as one that is kept
                shutil.rmtree(aside, ignore_errors=True)
                place.replace(aside)
                continue
            if made_of is not None:
                taken.values["changes"] = self._compared(before, made_of, place)
                say(f"going on from step {taken.step} ({place})")
            return taken
        return None

    def compare(self, made_of: dict[str, Any]) -> None:
        """Refuse to go on from what was made of something else, before anything is begun.

        Args:
            made_of: as of `newest`, as far as it is known.

        Raises:
            InputError: as `newest`.
        """
        for place in reversed(self._places()) if self.folder is not None and self.folder.is_dir() else ():
            try:
                before = _read(place)[1]
            except _DamagedError:
                continue  # `newest` says so
            self._compared({name: value for name, value in before.items() if name in made_of}, made_of, place)
            return

    def _compared(self, before: dict[str, Any], now: dict[str, Any], place: Path) -> list[str]:
        changes = [
            f"{name}: was {before.get(name)}, is {now.get(name)}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        serious = [change for change in changes if not change.startswith(_HARMLESS)]
        if any(change.startswith(_OF_THE_SHAPE) for change in serious):
            raise InputError(
                f"{place.parent.parent}: the run that was stopped here was made of something else",
                serious,
                "Put it back or choose another --out: its state fits no other base model or adapter.",
            )
        for change in changes:
            if change not in serious:
                warn(f"resumed on something else, so that the result is not the same to the last bit: {change}")
        if serious and not self.allow_changed:
            raise InputError(
                f"{place.parent.parent}: the run that was stopped here was made of something else",
                serious,
                "Put it back, choose another --out, or go on all the same with --allow-changed.",
            )
        return changes

    def _places(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder else []

    def _remove(self, place: Path) -> None:
        """In two steps: half a checkpoint must not look like a damaged one."""
        gone = place.with_name(f".removed-{place.name}")
        self.disk.rename(place, gone)
        self.disk.remove(gone)

    def _sweep(self, pattern: str) -> None:
        for left in sorted(self.folder.glob(pattern)) if self.folder else []:
            self.disk.remove(left)

    def _reason(self, error: OSError, taken: Snapshot) -> str:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and self.folder is not None:
            needed = sum(tensor.numel() * tensor.element_size() for tensor in taken.tensors.values())
            return f"the disk is full ({needed:,} bytes needed, {shutil.disk_usage(self.folder).free:,} free)"
        return error.strerror or str(error)


#: What the tensors of a checkpoint have their shapes from.
_OF_THE_SHAPE = ("adapter's", "base model")

#: What may differ without being refused: the result is a good one, only not the same to the last bit.
_HARMLESS = ("version of", "threads", "processor", "ranks:")


def _read(place: Path) -> tuple[Snapshot, dict[str, Any]]:
    """The checkpoint there, and what its run was made of.

    Raises:
        _DamagedError: a file is missing, or not what the manifest says.
    """
    try:
        files = json.loads((place / MANIFEST).read_text(encoding="utf-8"))["files"]
        contents = {}
        for name in (TENSORS, STATE):
            contents[name] = (place / name).read_bytes()
            if len(contents[name]) != files[name]["bytes"]:
                raise _DamagedError(f"{name} has {len(contents[name]):,} bytes, expected {files[name]['bytes']:,}")
            if hashlib.sha256(contents[name]).hexdigest() != files[name]["sha256"]:
                raise _DamagedError(f"{name} is not what was written")
        state = json.loads(contents[STATE])
        if state.pop("format") != FORMAT:
            raise _DamagedError("written by another version of seqtune")
        made_of = state.pop("made_of")
        return Snapshot(state["state"]["step"], tensors_of(contents[TENSORS]), state), made_of
    except FileNotFoundError as error:
        raise _DamagedError(f"{Path(error.filename).name} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _DamagedError(f"{type(error).__name__}: {error}") from None
