"""Data: question–answer file → rows → what is wrong with them → clean rows → training, validation and hold-out set.

A set is a `datasets.Dataset` with the columns ``row`` (number in the file, from 1), ``input``, ``reference`` and
``extra`` (the row's other fields, as JSON).
"""

from __future__ import annotations

from typing import Any, Literal

from datasets import Dataset
from hamilton.function_modifiers import cache, config, extract_fields

import seqtune.caching  # noqa: F401  (fingerprints: without them Hamilton's cache would mix up models)
from seqtune import checking, run, settings, store
from seqtune.data import checks, division, intake, readers, split_numbers, streaming
from seqtune.data.groups import Groups
from seqtune.progress import warn
from seqtune.settings import DEFAULT


@cache(behavior="recompute")
def versions() -> dict[str, str]:
    """Versions of seqtune and of the libraries that compute, and a digest of seqtune's source: what the code was.

    Hamilton's cache sees the source of a node, not of what it calls. Every group of settings carries this, so that
    changed code computes again.
    """
    return store.versions()


@config.when(start="presaved")
@cache(behavior="recompute")
def saved_run(adapter_path: str) -> dict[str, Any]:
    """The run directory, or plain adapter folder, to start from: its adapter, manifest and log."""
    return run.open_saved(adapter_path)


@config.when(start="base")
def data_settings__base(
    versions: dict[str, str],
    data_path: str,
    input_text_key: str = DEFAULT.input_text_key,
    output_text_key: str = DEFAULT.output_text_key,
    dataset_split: str = DEFAULT.dataset_split,
    encoding: str = DEFAULT.encoding,
    validation_path: str | None = DEFAULT.validation_path,
    hold_out_path: str | None = DEFAULT.hold_out_path,
    on_bad_rows: Literal["fail", "skip"] = DEFAULT.on_bad_rows,
    values_as_text: bool = DEFAULT.values_as_text,
    mask: Literal["none", "secrets", "all"] = DEFAULT.mask,
    max_samples: int | None = DEFAULT.max_samples,
    streaming: bool = DEFAULT.streaming,
    shuffle_buffer: int = DEFAULT.shuffle_buffer,
    near_duplicate_threshold: float = DEFAULT.near_duplicate_threshold,
    train_size: float = DEFAULT.train_size,
    validation_size: float | None = DEFAULT.validation_size,
    hold_out_size: float | None = DEFAULT.hold_out_size,
    max_eval_rows: int = DEFAULT.max_eval_rows,
    random_state: int = DEFAULT.random_state,
) -> dict[str, Any]:
    """How to read and split the data."""
    given = locals()
    return {"versions": given.pop("versions"), **settings.validated(given)}


@config.when(start="presaved")
def data_settings__presaved(
    saved_run: dict[str, Any],
    versions: dict[str, str],
    data_path: str | None = None,
    input_text_key: str | None = None,
    output_text_key: str | None = None,
    dataset_split: str | None = None,
    encoding: str | None = None,
    validation_path: str | None = None,
    hold_out_path: str | None = None,
    on_bad_rows: Literal["fail", "skip"] | None = None,
    values_as_text: bool | None = None,
    mask: Literal["none", "secrets", "all"] | None = None,
    max_samples: int | None = None,
    streaming: bool | None = None,
    shuffle_buffer: int | None = None,
    near_duplicate_threshold: float | None = None,
    train_size: float | None = None,
    validation_size: float | None = None,
    hold_out_size: float | None = None,
    max_eval_rows: int | None = None,
    random_state: int | None = None,
) -> dict[str, Any]:
    """How the saved run read and split its data. Files can be given anew; the division can't be changed."""
    given = locals()
    manifest, code = given.pop("saved_run")["manifest"], given.pop("versions")
    resolved = settings.resolved(manifest, given, required=["data_path"])
    return {"versions": code, **division.as_the_run(given, resolved, manifest)}


@cache(behavior="recompute")
def data_sources(data_settings: dict[str, Any]) -> dict[str, Any]:
    """Which files the rows come from: path, format, size and SHA-256 of each."""
    paths = {name: data_settings.get(f"{name}_path") for name in division.FILES}
    how = data_settings["dataset_split"], data_settings["encoding"]
    return {
        name: streaming.identify(path)
        if name == "data" and data_settings["streaming"]
        else readers.identify(path, *how)
        for name, path in paths.items()
        if path is not None
    }


def raw_rows(data_sources: dict[str, Any], data_settings: dict[str, Any]) -> dict[str, Any]:
    """The rows of each file as they stand in it; of a folder that is streamed, a sample."""
    return {
        name: streaming.sample(source, data_settings)
        if source["kind"] == "shards"
        else readers.read(source, data_settings["dataset_split"])
        for name, source in data_sources.items()
    }


