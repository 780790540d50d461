"""What can be refused before PyTorch is imported: in a moment, with nothing written.

The dataflow checks all of this again; here it is only sooner. Not covered: a base model on the hub, which takes the
network.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqtune import run, similarity
from seqtune.data import checks, intake, readers, shards, shares
from seqtune.errors import InputError, did_you_mean
from seqtune.models import checkpoint, quantized
from seqtune.settings import DEFAULT, validated

#: Files up to this size (bytes) are read and checked beforehand; larger ones once, in the dataflow.
SMALL = 64 * 2**20


def check(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings of a training run, checked and converted.

    Raises:
        InputError: a setting, the file, its rows, the base model or a place to write to can't be used.
    """
    values = validated(given)
    settings = {**DEFAULT.model_dump(), **values}
    if settings["data_path"] is None:
        raise InputError("settings: data_path is missing", mend="Name the question-answer file.")
    check_place(settings["out"] or str(run.free_directory(settings["data_path"])), settings["overwrite"])
    if settings["work_dir"] is not None:
        check_work_dir(settings["work_dir"])
    quantized.check(values)
    check_data(settings)
    check_model(settings["model_id"] or settings["model_id_tokenizer"])
    check_metrics(settings["metric"], settings["similarity_model"])
    return values


def check_saved(adapter_path: str) -> dict[str, Any]:
    """What is known of a saved adapter, as `run.open_saved` gives it, with its files looked for.

    Raises:
        InputError: no such folder, a damaged manifest, or no adapter in it.
    """
    path = Path(adapter_path)
    mend = "Name a run directory of `seqtune finetune`, or an adapter folder in PEFT's format."
    if not path.is_dir():
        siblings = sorted(each.name for each in path.parent.glob("*") if each.is_dir())
        hint = did_you_mean(path.name, siblings)
        what = "a file, not a folder" if path.exists() else "no such folder" + (f"; {hint}" if hint else "")
        raise InputError(f"{path}: {what}", mend=mend)
    saved = run.open_saved(path)
    names = ("adapter_config.json", "adapter_model.safetensors")
    missing = [name for name in names if not Path(saved["adapter"], name).is_file()]
    if missing:
        is_run = saved["manifest"] is not None
        where = saved["adapter"] if is_run else f"{path}: neither a run directory nor an adapter folder"
        absent = missing if is_run else [run.MANIFEST, *missing]
        raise InputError(f"{where}: {', '.join(absent)} missing", mend="Make the run again." if is_run else mend)
    return saved


def check_evaluation(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings of an evaluation, checked and converted, ``adapter_path`` among them.

    Raises:
        InputError: a setting, the saved adapter, or the data it is scored on can't be used.
    """
    values = validated(given)
    saved = (check_saved(values["adapter_path"])["manifest"] or {}).get("settings", {})
    settings = {**DEFAULT.model_dump(), **saved, **values}
    if settings["data_path"] is None:
        raise InputError(
            f"{values['adapter_path']}: the adapter does not say which data to score it on",
            mend="Pass --data-path, and --input-text-key and --output-text-key where they differ from the defaults.",
        )
    try:
        check_data(settings)
    except InputError as error:
        if "data_path" in values or Path(settings["data_path"]).exists():
            raise
        mend = f"{values['adapter_path']} was trained on it. If it has moved, pass --data-path."
        raise InputError(error.headline, error.details, mend) from None
    quantized.check(values)
    check_model(values.get("model_id"))
    check_metrics(values.get("metric"), settings["similarity_model"])
    return values


def check_data(settings: Mapping[str, Any]) -> None:
    """Refuse data files that can't be read, rows that can't be used and shares that do not fit together.

    Raises:
        InputError: as `readers.identify`, `readers.read`, `checks.check_rows`, `shards.check` and `shares.shares_of`.
    """
    if settings["validation_path"] is None and settings["hold_out_path"] is None:
        shares.shares_of(*(settings[name] for name in ("train_size", "validation_size", "hold_out_size")))
    for name in ("data_path", "validation_path", "hold_out_path"):
        path = settings[name]
        if path is None:
            continue
        if name == "data_path" and settings["streaming"]:
            shards.check(settings)
            shards.files_of(path)
            continue
        source = readers.identify(path, settings["dataset_split"], settings["encoding"])
        if source["kind"] != "file" or source["bytes"] > SMALL:
            continue
        rows = readers.read(source, settings["dataset_split"])
        problems = intake.problems_of(rows, source, settings)
        if problems and settings["on_bad_rows"] == "fail":
            raise checks.bad_rows_error(path, problems, len(rows))


def check_model(model_id: str | None) -> None:
    """Refuse a local base model that is none, or of an architecture that is not encoder-decoder.

    Raises:
        InputError: as `checkpoint.resolve`.
    """
    if model_id is None or model_id == checkpoint.EMBEDDED:
        return
    folder = Path(model_id).expanduser()
    if (folder / "config.json").is_file():
        checkpoint.check_architecture(folder / "config.json", model_id)
    elif folder.exists() or model_id.startswith((".", "/", "~")) or model_id.count("/") > 1:  # no name on the hub
        checkpoint.resolve(model_id)


def check_metrics(metric: str | None, similarity_model: str | None) -> None:
    """Refuse functions that do not score a trial answer, and an encoder that is not here.

    Raises:
        InputError: as `own.load` and `similarity.resolve`.
    """
    if metric is not None:
        from seqtune.metrics import own  # not above: it brings NumPy

        own.load(metric)
    if similarity_model is not None:
        similarity.resolve(similarity_model)


def check_place(out: str, overwrite: bool) -> None:
    """Refuse a place where a run can't be written; leaves nothing behind.

    Raises:
        InputError: as `run.check_destination`.
    """
    try:
        run.check_destination(out, overwrite)
    except (OSError, ValueError) as error:  # a name too long, or with a character that no name can have
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{out[:80]}: can't be written ({reason})", mend="Choose another --out.") from None


def check_work_dir(work_dir: str) -> None:
    """Refuse a place where trained adapters can't be kept; leaves nothing behind.

    Raises:
        InputError: it can't be made or written.
    """
    folder = Path(work_dir, "adapters").absolute()
    try:
        existing = next(each for each in (folder, *folder.parents) if each.exists())
        with tempfile.TemporaryDirectory(dir=existing, prefix=".seqtune-") as trial:
            Path(trial, folder.relative_to(existing)).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{work_dir[:80]}: can't be written ({reason})", mend="Choose another --work-dir.") from None
