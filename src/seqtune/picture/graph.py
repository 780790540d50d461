"""What is drawn: the nodes of a Hamilton driver as boxes, by module, with the edges between them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hamilton.driver import Driver

LONGEST_LINE = 22  # characters of a name before it goes on in a second line
LONGEST_TYPE = 26


@dataclass
class Box:
    """A node of the dataflow as it is drawn."""

    name: str
    type: str
    what: str  # first line of the docstring
    module: str
    needs: list[str]  # other nodes
    inputs: list[str]  # knobs
    anchor: str = ""
    index: int = 0

    @property
    def lines(self) -> list[str]:
        """The name in one line, or in two that break at an underscore near the middle."""
        breaks = [i + 1 for i, character in enumerate(self.name) if character == "_" and 0 < i < len(self.name) - 1]
        if len(self.name) <= LONGEST_LINE or not breaks:
            return [self.name]
        middle = min(breaks, key=lambda i: abs(2 * i - len(self.name)))
        return [self.name[:middle], self.name[middle:]]

    @property
    def note(self) -> str:
        """The line below the name: type, and how many inputs."""
        kind = self.type if len(self.type) <= LONGEST_TYPE else self.type[: LONGEST_TYPE - 1] + "…"
        return f"{kind} · {count(len(self.inputs), 'input')}" if self.inputs else kind


@dataclass
class Picture:
    """The boxes in reading order, and their modules from first to last by label."""

    boxes: dict[str, Box]
    modules: dict[str, list[Box]]
    edges: list[tuple[str, str]] = field(default_factory=list)
    inputs: set[str] = field(default_factory=set)


def read(driver: Driver) -> Picture:
    """What is drawn of a driver's graph: nodes by module, in order of execution and then of definition."""
    variables = {variable.name: variable for variable in driver.list_available_variables()}
    nodes = {name: variable for name, variable in variables.items() if not variable.is_external_input}
    homes = {name: _home(variable) for name, variable in nodes.items()}
    given = [module.__name__ for module in driver.graph_modules]
    homely = sorted({home for home, _ in homes.values()})
    full = sorted(homely, key=lambda home: given.index(home) if home in given else len(given))
    short = [home.rpartition(".")[2] for home in full]
    labels = {home: _clean(last if short.count(last) == 1 else home) for home, last in zip(full, short, strict=True)}

    picture = Picture({}, {labels[home]: [] for home in full})
    for name in sorted(nodes, key=lambda name: (full.index(homes[name][0]), homes[name][1], name)):
        variable = nodes[name]
        wanted = sorted(variable.required_dependencies | variable.optional_dependencies)
        needs = [other for other in wanted if other in nodes]
        box = Box(
            name=_clean(name),
            type=_clean(type_text(variable.type)),
            what=_clean(_what(variable, [nodes[other] for other in needs])),
            module=labels[homes[name][0]],
            needs=needs,
            inputs=[_clean(other) for other in wanted if other not in nodes],
            index=len(picture.boxes),
        )
        box.anchor = name if re.fullmatch(r"\w+", name, re.ASCII) else f"node-{box.index}"
        picture.boxes[name] = box
        picture.modules[box.module].append(box)
        picture.inputs.update(box.inputs)
    picture.edges = [(other, name) for name, box in picture.boxes.items() for other in box.needs]
    return picture


def type_text(kind: Any) -> str:
    """A type as a reader would write it: ``dict[str, Dataset]`` rather than ``dict[str, datasets.….Dataset]``."""
    if getattr(kind, "__metadata__", None):  # Annotated
        kind = kind.__origin__
    if isinstance(kind, type) and not getattr(kind, "__args__", None):
        return "None" if kind is type(None) else kind.__name__
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", str(kind))


def count(number: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def columns(text: str) -> int:
    """How many monospaced columns ``text`` takes: wide East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _what(variable: Any, needs: list[Any]) -> str:
    """The first line of a node's docstring.

    The nodes that ``@extract_fields`` makes have the docstring of the function whose result they are taken from; they
    name it, so that no two nodes say the same of themselves.
    """
    line = (variable.documentation or "").strip().partition("\n")[0].strip()
    function = variable.originating_functions[0] if variable.originating_functions else None
    whole = getattr(function, "__name__", "").partition("__")[0]  # `whole__base` makes the node `whole`
    made_together = [o.name for o in needs if o.originating_functions and o.originating_functions[0] is function]
    if variable.name != whole and whole in made_together:
        return f"Part of {whole}: {line}" if line else f"Part of {whole}."
    return line


def _home(variable: Any) -> tuple[str, int]:
    """Module of a node's function, and its first line there."""
    function = variable.originating_functions[0] if variable.originating_functions else None
    module = variable.tags.get("module") or getattr(function, "__module__", None) or "hamilton"
    return str(module), getattr(getattr(function, "__code__", None), "co_firstlineno", 0)


def _clean(text: str) -> str:
    """``text`` without what XML can't hold: control characters and halves of surrogate pairs."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
