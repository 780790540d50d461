"""A run on the Hugging Face hub: adapter, tokenizer, model card and a manifest without anything private.

What goes up is chosen by name, never "all but": predictions, rows, logs, checkpoints and the report stay here, and of
the manifest only figures and settings go, no path of this machine and no example of the data's checks.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqtune import card, run
from seqtune.errors import InputError, RunError
from seqtune.settings import knobs

#: The files of an adapter folder that are published, as patterns.
FILES = (
    "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "*.model", "*.spm", "vocab.json", "vocab.txt", "merges.txt",
    "generation_config.json",
)  # fmt: skip

#: Sections of the manifest that hold figures alone.
FIGURES = (
    "format", "created", "seed", "training", "metrics", "lifts", "guard_rails", "forgetting", "signatures", "verdict",
    "machine", "versions", "derived", "adapter",
)  # fmt: skip
OF_BASE = ("revision", "sha256", "tokenizer_sha256", "architecture", "load_in_4bit")
#: Settings that name places or code of this machine.
PRIVATE = re.compile(r"(_path|_dir|_model|^out|^metric|^model_id.*)$")
_A_PATH = re.compile(r"(?<![\w.:/])(~?/|[A-Za-z]:[\\/])[^\s'\",;)]+")


def public_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as others may see it."""
    data = manifest.get("data") or {}
    base = dict(manifest.get("base_model") or {})
    settings = {
        name: value
        for name, value in (manifest.get("settings") or {}).items()
        if name in knobs() and not PRIVATE.search(name)
    }
    settings["model_id"] = card.public_name(str(base.get("model_id") or "unknown"))
    names = ("sha256", "rows", "bad_rows", "splits", "evaluated", "training_lengths", "length_histograms", "cut")
    found = {
        **{name: manifest[name] for name in FIGURES if name in manifest},
        "settings": settings,
        "data": {
            **{name: data[name] for name in names if name in data},
            "sources": {name: _source(each) for name, each in (data.get("sources") or {}).items()},
            "findings": [
                {name: each.get(name) for name in ("check", "verdict", "rows", "of")}
                for each in data.get("findings") or []
            ],
        },
        "base_model": {
            **{name: base[name] for name in OF_BASE if name in base},
            "model_id": settings["model_id"],
        },
        "seeds": [
            {"seed": each.get("seed"), "metrics": each.get("metrics"), "run": None}
            for each in manifest.get("seeds") or []
        ],
    }
    return _without_paths(found)


def stage(path: str | Path, folder: Path, name: str | None = None) -> list[str]:
    """Put what would be published of a run into an empty folder.

    Args:
        path: the run directory.
        folder: to fill.
        name: title of the card.

    Returns:
        The names of the files.

    Raises:
        InputError: no finished run there, or its adapter is not whole.
    """
    there = run.Run(path)
    public = public_manifest(there.manifest)
    files = sorted({file for pattern in FILES for file in there.adapter.glob(pattern) if file.is_file()})
    try:
        config = json.loads((there.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        for file in files:
            shutil.copyfile(file, folder / file.name)
    except (OSError, ValueError) as error:
        raise InputError(f"{there.adapter}: no whole adapter ({error})", mend="Make the run again.") from None
    base = str(config.get("base_model_name_or_path") or "")
    if not card.is_hub_id(base):  # a folder on this machine
        config["base_model_name_or_path"] = card.public_name(base)
        run.write_json(folder / "adapter_config.json", config)
    if (folder / "adapter_model.safetensors").is_file():
        public["adapter"] = {"sha256": run.adapter_sha256(folder)}
    run.write_json(folder / run.MANIFEST, public)
    shown = {**public, "base_model": {**public["base_model"], "model_id": card.public_name(base)}}
    (folder / card.NAME).write_text(card.render(shown, name), encoding="utf-8")
    return sorted(each.name for each in folder.iterdir())


def push(
    path: str | Path, repository: str, *, private: bool = True, message: str = "Upload adapter", dry_run: bool = False
) -> dict[str, Any]:
    """Publish a run; the repository is made where there is none.

    Args:
        path: the run directory.
        repository: ``OWNER/NAME`` on the hub.
        private: whether a new repository is; one that is there stays as it is.
        message: of the commit.
        dry_run: only say what would go up.

    Returns:
        ``repository``, ``files`` (their names), ``url`` of the commit (None of a dry run).

    Raises:
        InputError: as `stage`; a bad name, no log-in, or no right to write there.
        RunError: the hub can't be reached, or the upload broke off.
    """
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except errors.HFValidationError as error:
        raise InputError(f"{repository}: no name of a repository", [str(error).splitlines()[0]]) from None
    with tempfile.TemporaryDirectory(prefix="seqtune-") as temporary:
        folder = Path(temporary)
        files = stage(path, folder, repository.rpartition("/")[2])
        found: dict[str, Any] = {"repository": repository, "files": files, "url": None}
        if dry_run:
            return found
        api = huggingface_hub.HfApi()
        transport = errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]  # httpx's, or httpx2's
        try:
            made = api.create_repo(repository, private=private, exist_ok=True)
            info: Any = api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message)
        except errors.LocalTokenNotFoundError:
            raise InputError(f"{repository}: nobody is logged in", mend="`hf auth login`, or set HF_TOKEN.") from None
        except errors.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)
            if status in (401, 403):
                mend = "`hf auth login` with a token that may write there."
                raise InputError(f"{repository}: the hub refuses it (status {status})", mend=mend) from None
            raise RunError(f"{repository}: not published ({str(error).splitlines()[0]})", mend="Try again.") from None
        except (transport, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RunError(f"{repository}: the hub can't be reached ({reason})", mend="Try again.") from None
    return {**found, "url": str(info.commit_url)}


def _source(source: Mapping[str, Any]) -> dict[str, Any]:
    names = ("kind", "sha256", "bytes", "split", "revision", *(["path"] if source.get("kind") == "hub" else []))
    return {name: source[name] for name in names if name in source}


def _without_paths(value: Any) -> Any:
    """Nothing above should hold a path; whatever does all the same loses it."""
    if isinstance(value, Mapping):
        return {name: _without_paths(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(each) for each in value]
    return _A_PATH.sub("(a local path)", value) if isinstance(value, str) else value
