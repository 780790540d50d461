"""The dataflow as a Mermaid flowchart."""

from __future__ import annotations

import re

from seqtune.picture.colours import LIGHT, colour
from seqtune.picture.graph import Picture


def render(picture: Picture) -> str:
    """The flowchart: a subgraph a module, a line an edge. The boxes are light in a dark page too, with dark text."""
    lines = ["flowchart TD"]
    for number, (module, boxes) in enumerate(picture.modules.items()):
        lines.append(f'  subgraph module{number}["{_text(module)}"]')
        lines += [f'    n{box.index}["{_text(box.name)}<br/>{_text(box.note)}"]' for box in boxes]
        lines.append("  end")
    lines += [f"  n{picture.boxes[start].index} --> n{picture.boxes[end].index}" for start, end in picture.edges]
    for number, boxes in enumerate(picture.modules.values()):
        fill, stroke = LIGHT.modules[colour(number)]
        lines.append(f"  classDef colour{number} fill:{fill},stroke:{stroke},color:{LIGHT.ink}")
        lines.append(f"  class {','.join(f'n{box.index}' for box in boxes)} colour{number}")
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """``text`` as it may stand in a quoted label: what Mermaid or HTML could read as markup as a character's number."""
    return re.sub(r"[^\w .,:()\[\]|·…+*/=-]", lambda found: f"#{ord(found[0])};", text)
