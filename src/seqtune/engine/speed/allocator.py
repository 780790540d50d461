"""Large tensors in memory of their own, that is kept from step to step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from seqtune.engine.speed import native


@contextmanager
def pooled_memory() -> Iterator[bool]:
    """Inside, PyTorch takes CPU tensors of 32 kB and more from ``pool.cpp``; afterwards from where it did before.

    Tensors that are still alive then stay where they are; what is free goes back to the system.

    Yields:
        Whether it is on: it needs Linux and a C++ compiler.
    """
    pool = native.pool()
    on = pool is not None and bool(pool.pool_enter())
    try:
        yield on
    finally:
        if pool is not None and on:
            pool.pool_leave()
