"""Scores by Python functions of the user's own, named ``module:function``.

A function takes an answer and its references, ``(prediction: str, references: list[str]) -> float``, and gives a finite
number; more is better. Its score stands beside the others under the function's name. The module is looked for in the
working directory, then among installed packages, and importing it runs its code: name only what you trust.

Not covered: scores of a whole set that are no means of row scores; a node of one's own takes these.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from seqtune.errors import InputError, did_you_mean
from seqtune.metrics.rows import METRIC_LABELS

SIGNATURE = "(prediction: str, references: list[str]) -> float"
#: What each function is tried with before anything is trained; answers and references can be empty.
TRIALS = (("a trial answer", ["a trial reference", "another one"]), ("", ["a trial reference"]), ("", [""]))


@dataclass(frozen=True)
class OwnMetric:
    """A function of the user's."""

    name: str
    """Of its scores: the function's."""
    spec: str
    """``module:function``."""
    sha256: str
    """Of the file it stands in; empty where it has none."""
    function: Callable[[str, list[str]], Any] = field(compare=False)

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """The function's score of an answer.

        Raises:
            InputError: it raises, or gives no finite number.
        """
        try:
            found = self.function(prediction, list(references))
        except Exception as error:  # it is anyone's code
            raise InputError(
                f"metric {self.spec}: it fails on an answer of {len(prediction):,} characters",
                [_told(error)],
                "Mend the function so that it takes any text, the empty one too.",
            ) from None
        if not isinstance(found, Real) or not math.isfinite(found):
            shown = f"{found}" if isinstance(found, Real) else f"a value of type {type(found).__name__}"
            raise InputError(
                f"metric {self.spec}: it gives {shown} for an answer of {len(prediction):,} characters",
                ["expected a finite number, as in 0 to 100"],
                f"Mend the function: {SIGNATURE}.",
            )
        return float(found)


def load(specs: str | None, taken: Collection[str] = METRIC_LABELS) -> list[OwnMetric]:
    """The functions named in ``module:function``, several separated by commas, each tried on a few texts.

    Args:
        specs: None is none.
        taken: names that scores have already.

    Raises:
        InputError: no such module or function, it can't be called with an answer and its references, it gives no
            finite number, or its name is taken.
    """
    found: list[OwnMetric] = []
    for spec in [] if specs is None else [each.strip() for each in specs.split(",")]:
        metric = _load(spec)
        if metric.name in (*taken, *(each.name for each in found)):
            raise InputError(
                f"metric {spec}: there is a score named {metric.name} already",
                mend="Give the function a name of its own; its scores stand under it.",
            )
        for prediction, references in TRIALS:
            metric.score(prediction, references)
        found.append(metric)
    return found


def _load(spec: str) -> OwnMetric:
    module_name, colon, name = spec.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module_name.split("."))):
        raise InputError(
            f"metric {spec!r}: expected module:function",
            mend=f"For instance --metric scores:polite, with polite{SIGNATURE} in scores.py.",
        )
    module = _import(module_name, spec)
    known = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
    file = getattr(module, "__file__", None)
    if not hasattr(module, name):
        hint = did_you_mean(name, known)
        raise InputError(
            f"metric {spec}: no {name} in {file or module_name}" + (f"; {hint}" if hint else ""),
            mend=f"Name a function of the module: {SIGNATURE}.",
        )
    function = getattr(module, name)
    if not callable(function):
        raise InputError(
            f"metric {spec}: {name} is a value of type {type(function).__name__}, not a function",
            mend=f"Name a function of the module: {SIGNATURE}.",
        )
    _check_signature(function, spec)
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return OwnMetric(name, spec, digest, function)


def _import(name: str, spec: str) -> Any:
    """The module; one of the working directory comes before an installed one of the same name."""
    top = name.split(".")[0]
    if top in sys.stdlib_module_names:  # a run's settings may come from elsewhere: nothing there starts a subprocess
        raise InputError(
            f"metric {spec}: {top} is a module of Python itself",
            mend="Give the file with your function another name.",
        )
    here = str(Path.cwd())
    importlib.invalidate_caches()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # importing runs the module, which can raise anything
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            hint = did_you_mean(name, [path.stem for path in Path(here).glob("*.py")])
            raise InputError(
                f"metric {spec}: no module {error.name}" + (f"; {hint}" if hint else ""),
                [f"looked in {here} and among the installed packages"],
                "Start seqtune in the folder with the file, or install the package.",
            ) from None
        mend = "Mend the module; `python -c 'import " + name + "'` shows the same."
        raise InputError(f"metric {spec}: {name} can't be imported", [_told(error)], mend) from None
    finally:
        if here in sys.path:
            sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)  # for what the function imports when it is called; last, so that it hides nothing


def _check_signature(function: Callable[..., Any], spec: str) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C do not tell
        return
    try:
        signature.bind("", [""])
    except TypeError:
        raise InputError(
            f"metric {spec}: it takes {signature}", [f"expected {SIGNATURE}"], "Mend the function's arguments."
        ) from None


def _told(error: BaseException) -> str:
    """The error in a line, with the last place in the user's code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    said = (str(error).splitlines() or [""])[0]
    place = f"{frames[-1].filename}, line {frames[-1].lineno}: " if len(frames) > 1 else ""
    return f"{place}{type(error).__name__}" + (f": {said}" if said else "")
