"""The run directory and its manifest: what training hands on, how a run is published, how it is read again.

```
run.json            settings, data, base model, versions, training, metrics, verdict
adapter/            the best adapter in PEFT's own format, with the tokenizer
predictions/        validation.jsonl, hold_out.jsonl; while_training.jsonl of a run that was looked at (`--live`)
splits.json         the numbers of each set's rows in their file
log.jsonl           one line per step
report.html         one file, no network
rejects.jsonl       rows that were left out and why; only where there are any
```

A run directory is whole or absent: it is written beside its place and moved there, ``run.json`` last. While training is
at work, or was stopped, there is no ``run.json`` but ``checkpoints/`` (`seqtune.claim`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seqtune.durable import Disk
from seqtune.errors import InputError, RunError

MANIFEST = "run.json"
ADAPTER = "adapter"
LOG = "log.jsonl"
REPORT = "report.html"
REJECTS = "rejects.jsonl"
PREDICTIONS = "predictions"
SPLITS = "splits.json"
CHECKPOINTS = "checkpoints"

#: In `CHECKPOINTS`: the settings that were given, and the digest of the run's manifest that is to be replaced.
INPUTS = "inputs.json"
#: In `CHECKPOINTS`: held by the process that is at work.
LOCK = "lock"

#: In `CHECKPOINTS`, and in `PREDICTIONS` when the run is done: answers to a few questions at every measurement.
ANSWERS = "while_training.jsonl"

#: Version of the layout of `run.json`; a reader refuses a newer one.
FORMAT = 1


@dataclass(frozen=True)
class TrainedAdapter:
    """What training returns: where the adapter lies and what it is, never a live model.

    ``training`` and ``log`` are None for an adapter that was trained elsewhere.
    """

    path: str
    sha256: str
    base_model_id: str
    base_model_revision: str | None
    base_model_sha256: str
    training: dict[str, Any] | None
    log: list[dict[str, Any]] | None

    def is_intact(self) -> bool:
        """Whether the files are still there and still what they were."""
        try:
            return adapter_sha256(Path(self.path)) == self.sha256
        except FileNotFoundError:
            return False


def adapter_sha256(folder: Path) -> str:
    """Digest of an adapter's weights and configuration (SHA-256, hexadecimal).

    Raises:
        FileNotFoundError: one of the two files is missing.
    """
    digest = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


class Run:
    """A finished run directory, read lazily.

    Args:
        path: the run directory.

    Raises:
        InputError: it is no run directory, or was written by a newer seqtune.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if is_unfinished(self.path) and not (self.path / MANIFEST).is_file():
            raise InputError(f"{self.path}: this run is not finished", mend=f"`{how_to_resume(self.path)}` goes on.")
        if not (self.path / MANIFEST).is_file():
            raise InputError(
                f"{self.path}: no run directory ({MANIFEST} is missing)", mend="`seqtune finetune` makes one."
            )
        try:
            self.manifest: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            written_by = int(self.manifest["format"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path / MANIFEST}: damaged ({error})", mend="Make the run again.") from None
        if written_by > FORMAT:
            raise InputError(
                f"{self.path / MANIFEST}: written by a newer seqtune (format {written_by}, this one reads {FORMAT})",
                mend="pip install --upgrade seqtune",
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, verdict={self.verdict!r})"

    @property
    def adapter(self) -> Path:
        """The folder of the adapter and the tokenizer."""
        return self.path / ADAPTER

    @property
    def metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """``metrics[split][model][name]``: split validation or hold_out, model base or tuned."""
        return self.manifest["metrics"]

    @property
    def verdict(self) -> str:
        """better, no clear difference or worse: the tuned model against the base on the hold-out rows."""
        return self.manifest["verdict"]["verdict"]

    @cached_property
    def predictions(self) -> dict[str, list[dict[str, Any]]]:
        """``predictions[split]``: a dict per row with input, reference, base, tuned and scores."""
        folder = self.path / PREDICTIONS
        return {split: read_jsonl(folder / f"{split}.jsonl") for split in ("validation", "hold_out")}

    @cached_property
    def log(self) -> list[dict[str, Any]] | None:
        """The training log, a dict per step; None where the adapter was trained elsewhere."""
        return read_jsonl(self.path / LOG) if (self.path / LOG).is_file() else None


def answers_while_training(folder: Path) -> list[dict[str, Any]]:
    """What a model answered as it learned (`ANSWERS`): ``step``, ``validation_loss`` and ``answers`` of each time."""
    return read_jsonl(folder / ANSWERS) if (folder / ANSWERS).is_file() else []


def open_saved(adapter_path: str | Path) -> dict[str, Any]:
    """What is known of a saved adapter: a run directory of ours, or an adapter folder in PEFT's format.

    Returns:
        ``adapter`` (its folder), ``manifest`` and ``log`` (both None for an adapter that was trained elsewhere).

    Raises:
        InputError: it is neither.
    """
    path = Path(adapter_path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder", mend="--adapter-path takes a run directory or an adapter folder.")
    if path.name == ADAPTER and (path.parent / MANIFEST).is_file():
        path = path.parent
    if (path / MANIFEST).is_file() or is_unfinished(path):
        run = Run(path)
        return {"adapter": str(run.adapter), "manifest": run.manifest, "log": run.log}
    return {"adapter": str(path), "manifest": None, "log": None}


def answering(saved_run: dict[str, Any], *, base: bool = False) -> dict[str, Any]:
    """The settings of a saved run (`open_saved`), for its model to answer by; or for its base model.

    Where answers in bf16 were found too far from those in fp32, ``answer_precision`` is no longer ``auto``. (Where they
    were never compared, for the machine has no units for bf16, it is.)
    """
    manifest = saved_run["manifest"] or {}
    settings = dict(manifest.get("settings") or {})
    found = (manifest.get("derived") or {}).get("answer_precision") or {}
    found = (found.get("base") or {}) if base else found
    if settings.get("answer_precision") == "auto" and found.get("value") == "fp32" and "rougeL" in found:
        settings["answer_precision"] = "fp32"
    return settings


def saved_precision(saved_run: dict[str, Any]) -> dict[str, str]:
    """``value`` and ``reason`` of the arithmetic that a saved adapter was trained with (`open_saved`)."""
    manifest = saved_run["manifest"]
    return manifest["derived"]["precision"] if manifest else {"value": "unknown", "reason": "trained elsewhere"}


def free_directory(data_path: str, parent: Path = Path("runs")) -> Path:
    """``runs/NAME-OF-THE-FILE``, with a number behind it where that is taken."""
    stem = re.sub(r"[^\w.-]+", "-", Path(data_path.rstrip("/")).name.split(".")[0]).strip("-.") or "run"
    return _first_free(parent / stem)


def check_destination(out: str | Path, overwrite: bool) -> None:
    """Refuse a place where a run can't be written, before any work is done. Leaves nothing behind.

    Raises:
        InputError: the place is taken (and ``overwrite`` is not set), is no run directory, can't be written, is a link,
            or has a name that not every system can have.
    """
    out = Path(out)
    name = out.absolute().name
    if name.split(".")[0].upper() in _RESERVED or name != name.rstrip(". ") or not name.isprintable():
        raise InputError(f"{out}: no name for a folder on every system", mend="Choose another --out.")
    if out.is_symlink():
        raise InputError(f"{out}: a link", mend=f"Name the folder itself ({out.readlink()}) or choose another --out.")
    if out.exists() and not is_unfinished(out):
        if not overwrite:
            raise InputError(f"{out}: already there", mend="Choose another --out, or pass --overwrite to replace it.")
        if not is_replaceable(out):
            raise InputError(
                f"{out}: is no run directory, so --overwrite does not replace it", mend="Choose another --out."
            )
    existing = next(folder for folder in out.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=f".{out.name}-", suffix=".partial"):
            pass
    except OSError as error:
        raise InputError(
            f"{out}: can't be written ({error.strerror} in {existing})", mend="Choose another --out."
        ) from None


#: Names that Windows keeps for devices.
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10))}


