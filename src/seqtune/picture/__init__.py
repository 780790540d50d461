"""Pictures of a dataflow: Mermaid, SVG and a page of HTML, without the graphviz binary.

The inputs (some fifty knobs) are not drawn: a box tells how many it takes and names them in its tooltip. Modules lie
below each other in order of execution, each in a band of its own; modules that need each other share a band.

What a picture shows comes from the functions of the dataflow, a user's own among them, so every name, type and
docstring is treated as text: escaped, never markup. The page loads nothing and runs no script.

    graph.py      what is drawn: boxes, modules, edges, read from a Hamilton driver
    rows.py       which box stands in which row
    across.py     where in its row: order with few crossings, then horizontal places
    drawing.py    the SVG: coordinates of everything
    page.py       the page of HTML around it
    flowchart.py  the Mermaid flowchart
    colours.py    the colours of all of them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from markupsafe import Markup

from seqtune.picture import drawing, flowchart, graph, page

if TYPE_CHECKING:
    from hamilton.driver import Driver

__all__ = ["html", "linked", "mermaid", "running", "running_linked", "svg"]

_running: ContextVar[Driver | None] = ContextVar("seqtune_running_driver", default=None)


def mermaid(driver: Driver) -> str:
    """The dataflow as a Mermaid flowchart, one subgraph a module; GitHub shows it in a ``mermaid`` code block."""
    return flowchart.render(graph.read(driver))


def svg(driver: Driver) -> str:
    """The dataflow as a self-contained SVG picture, light or dark as the viewer's system is."""
    return drawing.render(graph.read(driver))


def html(driver: Driver) -> str:
    """The dataflow as one page: the picture, and a table of every node to which its box links."""
    return page.render(graph.read(driver))


def linked(driver: Driver, anchor_of: Callable[[str], str]) -> tuple[Markup, str]:
    """The dataflow as an SVG for a page of others, and the style that the page must have.

    Args:
        driver: whose dataflow.
        anchor_of: for a node's name the id, on that page, to which its box leads.
    """
    picture = graph.read(driver)
    for box in picture.boxes.values():
        box.anchor = anchor_of(box.name)
    return drawing.drawn(picture, links=True, css=None), drawing.style(picture)


@contextmanager
def running(driver: Driver) -> Iterator[None]:
    """Inside the block `running_linked` draws this driver's dataflow, a user's own nodes among it."""
    token = _running.set(driver)
    try:
        yield
    finally:
        _running.reset(token)


def running_linked(anchor_of: Callable[[str], str]) -> tuple[Markup, str] | None:
    """`linked` for the dataflow that is being executed; None where it is not one of `seqtune.build_driver`."""
    driver = _running.get()
    return None if driver is None else linked(driver, anchor_of)
