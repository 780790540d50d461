"""Fetching a model from the Hugging Face hub: the config first, then weights in safetensors only, never pickle.

The network is tried once, for a few seconds. Without it the local cache of the hub is used, and where that does not
hold the model the error says what to do instead.

Not covered: uploading; data sets; mirrors beyond what ``HF_ENDPOINT`` gives.
"""

from __future__ import annotations

import fnmatch
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from seqtune.errors import InputError, RunError, SeqtuneError, did_you_mean
from seqtune.progress import say

#: Seconds to wait for the hub's first answer. A name server that does not answer can hold a look-up for longer.
PATIENCE = 8.0

WEIGHT_FILES = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
CONFIG_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.spm",
    "vocab*.json",
    "vocab*.txt",
    "merges.txt",
    "dict.txt",
)

#: For "did you mean …"; any other encoder-decoder model works as well.
KNOWN = (
    "seqtune-mini",
    *(f"google/flan-t5-{size}" for size in ("small", "base", "large", "xl")),
    *(f"google-t5/t5-{size}" for size in ("small", "base", "large")),
    *(f"google/mt5-{size}" for size in ("small", "base", "large")),
    *(f"google/umt5-{size}" for size in ("small", "base")),
    *(f"google/byt5-{size}" for size in ("small", "base")),
    *(f"facebook/bart-{size}" for size in ("base", "large", "large-cnn")),
    *(f"facebook/mbart-large-{size}" for size in ("cc25", "50")),
    *(f"google/pegasus-{size}" for size in ("large", "xsum", "cnn_dailymail")),
    *(f"google/long-t5-{size}" for size in ("local-base", "tglobal-base")),
)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file name of the top folder fits one of the patterns."""
    return "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def fetch(
    model_id: str, revision: str | None, *, weights: bool, check_config: Callable[[Path], object]
) -> tuple[Path, str]:
    """Bring a model, or with ``weights=False`` a tokenizer, into the hub's local cache.

    Args:
        model_id: ``owner/name``.
        revision: branch, tag or commit; None is the default branch.
        weights: whether the weights are wanted, or the tokenizer and config alone.
        check_config: called with the path of ``config.json`` before any weight is downloaded; raises to stop there.

    Returns:
        The folder with the files and the commit they belong to.

    Raises:
        InputError: no such model or revision, not open to this user, no safetensors, or no network and nothing in the
            cache.
        RunError: the connection broke in the middle of the download.
    """
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = [*CONFIG_FILES, *TOKENIZER_FILES, *(WEIGHT_FILES if weights else ())]
    info, trouble = _ask(model_id, revision)
    if info is None:
        try:
            folder = huggingface_hub.snapshot_download(
                model_id, revision=revision, local_files_only=True, allow_patterns=patterns, ignore_patterns=["*/*"]
            )
        except LocalEntryNotFoundError:
            raise _not_cached(model_id, revision, trouble) from None
        if not Path(folder, "config.json").is_file():
            raise _not_cached(model_id, revision, trouble)
        if weights:
            check_config(Path(folder, "config.json"))
            if not any(matches(path.name, WEIGHT_FILES) for path in Path(folder).iterdir()):
                raise _not_cached(model_id, revision, trouble)
        return Path(folder), Path(folder).name

    names = [each.rfilename for each in info.siblings or []]
    _no_bars_unless_seen()
    cached = huggingface_hub.try_to_load_from_cache
    if any(matches(n, patterns) and not isinstance(cached(model_id, n, revision=info.sha), str) for n in names):
        say(f"downloading {model_id} from the hub …")
    try:
        if weights:
            if "config.json" not in names:
                raise InputError(
                    f"{model_id}: no model that can be loaded; its repository has no config.json",
                    [f"found: {_some(names)}"],
                    "Give --model-id a repository of an encoder-decoder model in the format of transformers.",
                )
            check_config(Path(huggingface_hub.hf_hub_download(model_id, "config.json", revision=info.sha)))
            if not any(matches(name, WEIGHT_FILES) for name in names):
                raise no_safetensors(model_id, names)
        # The revision by its name, not by its commit, so that the cache learns the name and can be used offline.
        folder = huggingface_hub.snapshot_download(
            model_id, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]
        )
    except SeqtuneError:
        raise
    except Exception as error:  # the hub's errors, the transport's (each library has its own) and a full disk alike
        raise RunError(
            f"{model_id}: the download stopped",
            str(error).splitlines()[:3],
            "Run the same command again: what has arrived is kept.",
        ) from None
    return Path(folder), Path(folder).name


def no_safetensors(where: str, names: Iterable[str]) -> InputError:
    """The error for a model whose weights come only as pickle or for another framework."""
    found = sorted(name for name in names if name.endswith((".bin", ".h5", ".msgpack", ".pt", ".pth", ".ckpt")))
    return InputError(
        f"{where}: no weights in safetensors",
        [
            f"found: {_some(found) or 'no weights at all'}",
            "expected: model.safetensors; a pickle (.bin, .pt) can run any code when it is loaded, so it is not opened",
        ],
        "Convert it once, if you trust it:\n"
        '  python -c "from transformers import AutoModelForSeq2SeqLM as M, AutoTokenizer as T; '
        f"M.from_pretrained('{where}').save_pretrained('converted'); "
        f"T.from_pretrained('{where}').save_pretrained('converted')\"\n"
        "and pass --model-id ./converted; or pass --model-revision with a revision that has safetensors (the hub's own "
        "converter often left one under refs/pr/…: see the model's Community tab).",
    )


def _ask(model_id: str, revision: str | None) -> tuple[Any, str]:
    """What the hub says about a model: its ``ModelInfo``, or None and why the hub can't be reached.

    One request in a thread of its own, without retries: neither a dead name server nor a connection that hangs holds
    the user longer than `PATIENCE`.
    """
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(huggingface_hub.HfApi().model_info(model_id, revision=revision, timeout=PATIENCE - 2))
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    said: Any = answer[0] if answer else TimeoutError(f"no answer within {PATIENCE:.0f} seconds")
    hint = did_you_mean(model_id, KNOWN)
    if isinstance(said, HFValidationError):
        raise InputError(
            f"model_id {model_id!r}: neither a folder here nor a possible name on the hub",
            [hint] if hint else [],
            "Expected owner/name (google/flan-t5-small), a folder with config.json, or seqtune-mini.",
        ) from None
    if isinstance(said, GatedRepoError):
        raise InputError(
            f"{model_id}: on the hub, but not open to you",
            ["its owner asks you to accept terms first"],
            f"Accept them at https://huggingface.co/{model_id}, then log in with `hf auth login` and run again.",
        ) from None
    if isinstance(said, RepositoryNotFoundError):
        raise InputError(
            f"{model_id}: no such model on the hub",
            [hint] if hint else [],
            "Check the name; for a private model log in first with `hf auth login`.",
        ) from None
    if isinstance(said, RevisionNotFoundError):
        raise InputError(
            f"{model_id}: no revision {revision!r} on the hub",
            mend="Give --model-revision a branch, tag or commit of that model, or leave it out.",
        ) from None
    if isinstance(said, OfflineModeIsEnabled):
        return None, "HF_HUB_OFFLINE is set"
    if isinstance(said, HfHubHTTPError) and said.response is not None:
        return None, f"the hub answers with status {said.response.status_code}"
    if isinstance(said, Exception):
        return None, f"the hub can't be reached ({_reason(said)})"
    return said, ""


def _not_cached(model_id: str, revision: str | None, trouble: str) -> InputError:
    """The error for a model that is neither to be had from the hub nor whole in its cache."""
    at = f" --revision {revision}" if revision else ""
    hint = "" if model_id in KNOWN else did_you_mean(model_id, KNOWN)
    return InputError(
        f"{model_id}: not on this machine, and {trouble}",
        [hint] if hint else [],
        "Either pass --model-id seqtune-mini (embedded, needs no network),\n"
        "or pass --model-id with a local folder that holds config.json and model.safetensors,\n"
        f"or download it first while online: hf download {model_id}{at}",
    )


def _no_bars_unless_seen() -> None:
    """From Python a download shows its bars on a terminal, and never writes them into a log file.

    The command line turns them off altogether: they would run through its own display.
    """
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()


def _reason(error: Exception) -> str:
    """The first line of an error, or its name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _some(names: Iterable[str], most: int = 8) -> str:
    """Names in a line, at most so many."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
