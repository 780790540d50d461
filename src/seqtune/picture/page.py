"""The page of HTML: the picture, and tables of all nodes. One file; no script, no network.

Its Content-Security-Policy allows the page's own style and nothing else.
"""

from __future__ import annotations

import base64
import hashlib

from markupsafe import Markup

from seqtune.picture import drawing
from seqtune.picture.graph import Picture, count


def render(picture: Picture) -> str:
    """The page as text."""
    environment = drawing.environment()
    style = drawing.style(picture) + environment.get_template("page.css").render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        picture=picture,
        svg=drawing.drawn(picture, links=True, css=None),
        style=Markup(style),  # made of constants
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        summary=f"{count(len(picture.boxes), 'node')} in {count(len(picture.modules), 'module')}, "
        f"{count(len(picture.edges), 'edge')}, {count(len(picture.inputs), 'input')}",
    )
