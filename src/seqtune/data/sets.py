"""Data that is no single file: folders written by `datasets.save_to_disk`, and datasets of the Hugging Face hub.

`readers` decides which of these a path is. Code that comes with a dataset is never run: such datasets are refused.

Not covered: configurations (subsets) of a hub dataset other than its default one.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from seqtune.errors import InputError, did_you_mean
from seqtune.progress import say


def is_saved(path: Path) -> bool:
    """Whether the folder was written by `save_to_disk` of a Dataset or a DatasetDict."""
    single = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return single or (path / "dataset_dict.json").is_file()


def identify_folder(path: Path, where: str, dataset_split: str) -> dict[str, Any]:
    """The record of a saved dataset folder, as `readers.identify` returns it.

    Args:
        path: the folder.
        where: the same as the user named it.
        dataset_split: the split wanted, where the folder holds several.

    Raises:
        InputError: the folder lacks the split, or can't be read.
    """
    folder = _split_folder(path, where, dataset_split)
    whole = hashlib.sha256()
    size = 0
    try:
        # cache-*.arrow: what datasets leaves there when somebody maps the dataset; no part of the data.
        for file in sorted(each for each in folder.rglob("*") if each.is_file() and not each.name.startswith("cache-")):
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            whole.update(f"{file.relative_to(folder).as_posix()}\0{digest}\n".encode())
            size += file.stat().st_size
    except OSError as error:
        raise InputError(f"{where}: can't be read: {error.strerror or error}", mend="Change its permissions.") from None
    split = None if folder == path else dataset_split
    return {"path": where, "kind": "folder", "split": split, "sha256": whole.hexdigest(), "bytes": size}


def read_folder(path: Path, where: str, dataset_split: str) -> list[dict]:
    """The rows of a saved dataset folder.

    Raises:
        InputError: no such split, damaged, or without rows.
    """
    import datasets
    import pyarrow

    folder = _split_folder(path, where, dataset_split)
    try:
        rows = datasets.Dataset.load_from_disk(str(folder)).to_list()
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: a damaged dataset folder: {_line(error)}", mend="Save the dataset again.") from None
    return _filled(rows, where)


def hub_revision(dataset_id: str) -> str:
    """The commit that the hub dataset stands at; without the hub, the commit that was downloaded last.

    Raises:
        InputError: no such dataset, no access to it, or no connection and nothing downloaded.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        sha = huggingface_hub.HfApi().dataset_info(dataset_id).sha
        if sha:
            return sha
        reason = "the hub names no commit"
    except errors.GatedRepoError:
        mend = f"Ask for access at https://huggingface.co/datasets/{dataset_id}, then `hf auth login`."
        raise InputError(f"{dataset_id}: a gated dataset of the hub, no access", mend=mend) from None
    except errors.RepositoryNotFoundError:
        mend = "Check the path or id; a private dataset needs `hf auth login`."
        raise InputError(f"{dataset_id}: no such file here and no such dataset on the hub", mend=mend) from None
    except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]  # httpx's, or httpx2's
        reason = _line(error)
    try:
        # Nothing is fetched: this is the folder of the last download, named by its commit.
        return Path(huggingface_hub.snapshot_download(dataset_id, repo_type="dataset", local_files_only=True)).name
    except (errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError, OSError):
        found = f"{dataset_id}: no such file here, and the hub can't be reached"
        mend = "Check the path, give a file on this machine, or connect to the network once and run this again."
        raise InputError(found, [f"reason: {reason}"], mend) from None


def read_hub(dataset_id: str, revision: str, dataset_split: str) -> list[dict]:
    """The rows of a hub dataset at a commit, downloaded once.

    Raises:
        InputError: no such split, several configurations, code to run, or the download fails.
    """
    import datasets
    import datasets.exceptions
    import huggingface_hub
    from huggingface_hub import errors

    transport = errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]  # httpx's, or httpx2's
    theirs = datasets.utils.logging
    verbosity = theirs.get_verbosity()
    theirs.set_verbosity_error()
    try:
        dataset: Any = datasets.load_dataset(dataset_id, split=dataset_split, revision=revision)
        # Where anything goes wrong, load_dataset takes what it read last, whatever revision it was asked for.
        files = [each["filename"] for each in dataset.cache_files]
        if files and not any(revision in Path(each).parts for each in files):
            raise ValueError(f"commit {revision[:8]} can't be had; only another one has been read before")
        rows = dataset.to_list()
    except (datasets.exceptions.DatasetsError, transport, OSError, ValueError, RuntimeError) as error:
        mend = "Name a split with --dataset-split, or download the data and give the file."
        raise InputError(f'{dataset_id}: split "{dataset_split}" can\'t be read: {_line(error)}', mend=mend) from None
    finally:
        theirs.set_verbosity(verbosity)
    # load_dataset does not note which commit the main branch stood at, which `hub_revision` needs without the hub.
    with contextlib.suppress(transport, OSError):
        huggingface_hub.hf_hub_download(dataset_id, "README.md", repo_type="dataset")
    say(f"{dataset_id}: split {dataset_split} at commit {revision[:8]}")
    return _filled(rows, dataset_id)


def _split_folder(path: Path, where: str, dataset_split: str) -> Path:
    """The folder that holds the rows: `path`, or one split of a DatasetDict. Raises InputError without that split."""
    if not (path / "dataset_dict.json").is_file():
        return path
    splits = sorted(each.parent.name for each in path.glob("*/state.json"))
    if dataset_split in splits:
        return path / dataset_split
    hint = did_you_mean(dataset_split, splits)
    mend = f"Name one of them with --dataset-split; {hint}" if hint else "Name one of them with --dataset-split."
    raise InputError(f'{where}: no split "{dataset_split}"; it has: {", ".join(splits)}', mend=mend)


def _filled(rows: list[dict], where: str) -> list[dict]:
    if not rows:
        raise InputError(f"{where}: a dataset without rows", mend="Give a dataset with question–answer rows.")
    return rows


def _line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
