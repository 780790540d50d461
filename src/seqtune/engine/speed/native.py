"""The native code: compiled once on the machine that runs it, kept in the user's cache, called through ctypes.

Any C compiler with OpenMP will do for the kernels (GCC, Clang), and a C++ one for the memory pool; it takes about three
seconds, once. Where there is none, the fast engine goes without and says so. Nothing is compiled when seqtune is
installed, so that one wheel fits all.

The kernels are linked against the OpenMP runtime that PyTorch has already loaded (the loader finds it by name): a
second set of worker threads would fight with PyTorch's for the cores.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqtune.progress import warn

#: Reassociated sums, no traps, no errno: what vectorising needs. Not -ffast-math: that would let NaN and infinity pass
#: for numbers, and its start-up code turns denormal numbers off for the whole process.
FLAGS = (
    "-O3", "-march=native", "-fPIC", "-fopenmp", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math",
    "-freciprocal-math", "-fno-math-errno",
)  # fmt: skip
WIDE = "-mprefer-vector-width=512"

_C = ("CC", "cc", "gcc", "clang")
_FLAGS = ((*FLAGS, WIDE, "-lm"), (*FLAGS, "-lm"))  # the second for compilers and processors that know no such width

#: Where the sources are.
SOURCES = Path(__file__).with_name("c")

_SUFFIX = {torch.float32: "f", torch.bfloat16: "b"}


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The compiled kernels; None, with a warning, where they can't be made."""
    return _loaded("kernels", ".c", _C, _FLAGS)


@functools.cache
def pool() -> ctypes.CDLL | None:
    """The compiled memory pool; None, with a warning, where it can't be made, and on anything but Linux."""
    if sys.platform != "linux":
        return None
    home = Path(torch.__file__).parent
    flags = ("-std=c++20", "-O2", "-fPIC", f"-I{home / 'include'}", f"-L{home / 'lib'}", "-lc10")
    return _loaded("pool", ".cpp", ("CXX", "c++", "g++", "clang++"), (flags,))


def call(name: str, *arguments: Any) -> None:
    """Call a kernel by its name: tensors go as pointers (and must be contiguous), None as NULL, the thread count last.

    Raises:
        RuntimeError: there is no compiled library; ask `kernels` first.
    """
    function = _functions.get(name) or _prepared(name, arguments)
    function(*[a if type(a) in _PLAIN else a.data_ptr() for a in arguments], torch.get_num_threads())


def suffix(*tensors: Tensor) -> str:
    """``f`` or ``b`` for each tensor, as the kernels' names end."""
    return "".join(_SUFFIX[tensor.dtype] for tensor in tensors)


def takes(tensor: Tensor) -> bool:
    """Whether the kernels compute with such a tensor: on the CPU, fp32 or bf16."""
    return tensor.device.type == "cpu" and tensor.dtype in _SUFFIX


#: Functions that were called before, by name: hundreds of calls a step are worth not looking each of them up.
_functions: dict[str, Any] = {}


def _prepared(name: str, arguments: Sequence[Any]) -> Any:
    """The function of that name, told from its first arguments what it takes: pointers, numbers of 64 bits, floats."""
    library = kernels()
    if library is None:
        raise RuntimeError("the kernels are not compiled")
    kinds = [_KINDS[type(argument)] for argument in arguments]
    function = getattr(library, name)
    function.argtypes, function.restype = [*kinds, ctypes.c_int64], None
    _functions[name] = function
    return function


#: What goes to a kernel as it is.
_PLAIN = {int, float, type(None)}

_KINDS: dict[type, Any] = {
    Tensor: ctypes.c_void_p, torch.nn.Parameter: ctypes.c_void_p, type(None): ctypes.c_void_p,
    float: ctypes.c_float, int: ctypes.c_int64,
}  # fmt: skip


def _loaded(name: str, ending: str, compilers: Sequence[str], choices: Sequence[Sequence[str]]) -> ctypes.CDLL | None:
    """The library made of the sources with that ending; the compiler is the first name's variable or another name."""
    names = [*os.environ.get(compilers[0], "").split()[:1], *compilers[1:]]
    compiler = next((path for name in names if (path := shutil.which(name))), None)
    if compiler is None:
        warn(f"no compiler ({', '.join(compilers[1:])}): training is slower than it could be on this machine")
        return None
    try:
        return ctypes.CDLL(str(_built(name, ending, compiler, choices)))
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines() or ["no message"]
        first = next((line for line in said if "error" in line), said[0])
        warn(f"{compiler} could not make the {name}, training is slower than it could be: {first}")
        return None


def _built(name: str, ending: str, compiler: str, choices: Sequence[Sequence[str]]) -> Path:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    sources = sorted(SOURCES.glob("*" + ending))
    key = hashlib.sha256(b"\0".join(file.read_bytes() for file in [*sorted(SOURCES.glob("*.h")), *sources]))
    for part in (
        version,
        torch.__version__,
        platform.machine(),
        _processor(),
        *(f for flags in choices for f in flags),
    ):
        key.update(part.encode() + b"\0")
    file = f"{name}-{key.hexdigest()[:32]}.so"
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqtune" / "native"
        if (cache / file).is_file():
            return cache / file
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=cache))
    except (OSError, RuntimeError):  # a home that is read-only or unknown: for this process alone
        cache = folder = Path(tempfile.mkdtemp())
    place = cache / file
    new = folder / "new.so"
    try:
        _compile(sources, compiler, choices, new)
        new.replace(place)  # in one step: another process never sees half a library
    finally:
        new.unlink(missing_ok=True)
        if place.parent != folder:
            folder.rmdir()
    return place


def _compile(sources: Sequence[Path], compiler: str, choices: Sequence[Sequence[str]], target: Path) -> None:
    *others, last = choices
    for flags in others:
        if _run(compiler, sources, flags, target).returncode == 0:
            return
    _run(compiler, sources, last, target).check_returncode()


def _run(
    compiler: str, sources: Sequence[Path], flags: Sequence[str], target: Path
) -> subprocess.CompletedProcess[str]:
    command = [compiler, "-shared", *map(str, sources), *flags, "-o", str(target)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def _processor() -> str:
    """What -march=native depends on: a home shared between machines must not mix their libraries up."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
