"""The colours of the pictures, light and dark. All text has a contrast above 6 to what lies behind it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Colours as CSS writes them."""

    page: str
    band: str  # behind a module
    rim: str  # of a band
    ink: str
    quiet: str  # less important text, heads of arrows
    modules: tuple[tuple[str, str], ...]  # fill and stroke of a module's boxes; the stroke is that of its lines too


LIGHT = Theme(
    page="#ffffff",
    band="#f7f8fa",
    rim="#e3e6ea",
    ink="#16191d",
    quiet="#4a5058",
    modules=(
        ("#e3f0ff", "#2f6fbd"),
        ("#e2f5e6", "#2b8145"),
        ("#fff0d9", "#b5690c"),
        ("#f3e8fd", "#8445b5"),
        ("#ffe6e6", "#bf3b42"),
        ("#dcf4f4", "#1c7f83"),
        ("#f1eee4", "#776b42"),
    ),
)
DARK = Theme(
    page="#0f1216",
    band="#171b21",
    rim="#2a3039",
    ink="#eceff3",
    quiet="#b7bec8",
    modules=(
        ("#15304f", "#6aa9f0"),
        ("#143722", "#62bb7d"),
        ("#432c0b", "#e0a34d"),
        ("#351f49", "#bf8ae8"),
        ("#481d20", "#ee8087"),
        ("#0f3a3c", "#58bfc3"),
        ("#36311f", "#bdae7b"),
    ),
)


def colour(number: int) -> int:
    """The index of the colours of a module: after the last one they start again."""
    return number % len(LIGHT.modules)


def mixed(top: str, below: str, share: float) -> str:
    """``top`` painted over ``below`` with an opacity of ``share``; both as ``#rrggbb``."""
    pairs = ((int(top[i : i + 2], 16), int(below[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)
