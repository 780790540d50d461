"""The page of `seqtune compare --html`: one file, no script, no network.

Questions, answers and names are text of strangers: the template escapes everything, and the page's
Content-Security-Policy allows neither script nor a single request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from seqtune.comparing.table import SECTIONS
from seqtune.metrics import LESS_IS_BETTER, METRIC_LABELS

#: Changed answers that the page shows.
SHOWN = 500


def render(found: Mapping[str, Any]) -> str:
    """The page of a comparison (`seqtune.comparing.compare`)."""
    environment = Environment(
        loader=PackageLoader("seqtune.comparing"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("compare.html.j2").render(
        **found, sections=SECTIONS, labels=METRIC_LABELS, less_is_better=LESS_IS_BETTER, shown=SHOWN
    )
