"""A tuned model for other runtimes, each export checked against the model before it is published.

| target | what | runs in |
|---|---|---|
| `merged` | the model with the adapter merged into its weights, safetensors | transformers |
| `adapter` | the adapter in PEFT's own format, with the tokenizer | transformers and PEFT |
| `ctranslate2` | the merged model, in float32, bfloat16, int8 or int8_float32 | CTranslate2 |
| `onnx` | encoder and decoder with its cache, as two graphs | ONNX Runtime |
| `gguf` | the merged model of T5's kind, in float32 or q8_0 | llama.cpp |

A target is a module with ``write``, ``SNIPPET`` and ``log_probs`` (`Target`); `checking` holds what it wrote against
the tuned model, and `write` puts it into its place, whole or not at all.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from seqtune import run
from seqtune.errors import InputError, RunError
from seqtune.export import checking, place
from seqtune.export.tuned import Tuned, load
from seqtune.progress import say

#: What can be exported to, and in which arithmetic; the first is taken unless told otherwise.
TARGETS: dict[str, tuple[str, ...]] = {
    "merged": ("float32",),
    "adapter": ("float32",),
    "ctranslate2": ("float32", "bfloat16", "int8", "int8_float32"),
    "onnx": ("float32",),
    "gguf": ("float32", "q8_0"),
}

#: The extra by which a target's packages are installed, where it is not ``export``.
EXTRAS = {"gguf": "gguf"}

#: Version of the layout of `place.MANIFEST`.
FORMAT = 1


class Target(Protocol):
    """What a module of this room has.

    It may have a ``BOUND`` of its own in place of `checking.BOUND`, and ``answers(folder, texts)`` where ``load.py``
    is better not run in this process.
    """

    #: The text of ``load.py``: `checking.snippet` fills it in.
    SNIPPET: str
    #: Packages without which there is no export.
    NEEDS: tuple[str, ...]

    def write(self, tuned: Tuned, folder: Path, quantization: str) -> None:
        """Write the files."""
        ...

    def log_probs(self, tuned: Tuned, folder: Path, answers: list[list[int]]) -> list[list[float]]:
        """What the runtime makes of these answers to `Tuned.sources`: the log-probability of each token."""
        ...


def write(
    path: str | Path,
    to: str,
    out: str | Path,
    *,
    quantization: str | None = None,
    overwrite: bool = False,
    model_id: str | None = None,
) -> dict[str, Any]:
    """Export a tuned model, check it, and publish it at ``out``.

    Args:
        path: a run directory, or an adapter folder in PEFT's format.
        to: one of `TARGETS`.
        out: the folder to make.
        quantization: arithmetic of the weights, of those that the target has.
        overwrite: replace an export that is there.
        model_id: where the base model is now, if not where it was.

    Returns:
        The export's manifest: ``target``, ``quantization``, ``check`` (`checking.check`), ``files``.

    Raises:
        InputError: no such target or arithmetic, a package is missing, the place can't be used, or the target has no
            such model.
        RunError: the export does not answer as the tuned model does; nothing was published.
    """
    chosen = checked(to, quantization)
    target = target_of(to)
    place.check(out, overwrite)
    tuned = load(path, model_id)
    with place.publishing(out, overwrite) as folder:
        say(f"writing {to} ({chosen})")
        with _told():
            target.write(tuned, folder, chosen)
            (folder / "load.py").write_text(checking.snippet(target.SNIPPET, tuned), encoding="utf-8")
            found = checking.check(target, tuned, folder, chosen)
        manifest = {
            "format": FORMAT,
            "target": to,
            "quantization": chosen,
            "run": tuned.origin,
            "load": "python load.py 'a question'",
            "check": found,
            "files": {
                str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": run.file_sha256(file)}
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            },
        }
        text = json.dumps(manifest, ensure_ascii=False, allow_nan=False, indent=2)
        (folder / place.MANIFEST).write_text(text + "\n", encoding="utf-8")
    say(checking.sentence(found))
    return manifest


@contextmanager
def _told() -> Iterator[None]:
    """Errors of a library that are an OSError by name (a model that it does not find) are no full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise RunError("the export can't be written", [line for line in str(error).splitlines() if line][:5]) from None


def checked(to: str, quantization: str | None) -> str:
    """The arithmetic of an export; checks that the target has it, without an import of any runtime.

    Raises:
        InputError: no such target, or it has no such arithmetic.
    """
    if to not in TARGETS:
        raise InputError(f"to = {to!r}   expected {', '.join(TARGETS)}")
    chosen = quantization or TARGETS[to][0]
    if chosen not in TARGETS[to]:
        raise InputError(f"quantization = {chosen!r}   {to} has {', '.join(TARGETS[to])}")
    return chosen


def target_of(to: str) -> Target:
    """The module of a target.

    Raises:
        InputError: a package that it needs is not installed.
    """
    target: Any = importlib.import_module(f"seqtune.export.{to}")
    missing = [name for name in target.NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        extra = EXTRAS.get(to, "export")
        raise InputError(f"to = {to!r}   needs {' and '.join(missing)}", mend=f"pip install 'seqtune[{extra}]'")
    return target