@contextmanager
def publishing(out: str | Path, overwrite: bool) -> Iterator[Path]:
    """A folder to fill; when the block ends without an error it is at ``out``, whole, in one rename.

    Where an unfinished run lies at ``out``, its parts are moved there one by one, ``run.json`` last: until then the run
    can go on.

    Raises:
        RunError: the disk is full or the place has become unwritable; what was at ``out`` is still there.
    """
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-", suffix=".partial"))
    except OSError as error:
        raise RunError(f"{out}: can't be written ({error.strerror})", mend="Choose another --out.") from None
    try:
        yield staging
        mask = _umask()  # some writers make their files for the owner alone; a run is as open as any new folder
        for path in [staging, *staging.rglob("*")]:
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
            Disk().sync(path)
        if is_unfinished(out):
            _move_in(staging, out)
        elif overwrite and out.exists():
            old = staging.with_suffix(".old")
            out.rename(old)
            try:
                staging.rename(out)
            except BaseException:  # whatever came between the two: the old run goes back to its place
                old.rename(out)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            staging.rename(out)
    except OSError as error:
        raise RunError(
            f"{out}: can't be written ({error.strerror})", mend="Free some space or choose another --out."
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def place_for(out: str | Path, overwrite: bool) -> Path:
    """``out`` itself, or the first free name after it where something is there that may not be replaced.

    A finished training is never thrown away because its place was taken; and nothing but a run is ever replaced.
    """
    out = Path(out)
    return out if not out.exists() or is_unfinished(out) or (overwrite and is_replaceable(out)) else _first_free(out)


def is_unfinished(out: Path) -> bool:
    """Whether a run was begun there and can go on: there are checkpoints, and no run of that beginning is whole."""
    try:
        if not any((out / CHECKPOINTS / name).is_file() for name in (INPUTS, LOCK)):
            return False
        if not (out / MANIFEST).is_file():
            return True
        begun = json.loads((out / CHECKPOINTS / INPUTS).read_text(encoding="utf-8"))
        return begun["replaces"] == file_sha256(out / MANIFEST)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def how_to_resume(out: str | Path) -> str:
    """The command that goes on with the unfinished run there; with several processes, where these share its base."""
    folder, command = Path(out) / CHECKPOINTS, f"seqtune resume {out}"
    try:
        if not json.loads((folder / INPUTS).read_text(encoding="utf-8"))["inputs"].get("shard_base"):
            return command
        state = json.loads((max(folder.glob("step-*")) / "state.json").read_text(encoding="utf-8"))
        processes = state["made_of"]["ranks"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet or damaged: `resume` says more
        return command
    return f"torchrun --nproc-per-node {processes} -m {command}"


def is_finished(out: Path) -> bool:
    """Whether a whole run is there, and none that was begun to replace it."""
    try:
        return (out / MANIFEST).is_file() and not is_unfinished(out)
    except OSError:  # a name that is too long, a folder that may not be looked into: whoever writes will say so
        return False


def file_sha256(path: Path) -> str:
    """Digest of a file (SHA-256, hexadecimal)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_replaceable(path: Path) -> bool:
    """Whether ``overwrite`` may replace what is there: a run directory or an empty folder."""
    return path.is_dir() and ((path / MANIFEST).is_file() or not any(path.iterdir()))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file.

    Raises:
        InputError: it is damaged; names the line.
    """
    rows, whole = [], 0
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    rows.append(json.loads(line))
                whole += 1
    except ValueError as error:  # of the encoding, or of JSON
        raise InputError(f"{path}: damaged (line {whole + 1}: {error})", mend="Make the run again.") from None
    return rows


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write objects as JSON Lines; not-a-number is an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_json(path: Path, content: Any) -> None:
    """Write one JSON document, indented; not-a-number is an error."""
    path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2) + "\n", encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all; what was there is replaced."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _move_in(staging: Path, out: Path) -> None:
    """Everything of ``staging`` to ``out``, in the place of what an older run has there; ``run.json`` last.

    What was there goes to the checkpoints, which go when all is done; where something fails, it comes back.
    """
    disk, aside = Disk(), out / CHECKPOINTS / "replaced"
    parts = [part.name for part in staging.iterdir() if part.name != MANIFEST]
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for name in (MANIFEST, *sorted({ADAPTER, PREDICTIONS, SPLITS, LOG, REPORT, REJECTS, *parts})):
            if (out / name).exists():
                moved.append((out / name, (out / name).rename(aside / name)))
        for name in parts:
            moved.append((staging / name, (staging / name).rename(out / name)))
        disk.sync(out)
        (staging / MANIFEST).rename(out / MANIFEST)
        disk.sync(out)
    except BaseException:
        for before, after in reversed(moved):
            after.rename(before)
        raise


def _first_free(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
