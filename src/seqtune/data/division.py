"""The sets of a run: divided anew, or as the saved run divided them.

`splits` says how rows are divided; here stands which rows, by which settings, of which run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from seqtune.data.checks import sample_rows
from seqtune.data.splits import Splits, with_new_files, with_own_files
from seqtune.errors import InputError
from seqtune.progress import warn

if TYPE_CHECKING:
    from datasets import Dataset


def made(clean_rows: Mapping[str, Dataset], settings: Mapping[str, Any]) -> Splits:
    """The division of clean rows (``data``, and own ``validation`` and ``hold_out`` rows where there are any).

    Args:
        clean_rows: the rows of each file.
        settings: the knobs of the group ``data``.
    """
    rows = sample_rows(clean_rows["data"], settings["max_samples"], settings["random_state"])
    sizes = {name: settings[name] for name in ("train_size", "validation_size", "hold_out_size", "random_state")}
    return with_own_files(rows, clean_rows.get("validation"), clean_rows.get("hold_out"), **sizes)


def made_again(
    clean_rows: Mapping[str, Dataset],
    settings: Mapping[str, Any],
    sources: Mapping[str, Any],
    manifest: Mapping[str, Any] | None,
) -> Splits:
    """The division of a saved run; files that it did not have replace its sets afterwards.

    Args:
        clean_rows: as for `made`.
        settings: as for `made`.
        sources: what `readers.identify` says of each file.
        manifest: the saved run's; None for an adapter from elsewhere, of whose training rows nothing is known.
    """
    if manifest is None:
        return made(clean_rows, settings)
    new = {}
    for name in ("validation", "hold_out"):
        before = manifest["data"]["sources"].get(name)
        if name in sources and (before is None or identity(before) != identity(sources[name])):
            new[name] = clean_rows[name]
            if before is not None:
                raise InputError(
                    f"{sources[name]['path']}: the run had {name.replace('_', '-')} rows in another file, "
                    f"{before['path']}, by which its training rows were chosen",
                    mend=f"Leave out --{name.replace('_', '-')}-path, or bring that file back.",
                )
    old = {name: rows for name, rows in clean_rows.items() if name not in new}
    again = made(old, settings)
    if identity(sources["data"]) != identity(manifest["data"]["sources"]["data"]):
        path = sources["data"]["path"]
        text = f"{path} is not the data of the run: rows it was trained on may be among those scored"
        again = replace(again, warnings=(*again.warnings, text))
    return with_new_files(again, new.get("validation"), new.get("hold_out"))


def identity(source: Mapping[str, Any]) -> str | None:
    """What tells one version of a source from another: its digest, or its revision on the hub."""
    return source.get("sha256") or source.get("revision")


def as_sets(divided: Splits) -> dict[str, Any]:
    """The sets by the names of their nodes; what there is to warn of is said."""
    for warning in divided.warnings:
        warn(warning)
    return {
        "train_set": divided.train,
        "validation_set": divided.validation,
        "hold_out_set": divided.hold_out,
        "split_warnings": list(divided.warnings),
    }


def sha256_of(source: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of the data: of its file where it is one, else of its rows as JSON (a data set of the hub)."""
    if source.get("sha256"):
        return source["sha256"]
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()
