"""Where an export is put: checked before anything is computed, written whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seqtune import run
from seqtune.errors import InputError, RunError

#: What makes a folder an export; written last.
MANIFEST = "export.json"


def check(out: str | Path, overwrite: bool) -> None:
    """Refuse a place where an export can't be put. Leaves nothing behind.

    Raises:
        InputError: a name with ``..`` or a NUL in it, one that not every system can have, a link, or a place that is
            taken by something else than an export that may be replaced.
    """
    text = str(out)
    if "\0" in text:
        raise InputError("the place of the export holds a NUL, which no file name can", mend="Choose another --out.")
    path = Path(out)
    if ".." in path.parts:
        raise InputError(f"{path}: leads back with ..", mend="Name the folder itself with --out.")
    if path.is_dir() and not path.is_symlink() and is_replaceable(path):
        if any(path.iterdir()) and not overwrite:
            raise InputError(
                f"{path}: an export is already there", mend="Choose another --out, or pass --overwrite to replace it."
            )
        path = _beside(path, "new")  # its own name was fine once; can one beside it be written?
    for folder in (path, *path.absolute().parents):
        if not folder.exists() or (folder.is_symlink() and folder == path):
            run.check_destination(folder, overwrite=False)
    if path.exists():
        raise InputError(f"{path}: already there, and no export", mend="Choose another --out.")


def is_replaceable(path: Path) -> bool:
    """Whether ``overwrite`` may replace what is there: an export or an empty folder."""
    return (path / MANIFEST).is_file() or not any(path.iterdir())


@contextmanager
def publishing(out: str | Path, overwrite: bool) -> Iterator[Path]:
    """A folder to fill; when the block ends without an error it is at ``out``, whole, in one rename.

    Raises:
        RunError: the disk is full, or the place has been taken or become unwritable; what was there is still there.
    """
    out = Path(out)
    whole, old = _beside(out, "whole"), _beside(out, "old")
    with run.publishing(whole, overwrite=False) as staging:
        yield staging
        if not (staging / MANIFEST).is_file():
            raise RunError(f"{out}: the export is not whole")
    try:
        if out.is_dir() and is_replaceable(out) and (overwrite or not any(out.iterdir())):
            out.rename(old)
        try:
            whole.rename(out)
        except BaseException:  # whatever came between the two: what was there goes back to its place
            if old.exists():
                old.rename(out)
            raise
    except OSError as error:
        shutil.rmtree(whole, ignore_errors=True)
        raise RunError(f"{out}: can't be written ({error.strerror})", mend="Choose another --out.") from None
    shutil.rmtree(old, ignore_errors=True)


def _beside(out: Path, what: str) -> Path:
    """A hidden place beside it that nobody else has, whatever a kill has left there before."""
    return out.with_name(f".{out.name}-{secrets.token_hex(4)}.{what}")
