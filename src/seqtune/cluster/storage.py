"""A run's checkpoints behind a URI (``s3://bucket/runs/support``), for a cluster whose machines share no disk.

The first worker writes its checkpoints to a folder of its own, and copies each one here; workers that are started again
fetch them, and so does the command itself when the training has ended, however it did. What reaches the URI is a
checkpoint's three files, its manifest last: without one it does not count.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pyarrow as pa
from pyarrow import fs

from seqtune.engine.checkpoint import MANIFEST, Checkpoints
from seqtune.engine.state import Snapshot
from seqtune.errors import InputError

#: Where Ray Train keeps what it keeps.
RAYS_OWN = "ray"


def with_endpoint(uri: str) -> str:
    """The URI with the S3 server that ``AWS_ENDPOINT_URL`` names, for workers that do not have this environment."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not endpoint or "endpoint_override" in parts.query:
        return uri
    server = urlsplit(endpoint)
    query = urlencode({"endpoint_override": server.netloc, "scheme": server.scheme})
    return parts._replace(query="&".join(filter(None, (parts.query, query)))).geturl()


class Storage:
    """The place behind a URI.

    Args:
        uri: one that pyarrow knows (``s3://``, ``gs://``, ``hdfs://``, ``file://``), or fsspec, where what it needs
            is installed.

    Attributes:
        files: pyarrow's file system.
        root: the place in it.

    Raises:
        InputError: nobody knows such a URI.
    """

    def __init__(self, uri: str):
        self.uri = uri
        if "://" not in uri:  # a path would be another one on each machine
            raise InputError(
                f"storage = {uri!r}   expected a URI", mend="For instance s3://BUCKET/PLACE or file:///PLACE."
            )
        try:
            self.files, root = fs.FileSystem.from_uri(uri)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            self.files, root = _by_fsspec(uri)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{uri}: can't be reached", [str(error)[:300]]) from None
        self.root = root.rstrip("/")

    def check(self) -> None:
        """Make the place where it is not there.

        Raises:
            InputError: it can't be reached, or not be written.
        """
        try:
            self.files.create_dir(self.root, recursive=True)
            with self.files.open_output_stream(f"{self.root}/.writable") as file:
                file.write(b"")
            self.files.delete_file(f"{self.root}/.writable")
        except OSError as error:
            mend = "The bucket must be there; its keys and server come from AWS_… in the environment."
            raise InputError(f"{self.uri}: can't be written", [str(error)[:300]], mend) from None

    def names(self) -> list[str]:
        """Of the whole checkpoints, the oldest first."""
        found = self.files.get_file_info(fs.FileSelector(self.root, recursive=True, allow_not_found=True))
        parts = [each.path.removeprefix(f"{self.root}/").split("/") for each in found]
        return sorted(each[0] for each in parts if each[0].startswith("step-") and each[1:] == [MANIFEST])

    def put(self, place: Path) -> None:
        """Copy a checkpoint here."""
        there = f"{self.root}/{place.name}"
        self.files.create_dir(there, recursive=True)
        for path in sorted(place.iterdir(), key=lambda path: path.name == MANIFEST):
            with self.files.open_output_stream(f"{there}/{path.name}") as file:
                file.write(path.read_bytes())

    def put_newest(self, folder: Path) -> None:
        """Copy the newest checkpoint of the folder here, where it is newer than those that are here."""
        newest = max(folder.glob("step-*"), default=None)
        if newest is not None and newest.name > max(self.names(), default=""):
            self.put(newest)

    def fetch(self, folder: Path) -> list[str]:
        """Copy the checkpoints that are here and newer than those of the folder into it; returns their names."""
        fetched: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        newest = max((path.name for path in folder.glob("step-*")), default="")
        for name in self.names():
            if name <= newest:
                continue
            partial = folder / f".partial-{name}"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for each in self.files.get_file_info(fs.FileSelector(f"{self.root}/{name}")):
                with self.files.open_input_stream(each.path) as file:
                    (partial / each.base_name).write_bytes(file.read())
            partial.replace(folder / name)
            fetched.append(name)
        return fetched

    def keep_only(self, names: set[str]) -> None:
        """Remove the other checkpoints."""
        for name in set(self.names()) - names:
            self.files.delete_file(f"{self.root}/{name}/{MANIFEST}")  # first: half a checkpoint must not count
            self.files.delete_dir(f"{self.root}/{name}")

    def clear(self) -> None:
        """Remove what a run has left here, and nothing that others have."""
        self.keep_only(set())
        for each in self.files.get_file_info(fs.FileSelector(self.root, allow_not_found=True)):
            if each.base_name == RAYS_OWN or each.base_name.startswith("step-"):  # of a checkpoint that is not whole
                self.files.delete_dir(each.path)


@dataclass
class StoredCheckpoints(Checkpoints):
    """`Checkpoints` in a folder of this machine, each copied to a storage.

    Attributes:
        storage: the place they are copied to.
    """

    storage: Storage | None = None

    def save(self, taken: Snapshot, made_of: dict[str, Any]) -> None:
        """Write a checkpoint, copy it, then remove what it makes superfluous there."""
        super().save(taken, made_of)
        if self.storage is not None and self.folder is not None:
            places = self._places()
            self.storage.put(places[-1])
            self.storage.keep_only({place.name for place in places})


def _by_fsspec(uri: str) -> tuple[fs.FileSystem, str]:
    import fsspec

    try:
        found, root = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise InputError(f"storage = {uri!r}: {error}", mend="For instance s3://BUCKET/PLACE.") from None
    return fs.PyFileSystem(fs.FSSpecHandler(found)), root
