"""The page of `seqtune compare --html`: one file in the report's style, no script, no network.

Questions, answers and names are text of strangers: the template escapes everything, and the page's
Content-Security-Policy allows no script, no request, and no style but its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from seqtune.comparing.table import SECTIONS
from seqtune.metrics import LESS_IS_BETTER, METRIC_LABELS
from seqtune.report import page, safety

#: Changed answers that the page shows.
SHOWN = 500


def render(found: Mapping[str, Any]) -> str:
    """The page of a comparison (`seqtune.comparing.compare`)."""
    environment = Environment(
        loader=PackageLoader("seqtune.comparing"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    own = files("seqtune.comparing").joinpath("templates", "compare.css").read_text(encoding="utf-8")
    styles = [page.static("base.css"), own]
    return environment.get_template("compare.html.j2").render(
        **found,
        sections=SECTIONS,
        labels=METRIC_LABELS,
        less_is_better=LESS_IS_BETTER,
        shown=SHOWN,
        policy=safety.policy([], styles),
        styles=[Markup(style) for style in styles],  # ours
    )
