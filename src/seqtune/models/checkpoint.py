"""From the name of a base model to the folder that holds it, checked by its configuration.

A model is a hub id, a local folder or ``seqtune-mini``, the one inside this package. What is wrong with it is said
before its weights are downloaded or loaded, wherever its configuration shows it.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seqtune.errors import InputError, RunError
from seqtune.models import hub
from seqtune.models.quiet import quiet

#: The name of the model inside this package.
EMBEDDED = "seqtune-mini"
#: The smallest FLAN model.
DEFAULT_MODEL = "google/flan-t5-small"


@dataclass(frozen=True)
class BaseCheckpoint:
    """Where a base model and its tokenizer lie, and what they are."""

    model_id: str
    """As the user named it."""
    path: str
    """Local folder that holds ``config.json`` and the weights."""
    revision: str | None
    """The commit, for a model of the hub."""
    sha256: str
    """Over the names and bytes of the configuration and weight files."""
    tokenizer_id: str
    tokenizer_path: str
    tokenizer_sha256: str
    """Over the names and bytes of the tokenizer's files."""
    architecture: str
    """The model class the checkpoint names, for instance ``T5ForConditionalGeneration``."""
    model_type: str
    """The family in transformers' words, for instance ``t5``."""
    load_in_4bit: bool = False
    """Whether the weights are loaded in 4 bits (`quantized`): then it is another base than the same files in fp32."""

    @property
    def stable_id(self) -> str:
        """The name by which the model is found from any working directory."""
        return self.path if Path(self.model_id).expanduser().is_dir() else self.model_id

    @property
    def stable_tokenizer_id(self) -> str:
        """The name by which the tokenizer is found from any working directory."""
        return self.tokenizer_path if Path(self.tokenizer_id).expanduser().is_dir() else self.tokenizer_id

    def as_dict(self) -> dict[str, Any]:
        """For ``run.json``."""
        return {**asdict(self), "model_id": self.stable_id, "tokenizer_id": self.stable_tokenizer_id}


def embedded_folder() -> Path:
    """The folder of ``seqtune-mini`` inside this package."""
    return Path(str(importlib.resources.files("seqtune.models"))) / "seqtune_mini"


def resolve(
    model_id: str | None = None, model_id_tokenizer: str | None = None, revision: str | None = None
) -> BaseCheckpoint:
    """Find a base model and its tokenizer, downloading them where they are on the hub and not in its cache.

    Args:
        model_id: a hub id, a local folder or ``seqtune-mini``; None is `DEFAULT_MODEL`, or ``model_id_tokenizer`` where
            that is given alone.
        model_id_tokenizer: the same for the tokenizer; None is the model's own.
        revision: branch, tag or commit of the model on the hub.

    Raises:
        InputError: no such model, no model folder, an architecture that is not encoder-decoder, no weights in
            safetensors, no tokenizer, or no network and not in the cache.
        RunError: a download that broke off.
    """
    name = model_id or model_id_tokenizer or DEFAULT_MODEL
    tokenizer_name = model_id_tokenizer or name
    path, commit = _locate(name, revision, weights=True)
    same = tokenizer_name == name
    tokenizer_path = path if same else _locate(tokenizer_name, None, weights=False)[0]
    tokenizer_files = _files(tokenizer_path, hub.TOKENIZER_FILES)
    if not tokenizer_files:
        raise InputError(
            f"{tokenizer_name}: no tokenizer",
            [
                f"found in {tokenizer_path}: {_listing(tokenizer_path)}",
                "expected: tokenizer.json, spiece.model or the like",
            ],
            "Give --model-id-tokenizer the model whose tokenizer it is." if same else "Check --model-id-tokenizer.",
        )
    config = _read_config(path / "config.json")
    return BaseCheckpoint(
        model_id=name,
        path=str(path),
        revision=commit,
        sha256=_digest(_files(path, (*hub.CONFIG_FILES, *hub.WEIGHT_FILES))),
        tokenizer_id=tokenizer_name,
        tokenizer_path=str(tokenizer_path),
        tokenizer_sha256=_digest(tokenizer_files),
        architecture=(config.get("architectures") or [config["model_type"]])[0],
        model_type=config["model_type"],
    )