def row_problems(
    raw_rows: dict[str, Any], data_sources: dict[str, Any], data_settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything that is wrong with the rows: row and line, key, what was found, what was expected."""
    return {name: intake.problems_of(rows, data_sources[name], data_settings) for name, rows in raw_rows.items()}


@cache(behavior="recompute")
def rejected_rows(
    raw_rows: dict[str, Any], row_problems: dict[str, Any], data_sources: dict[str, Any]
) -> list[dict[str, Any]]:
    """The rows that are left out, each with what is wrong with it: the content of ``rejects.jsonl``."""
    return [
        reject
        for name, rows in raw_rows.items()
        for reject in intake.rejects_of(rows, row_problems[name], data_sources[name])
    ]


def clean_rows(
    raw_rows: dict[str, Any],
    row_problems: dict[str, Any],
    data_sources: dict[str, Any],
    data_settings: dict[str, Any],
) -> dict[str, Any]:
    """The rows that can be used, each file a data set; bad rows end the run here unless `on_bad_rows` is skip."""
    clean = {}
    for name, rows in raw_rows.items():
        path, problems = data_sources[name]["path"], row_problems[name]
        if problems and data_settings["on_bad_rows"] == "fail":
            raise checks.bad_rows_error(path, problems, len(rows))
        clean[name] = intake.clean_of(rows, problems, data_settings)
        if problems:
            warn(f"{path}: {len(rows) - len(clean[name])} of {len(rows)} rows can't be used and are left out")
    return clean


def question_groups(clean_rows: dict[str, Any], data_settings: dict[str, Any]) -> Groups:
    """Which rows ask the same question or near-duplicates of it: these stay in one set."""
    return division.groups_of(clean_rows, data_settings)


@config.when(start="base")
@extract_fields({"train_set": Dataset, "validation_set": Dataset, "hold_out_set": Dataset, "split_warnings": list})
def data_splits__base(
    clean_rows: dict[str, Any], data_settings: dict[str, Any], question_groups: Groups
) -> dict[str, Any]:
    """Training, validation and hold-out set: the same for the same rows in any order; no question in two of them."""
    return division.as_sets(division.made(clean_rows, data_settings, question_groups))


@config.when(start="presaved")
@extract_fields({"train_set": Dataset, "validation_set": Dataset, "hold_out_set": Dataset, "split_warnings": list})
def data_splits__presaved(
    clean_rows: dict[str, Any],
    data_settings: dict[str, Any],
    data_sources: dict[str, Any],
    saved_run: dict[str, Any],
    question_groups: Groups,
) -> dict[str, Any]:
    """The division that the adapter was trained by; validation and hold-out files given only now replace its sets."""
    again = division.made_again(clean_rows, data_settings, data_sources, saved_run["manifest"], question_groups)
    return division.as_sets(again)


def data_findings(
    data_settings: dict[str, Any],
    data_sources: dict[str, Any],
    raw_rows: dict[str, Any],
    row_problems: dict[str, Any],
    clean_rows: dict[str, Any],
    train_set: Dataset,
    validation_set: Dataset,
    hold_out_set: Dataset,
    split_warnings: list,
    question_groups: Groups,
) -> list[dict[str, Any]]:
    """What the checks of the data say, as `seqtune check` shows it: verdict, finding, examples, mend."""
    sets = {"train": train_set, "validation": validation_set, "hold_out": hold_out_set}
    files = data_sources, raw_rows, row_problems, clean_rows
    return checking.in_a_run(checking.Subject(data_settings, *files, sets, split_warnings, question_groups))


@config.when(start="base")
@cache(behavior="recompute")
def hold_out_unseen__base() -> bool:
    """Whether it is known that the hold-out rows were not trained on: they were kept from it just now."""
    return True


@config.when(start="presaved")
@cache(behavior="recompute")
def hold_out_unseen__presaved(data_sources: dict[str, Any], saved_run: dict[str, Any]) -> bool:
    """Whether it is known that the hold-out rows were not trained on: the run's files are what they were."""
    return division.is_unseen(data_sources, saved_run["manifest"])


def validation_sample(validation_set: Dataset, data_settings: dict[str, Any]) -> Dataset:
    """The validation rows that are scored and answered: at most `max_eval_rows` of them."""
    return checks.evaluation_sample("validation", validation_set, data_settings)


def hold_out_sample(hold_out_set: Dataset, data_settings: dict[str, Any]) -> Dataset:
    """The hold-out rows that are scored and answered: at most `max_eval_rows` of them."""
    return checks.evaluation_sample("hold-out", hold_out_set, data_settings)


@cache(behavior="recompute")
def split_ids(train_set: Dataset, validation_set: Dataset, hold_out_set: Dataset) -> dict[str, str]:
    """The numbers of each set's rows in their file, as text."""
    sets = {"train": train_set, "validation": validation_set, "hold_out": hold_out_set}
    return {name: split_numbers.written(rows) for name, rows in sets.items()}


@cache(behavior="recompute")
def data_summary(
    data_sources: dict[str, Any],
    raw_rows: dict[str, Any],
    row_problems: dict[str, Any],
    train_set: Dataset,
    validation_set: Dataset,
    hold_out_set: Dataset,
    validation_sample: Dataset,
    hold_out_sample: Dataset,
    split_ids: dict[str, str],
    split_warnings: list,
) -> dict[str, Any]:
    """Files, their digests, rows, splits, and what was left out."""
    return {
        "sources": data_sources,
        "sha256": division.sha256_of(data_sources["data"], raw_rows["data"]),
        "rows": len(raw_rows["data"]),
        "bad_rows": {name: len({problem.row for problem in found}) for name, found in row_problems.items()},
        "splits": {"train": len(train_set), "validation": len(validation_set), "hold_out": len(hold_out_set)},
        "split_sha256": split_numbers.digests(split_ids),
        "evaluated": {"validation": len(validation_sample), "hold_out": len(hold_out_sample)},
        "warnings": split_warnings,
    }
