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

from typing import TYPE_CHECKING

from seqtune.picture import drawing, flowchart, graph, page

if TYPE_CHECKING:
    from hamilton.driver import Driver

__all__ = ["html", "mermaid", "svg"]


def mermaid(driver: Driver) -> str:
    """The dataflow as a Mermaid flowchart, one subgraph a module; GitHub shows it in a ``mermaid`` code block."""
    return flowchart.render(graph.read(driver))


def svg(driver: Driver) -> str:
    """The dataflow as a self-contained SVG picture, light or dark as the viewer's system is."""
    return drawing.render(graph.read(driver))


def html(driver: Driver) -> str:
    """The dataflow as one page: the picture, and a table of every node to which its box links."""
    return page.render(graph.read(driver))
