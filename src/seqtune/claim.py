"""The place of a run that is not finished: one process at a time, and what is needed to go on.

While a run is at work its directory holds ``checkpoints/`` and no ``run.json``:

```
checkpoints/
  inputs.json         the settings that were given, for `seqtune resume`
  lock, holder.json   which process is at work here
  step-00000120/      see `seqtune.engine.checkpoint`
```

The lock is the operating system's, so that a process that was killed holds none.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from seqtune import run
from seqtune.data import shards
from seqtune.durable import Disk
from seqtune.errors import InputError
from seqtune.progress import say
from seqtune.settings import DEFAULT, knobs

HOLDER = "holder.json"

#: Settings that say where and how a run is kept, not what comes out of it.
OF_KEEPING = (
    "out",
    "overwrite",
    "work_dir",
    "report_text",
    "save_steps",
    "save_minutes",
    "checkpoints_path",
    "allow_changed",
    "auto_batch",
)


#: Settings that may be a folder or a name of the hub.
_MODELS = ("model_id", "model_id_tokenizer", "similarity_model")


@contextmanager
def claimed(out: str | Path, inputs: Mapping[str, Any]) -> Iterator[Path]:
    """Hold the place of a run; yields the folder of its checkpoints.

    Where the block fails before a checkpoint was made, nothing is left behind.

    Args:
        out: the run directory.
        inputs: the settings that were given; kept for `inputs_of`.

    Raises:
        InputError: another process is at work there, the place can't be written or has been taken meanwhile, or the run
            that was stopped there was begun with other settings (and ``allow_changed`` is not among them).
    """
    out = Path(out)
    folder = out / run.CHECKPOINTS
    made = [each for each in (out, *out.parents) if not each.exists()]
    given = {name: absolute(name, value) for name, value in inputs.items() if value is not None}
    lock = _locked(out, folder)
    try:
        try:
            _begin(out, folder, given)
        except OSError as error:
            raise InputError(f"{out}: can't be written ({error.strerror})", mend="Choose another --out.") from None
        yield folder
    finally:
        whole = (out / run.MANIFEST).is_file() and not run.is_unfinished(out)
        if whole or not any(folder.glob("step-*")):  # all but the lock while it is held
            for left in [*folder.glob("*"), *folder.glob(".*")]:
                if left.name != run.LOCK:
                    shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
            (folder / run.LOCK).unlink(missing_ok=True)
        lock.release()
        for empty in (folder, *made):
            if empty.is_dir() and not any(empty.iterdir()):
                empty.rmdir()


def inputs_of(out: str | Path) -> dict[str, Any]:
    """The settings that the unfinished run there was started with.

    Raises:
        InputError: there is none, or its file is damaged.
    """
    path = Path(out) / run.CHECKPOINTS / run.INPUTS
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))["inputs"], "out": str(out)}
    except FileNotFoundError:
        raise InputError(f"{out}: no run that was stopped", mend="`seqtune finetune` starts one.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: damaged ({error})", mend="Start the run's own `seqtune finetune` command again: it goes on."
        ) from None


def place(inputs: Mapping[str, Any]) -> str:
    """``out`` of the settings; where it is not given, the folder of the same run, if one was stopped, or a free one."""
    if inputs.get("out"):
        return str(inputs["out"])
    free = run.free_directory(inputs["data_path"])
    stem = free.name.rsplit("-", 1)[0] if free.name.rsplit("-", 1)[-1].isdigit() else free.name
    for before in sorted(free.parent.glob(f"{stem}*")) if free.parent.is_dir() else []:
        if run.is_unfinished(before) and not _differences_of_inputs(before, inputs) and not _is_locked(before):
            return str(before)
    return str(free)


def finished(inputs: Mapping[str, Any]) -> run.Run | None:
    """The run at ``out``, if it is finished and was made with these settings; making it again would change nothing.

    Raises:
        InputError: a finished run of other settings or data is there, and is not to be overwritten.
    """
    out = inputs.get("out")
    if not out or inputs.get("overwrite") or not run.is_finished(Path(out)):
        return None
    there = run.Run(out)
    wanted = {**DEFAULT.model_dump(), **inputs}
    if wanted["shard_base"]:
        wanted["engine"] = "reference"  # as `engine.sharding.settled`, whatever was asked for
    saved = there.manifest["settings"]
    other = [
        f"{name}: was {saved[name]}, now {wanted[name]}"
        for name in saved
        if name in wanted and name not in OF_KEEPING and not _same(name, wanted[name], saved[name])
    ]
    for name, source in there.manifest["data"]["sources"].items():
        path = Path(source["path"])
        now = sha256_of(path, source.get("kind") == "shards")
        if now is not None and source.get("sha256") not in (None, now):
            other.append(f"{name}: {path} has changed since")
    if other:
        mend = "Choose another --out, or pass --overwrite to replace it."
        raise InputError(f"{out}: already there, a finished run of something else", other, mend)
    say(f"{out}: this run is finished; nothing is done again")
    return there


def sha256_of(path: Path, is_folder_of_shards: bool) -> str | None:
    """Of a file, or of all shards in a folder (names and contents); None of anything else."""
    if is_folder_of_shards and path.is_dir():
        return shards.identify(str(path))["sha256"]
    return run.file_sha256(path) if path.is_file() else None


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, old and new value of what is not the same; nested mappings are compared inside."""
    found: list[tuple[str, Any, Any]] = []
    for name in sorted({*before, *after}):
        a, b = before.get(name), after.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += [(f"{name}.{inner}", x, y) for inner, x, y in differences(a, b)]
        elif a != b:
            found.append((name, a, b))
    return found


