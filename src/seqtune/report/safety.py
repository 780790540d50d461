"""What keeps text text: the page's Content-Security-Policy, and JSON that can stand inside HTML.

Questions, answers, names of files and of runs come from strangers. Three things hold, each of them alone: the templates
escape whatever they are given, the scripts make text nodes and nothing else of it, and the browser runs no script and
takes no style whose SHA-256 is not in the policy, and asks the network for nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_TO_ESCAPE = re.compile("[<>&\u2028\u2029\x7f\ud800-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def policy(scripts: Iterable[str], styles: Iterable[str], *, live: bool = False) -> str:
    """The policy of a page with these inline scripts and styles and nothing else.

    Args:
        scripts: their texts, as they stand in the page.
        styles: likewise. An empty one is allowed as well: plotly.js makes it and adds its rules by the style's object.
        live: the page may ask the server that it came from.
    """
    allowed = {
        "default-src": "'none'",
        "script-src": " ".join(map(_source, scripts)) or "'none'",
        "style-src": " ".join(map(_source, [*styles, ""])),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    if live:
        allowed["connect-src"] = "'self'"
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


def in_html(content: Any) -> str:
    """JSON for a script block: no character of it can end the block or start another; what is no number is null."""
    text = json.dumps(_finite(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _TO_ESCAPE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def encodable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 can't hold, replaced."""
    return _SURROGATES.sub("\ufffd", text)


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [_finite(value) for value in content]
    return content
