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
from seqtune.data.groups import Groups, grouped
from seqtune.data.splits import Splits, with_new_files, with_own_files
from seqtune.errors import InputError
from seqtune.progress import warn

if TYPE_CHECKING:
    from datasets import Dataset


def used(clean_rows: Mapping[str, Dataset], settings: Mapping[str, Any]) -> Dataset:
    """The rows to divide: those of the file ``data``, at most ``max_samples`` of them."""
    return sample_rows(clean_rows["data"], settings["max_samples"], settings["random_state"])


def groups_of(clean_rows: Mapping[str, Dataset], settings: Mapping[str, Any]) -> Groups:
    """The groups of near-duplicates among the rows to divide."""
    return grouped(used(clean_rows, settings), settings["near_duplicate_threshold"])


def made(clean_rows: Mapping[str, Dataset], settings: Mapping[str, Any], groups: Groups | None = None) -> Splits:
    """The division of clean rows (``data``, and own ``validation`` and ``hold_out`` rows where there are any).

    Args:
        clean_rows: the rows of each file.
        settings: the knobs of the group ``data``.
        groups: as `groups_of` makes them; None: they are made here.
    """
    groups = groups or groups_of(clean_rows, settings)
    sizes = {name: settings[name] for name in ("train_size", "validation_size", "hold_out_size", "random_state")}
    own = clean_rows.get("validation"), clean_rows.get("hold_out")
    return with_own_files(used(clean_rows, settings), *own, **sizes, groups=groups)


#: The files of a run by their knobs without ``_path``. The last two are those that a saved run had of its own.
FILES = ("data", "validation", "hold_out", "run_validation", "run_hold_out")

#: The knobs that say which row goes where. Under ``presaved`` they are the run's own.
DIVIDING = (
    "input_text_key",
    "output_text_key",
    "encoding",
    "on_bad_rows",
    "values_as_text",
    "mask",
    "max_samples",
    "train_size",
    "validation_size",
    "hold_out_size",
    "random_state",
    "near_duplicate_threshold",
    "streaming",
)

#: What runs had that do not say: they were divided by the same question alone, and their texts were as they stood.
OLDER = {"near_duplicate_threshold": 1.0, "encoding": "auto", "values_as_text": False, "mask": "none"}


def as_the_run(
    given: Mapping[str, Any], settings: dict[str, Any], manifest: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The settings of a saved run's data, once more, so that its rows are divided as they were.

    Args:
        given: what was given now, None for what was not.
        settings: the same with the run's own values in place of None.
        manifest: the run's; None for an adapter from elsewhere, whose data can be read and divided in any way.

    Raises:
        InputError: a knob that divides the rows is not what it was: rows the adapter was trained on would be scored.
    """
    if manifest is None:
        return settings
    saved = {**OLDER, **manifest["settings"]}
    settings = {**settings, **{name: saved[name] for name in OLDER if given.get(name) is None}}
    other = [name for name in DIVIDING if given.get(name) is not None and settings[name] != saved.get(name)]
    if other:
        raise InputError(
            "these settings divide the rows, and are the run's own",
            [f"{name} = {settings[name]!r}   the run had {saved.get(name)!r}" for name in other],
            "Leave them out; to score other rows, give --hold-out-path a file of them.",
        )
    own = {
        f"run_{name}_path": saved.get(f"run_{name}_path", saved[f"{name}_path"]) for name in ("validation", "hold_out")
    }
    return {**settings, **own}


def made_again(
    clean_rows: Mapping[str, Dataset],
    settings: Mapping[str, Any],
    sources: Mapping[str, Any],
    manifest: Mapping[str, Any] | None,
    groups: Groups | None = None,
) -> Splits:
    """The division of a saved run; files that it did not have replace its sets afterwards.

    Args:
        clean_rows: as for `made`, and ``run_validation`` and ``run_hold_out`` where the run had files of its own.
        settings: as for `made`.
        sources: what `readers.identify` says of each file.
        manifest: the saved run's; None for an adapter from elsewhere, of whose training rows nothing is known.
        groups: as for `made`.
    """
    if manifest is None:
        divided = made(clean_rows, settings, groups)
        text = "what the adapter was trained on is not known: rows of it may be among those scored"
        return replace(divided, warnings=(*divided.warnings, text))
    own = {name: clean_rows[f"run_{name}"] for name in ("validation", "hold_out") if f"run_{name}" in clean_rows}
    again = made({"data": clean_rows["data"], **own}, settings, groups)
    if changed := _changed(sources, manifest):
        text = f"{changed} is not what it was in the run: rows it was trained on may be among those scored"
        again = replace(again, warnings=(*again.warnings, text))
    new = {
        name: rows
        for name, rows in clean_rows.items()
        if name in ("validation", "hold_out") and settings[f"{name}_path"] != settings[f"run_{name}_path"]
    }
    return with_new_files(again, new.get("validation"), new.get("hold_out"), settings["near_duplicate_threshold"])


def is_unseen(sources: Mapping[str, Any], manifest: Mapping[str, Any] | None) -> bool:
    """Whether it is known that the hold-out rows were not trained on."""
    return manifest is not None and not _changed(sources, manifest)


def _changed(sources: Mapping[str, Any], manifest: Mapping[str, Any]) -> str | None:
    """The file that the run's rows were divided by and that is not what it was; None where all are."""
    before = manifest["data"]["sources"]
    for name, now in (("data", "data"), ("validation", "run_validation"), ("hold_out", "run_hold_out")):
        was = before.get(now) or (None if f"{now}_path" in manifest["settings"] else before.get(name))
        if was is not None and (now not in sources or identity(sources[now]) != identity(was)):
            return was["path"]
    return None


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
