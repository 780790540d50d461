"""How a module of somebody else's model gets another ``forward``, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def replaced_forward(modules: Iterable[nn.Module], make: Callable[[Any], Callable[..., Any]]) -> Iterator[None]:
    """Inside, each of these modules runs ``make(module)``; afterwards its class's own ``forward`` again.

    The replacement hangs on the object, not on its class: no other model in the process sees it.
    """
    changed: list[nn.Module] = []
    try:
        for module in modules:
            replacement = make(module)
            module.forward = replacement
            changed.append(module)
        yield
    finally:
        for module in changed:
            del module.__dict__["forward"]
