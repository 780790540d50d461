"""Files that are still there after a crash.

What a save is made of: write, sync, rename, remove. They go through one object, so that tests can stop the process
between any two of them, or forget what was not synced. A file counts as written when it is synced, a name when its
folder is (POSIX, fsync(2)).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path


class Disk:
    """The operations on a real disk."""

    def make(self, folder: Path) -> None:
        """Make an empty folder, its parents too."""
        folder.mkdir(parents=True)

    def write(self, path: Path, content: bytes) -> None:
        """Write a new file; it is safe after `sync`."""
        with path.open("xb") as file:
            file.write(content)

    def sync(self, path: Path) -> None:
        """Have a file's content, or a folder's names, on the disk before going on."""
        if os.name == "nt" and path.is_dir():  # Windows syncs no folders
            return
        is_folder = path.is_dir()
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            _flush(handle)
        except OSError as error:  # file systems that sync no folders
            if not is_folder or error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
                raise
        finally:
            os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder its final name, in one step; a file of that name is replaced."""
        old.replace(new)

    def remove(self, folder: Path) -> None:
        """Remove a folder and what is in it."""
        shutil.rmtree(folder)


def _flush(handle: int) -> None:
    """fsync; on macOS, where that leaves the drive's own cache as it is, the stronger call."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        if hasattr(fcntl, "F_FULLFSYNC"):
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
            return
    os.fsync(handle)


class QuickDisk(Disk):
    """The same without waiting for the disk; for measuring what waiting costs."""

    def sync(self, path: Path) -> None:
        """Do nothing."""


def cache_folder() -> Path:
    """What can be made again lies in ``$XDG_CACHE_HOME/seqtune``, or ``~/.cache/seqtune``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqtune"