def outcome(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What of a manifest came out of the run: the adapter's digest, and the metrics."""
    return {"adapter": manifest["adapter"]["sha256"], "metrics": manifest["metrics"]}


def origin(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What of a manifest the outcome depends on."""
    names = ("settings", "versions", "machine", "base_model")
    data = {name: manifest["data"][name] for name in ("sources", "splits", "split_sha256") if name in manifest["data"]}
    return {**{name: manifest[name] for name in names}, "data": data}


def how_to_go_on(out: str | Path) -> str:
    """What to tell somebody whose run was stopped."""
    steps = sorted((Path(out) / run.CHECKPOINTS).glob("step-*"))
    if not steps:
        return "nothing was delivered"
    return f"step {int(steps[-1].name.removeprefix('step-'))} is saved. `{run.how_to_resume(out)}` goes on from there"


def _locked(out: Path, folder: Path) -> BaseFileLock:
    """The lock of the place, held."""
    for _ in range(10):  # whoever ends takes the folder away: then there is nothing to hold
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / run.LOCK)
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{out}: process {_holder(folder)} is at work here", mend="Wait for it, or choose another --out."
            ) from None
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"{out}: can't be written ({error.strerror})", mend="Choose another --out.") from None
        if (folder / run.LOCK).exists():
            return lock
        lock.release()
    raise InputError(f"{out}: others begin and end here all the time", mend="Choose another --out.")


def _begin(out: Path, folder: Path, given: Mapping[str, Any]) -> None:
    """Write down who is at work, and with what; unless a run goes on that was begun with the same."""
    if run.is_finished(out) and not given.get("overwrite"):
        raise InputError(f"{out}: already there", mend="Choose another --out, or pass --overwrite to replace it.")
    run.write_json(folder / HOLDER, {"process": os.getpid(), "host": platform.node()})
    goes_on = run.is_unfinished(out) and any(folder.glob("step-*"))
    if goes_on and (other := _differences_of_inputs(out, given)) and not given.get("allow_changed"):
        mend = "Give the same, choose another --out, or go on all the same with --allow-changed."
        raise InputError(f"{out}: the run that was stopped here was begun with other settings", other, mend)
    if not goes_on:
        for left in [*folder.glob("*step-*"), *folder.glob(".partial-*"), *folder.glob(".removed-*")]:
            shutil.rmtree(left)
    disk, partial = Disk(), folder / f".{run.INPUTS}"
    replaces = run.file_sha256(out / run.MANIFEST) if (out / run.MANIFEST).is_file() else None
    run.write_json(partial, {"inputs": dict(given), "replaces": replaces})
    disk.sync(partial)
    disk.rename(partial, folder / run.INPUTS)
    for each in (folder, out, out.absolute().parent):
        disk.sync(each)


def _differences_of_inputs(out: Path, inputs: Mapping[str, Any]) -> list[str]:
    """What the run that was stopped there was begun with and is not given now, or the other way round."""
    try:
        before = inputs_of(out)
    except InputError:
        return ["the settings that it was begun with can't be read"] if run.is_finished(out) else []
    default = DEFAULT.model_dump()
    now = {name: absolute(name, value) for name, value in inputs.items() if value is not None}
    return [
        f"{name}: was {before.get(name, default.get(name))}, now {now.get(name, default.get(name))}"
        for name in knobs()
        if name not in OF_KEEPING and before.get(name, default.get(name)) != now.get(name, default.get(name))
    ]


def absolute(name: str, value: Any) -> Any:
    """The value of a setting; files and folders as they are called from everywhere."""
    is_place = name.endswith(("_path", "_dir")) or name in _MODELS
    return str(Path(value).absolute()) if is_place and value is not None and Path(value).exists() else value


def _same(name: str, wanted: Any, saved: Any) -> bool:
    """Whether a knob's value comes to what a manifest says of it; derived ones do."""
    if wanted in (None, "auto") or wanted == saved or name == "model_revision":
        return True
    return isinstance(saved, str) and Path(str(wanted)).absolute() == Path(saved).absolute()


def _is_locked(out: Path) -> bool:
    try:
        with FileLock(out / run.CHECKPOINTS / run.LOCK).acquire(timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        here = holder["host"] == platform.node()
        return f"{holder['process']}" + ("" if here else f" of {holder['host']}")
    except (OSError, ValueError, KeyError, TypeError):
        return "(unknown)"
