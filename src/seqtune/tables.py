"""The table of inputs, made from `seqtune.settings`: for the terminal, for machines, for the documentation."""

from __future__ import annotations

from seqtune.settings import knobs

COLUMNS = ("name", "type", "bounds", "default", "unit", "use")


def rows() -> list[dict[str, str]]:
    """A dict per knob with the keys of `COLUMNS` and its ``group``."""
    return [
        {
            "name": knob.name,
            "type": knob.type_name,
            "bounds": knob.bounds_text,
            "default": knob.default_text,
            "unit": knob.unit,
            "use": knob.help,
            "group": knob.group,
        }
        for knob in knobs().values()
    ]


def markdown() -> str:
    """The table in Markdown, a section a group."""
    lines: list[str] = []
    group = ""
    for row in rows():
        if row["group"] != group:
            group = row["group"]
            lines += ["", f"### {group.capitalize()}", "", "| input | type | default | use |", "|---|---|---|---|"]
        kind = ", ".join(part for part in (row["type"].replace(" | ", " or "), row["bounds"]) if part)
        unit = f" ({row['unit']})" if row["unit"] else ""
        lines.append(f"| `{row['name']}` | {kind}{unit} | {row['default']} | {row['use']} |")
    return "\n".join(lines).strip()