def is_here(name: str, revision: str | None = None) -> bool:
    """Whether the model is on this machine, so that `resolve` need not download it."""
    if name == EMBEDDED or Path(name).expanduser().is_dir():
        return True
    import huggingface_hub

    files = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(huggingface_hub.try_to_load_from_cache(name, each, revision=revision), str) for each in files)


def check_architecture(config_path: Path, name: str) -> None:
    """Refuse a model that is no encoder-decoder of text, by its ``config.json`` alone.

    Raises:
        InputError: naming what was found and what is expected.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as SEQ2SEQ

    config = _read_config(config_path)
    found = (config.get("architectures") or [config["model_type"]])[0]
    fits = config["model_type"] in SEQ2SEQ
    if fits:
        try:
            with quiet():
                # transformers' table also has decoder-only models that hear; this tells them apart.
                fits = bool(getattr(AutoConfig.from_pretrained(config_path.parent), "is_encoder_decoder", False))
        except Exception as error:
            raise InputError(
                f"{name}: config.json can't be used", str(error).splitlines()[:3], "Check or fetch the model again."
            ) from None
    if not fits:
        raise InputError(
            f"{name}: not an encoder-decoder model",
            [
                f"found: {found} (model_type {config['model_type']})",
                "expected: an AutoModelForSeq2SeqLM such as T5, FLAN-T5, mT5, umT5, LongT5, BART, mBART or Pegasus",
            ],
            f"For instance --model-id {DEFAULT_MODEL}, or --model-id {EMBEDDED} (embedded).",
        )


def _locate(name: str, revision: str | None, *, weights: bool) -> tuple[Path, str | None]:
    """The folder of a model (or of a tokenizer alone) and, for one of the hub, its commit."""
    if name == EMBEDDED:
        folder = embedded_folder()
        if not (folder / "config.json").is_file():
            raise RunError(f"{EMBEDDED}: its files are missing from this installation", mend="Install seqtune again.")
        return folder, None
    path = Path(name).expanduser()
    looks_like_path = name.startswith(("./", "../", "/", "~", ".\\")) or name in (".", "..") or "\\" in name
    if not looks_like_path and not path.exists():
        if name.count("/") > 1:
            raise InputError(
                f"model_id {name!r}: no such folder, and no possible name on the hub",
                mend="Expected owner/name (google/flan-t5-small), a folder with config.json, or seqtune-mini.",
            )
        return hub.fetch(
            name, revision, weights=weights, check_config=lambda config_path: check_architecture(config_path, name)
        )
    if not path.is_dir():
        raise InputError(
            f"{name}: {'a file' if path.exists() else 'no such folder'}",
            mend="--model-id takes a folder that holds config.json and model.safetensors, a hub id, or seqtune-mini.",
        )
    path = path.resolve()
    if weights:
        _check_folder(path, name)
    return path, None


def _check_folder(path: Path, name: str) -> None:
    """Refuse a local folder that holds no model that can be used."""
    if not (path / "config.json").is_file():
        adapter = (path / "adapter_config.json").is_file() or (path / "run.json").is_file()
        raise InputError(
            f"{name}: {'a tuned adapter, not a base model' if adapter else 'no model folder'}; it has no config.json",
            [f"found: {_listing(path)}", "expected: config.json, model.safetensors and the tokenizer's files"],
            "Pass the base model it was tuned from; to use the adapter, see --adapter-path."
            if adapter
            else "Pass the folder that save_pretrained wrote, a hub id, or seqtune-mini.",
        )
    check_architecture(path / "config.json", name)
    if not _files(path, hub.WEIGHT_FILES):
        raise hub.no_safetensors(name, [each.name for each in path.iterdir()])


def _read_config(path: Path) -> dict[str, Any]:
    """``config.json`` as a mapping with a ``model_type``."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read", [str(error)], "Fetch or save the model again.") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise InputError(
            f"{path}: not the configuration of a transformers model",
            ["it has no model_type"],
            "Pass the folder that save_pretrained wrote, a hub id, or seqtune-mini.",
        )
    return config


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files of a folder that fit, by name."""
    patterns = tuple(patterns)
    return sorted(path for path in folder.iterdir() if path.is_file() and hub.matches(path.name, patterns))


def _digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and bytes of files, whatever folder they lie in."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _listing(folder: Path) -> str:
    """What is in a folder, in a line."""
    names = sorted(path.name for path in folder.iterdir())
    return (", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "nothing"
