"""Comparisons and lists of runs for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqtune.comparing.listing import sparkline
from seqtune.metrics import LESS_IS_BETTER, METRIC_LABELS
from seqtune.run import how_to_resume
from seqtune.terminal import clean, output

#: What each section of differences is called.
SECTIONS = {
    "settings": "settings",
    "derived": "settings that follow from them",
    "data": "data",
    "base_model": "base model",
    "versions": "versions",
    "machine": "machine",
}
#: Characters of a value that are shown.
LONGEST = 40


def show_comparison(found: Mapping[str, Any], answers: int) -> None:
    """What differs, the metrics with their intervals, and so many of the answers that changed."""
    console = output()
    names = [clean(run["name"]) for run in found["runs"]]
    for name, run in zip(names, found["runs"], strict=True):
        console.print(Text.assemble((name, "bold"), f"  {clean(run['sentence'] or 'no verdict')}"), soft_wrap=True)
    console.print()
    _differences(console, found["differences"], names)
    for note in found["notes"]:
        console.print(Text.assemble(("note: ", "bold yellow"), clean(note)), soft_wrap=True)
    for split, each in found["sets"].items():
        if each["metrics"]:
            _metrics(console, each, names, f"{each['rows']} {split.replace('_', '-')} rows that all have answered")
    changed = found["sets"]["hold_out"]["changed"]
    if changed:
        shown = f", the {min(answers, len(changed))} that changed most" if answers else ""
        console.print(Text(f"\n{len(changed)} of {found['sets']['hold_out']['rows']} hold-out answers changed{shown}"))
        for row in changed[:answers]:
            _answers(console, row, names)


def show_runs(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of the runs of a folder."""
    console = output()
    if not rows:
        console.print("no runs here")
        return
    groups = len({row["group"] for row in rows if row["state"] == "finished"})
    finished = [row for row in rows if row["state"] == "finished"]
    for group in dict.fromkeys(row["group"] for row in finished):
        members = [row for row in finished if row["group"] == group]
        if groups > 1:
            heading = f"{clean(members[0]['data'])}, {len(members)} run{'s' if len(members) > 1 else ''}"
            console.print(Text(f"{'' if group == 1 else chr(10)}{heading}", "bold"))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("run", overflow="fold")
        for name in ("base", "tuned", "lift (95 %)", "steps"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("loss", no_wrap=True)
        table.add_column("validation", no_wrap=True)
        table.add_column("model", overflow="fold")
        for row in members:
            style = {"better": "green", "worse": "red"}.get(row["verdict"], "")
            table.add_row(
                Text(clean(row["name"]), "bold" if row is members[0] else ""),
                _number(row["base"]),
                _number(row["tuned"]),
                Text(f"{row['low']:+.1f} to {row['high']:+.1f}", style),
                str(row["steps"] if row["steps"] is not None else "–"),
                Text(sparkline(row["loss"]), "cyan"),
                Text(sparkline(row["validation_loss"], 10), "magenta"),
                Text(clean(str(row["model_id"]))),
            )
        console.print(table)
        console.print(
            Text(f"{METRIC_LABELS.get(members[0]['metric'], members[0]['metric'])} of the hold-out rows", "dim")
        )
    for row in rows:
        if row["state"] == "stopped":
            line = f"{clean(row['name'])}: not finished; `{clean(how_to_resume(row['path']))}` goes on"
            console.print(Text(line, "yellow"), soft_wrap=True)
        elif row["state"] == "damaged":
            console.print(Text(f"{clean(row['name'])}: can't be read ({clean(row['reason'])})", "red"), soft_wrap=True)


def _differences(console: Console, sections: Mapping[str, Mapping[str, Sequence[Any]]], names: Sequence[str]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("what differs", *names):
        table.add_column(Text(heading), overflow="fold")
    for section, title in SECTIONS.items():
        if sections[section]:
            table.add_row(Text(title, "dim italic"))
            for name, values in sections[section].items():
                table.add_row(Text(f"  {clean(name)}"), *(Text(_value(value)) for value in values))
    if table.row_count:
        console.print(table)
    else:
        console.print("The runs were made in the same way.")


def _metrics(console: Console, each: Mapping[str, Any], names: Sequence[str], title: str) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(Text(title), no_wrap=True)
    for index, name in enumerate(names):
        table.add_column(Text(name), justify="right", overflow="fold")
        if index:
            table.add_column("difference (95 %)", justify="right", no_wrap=True)
    for name, metric in each["metrics"].items():
        cells = [Text(clean(str(METRIC_LABELS.get(name, name))))]
        for value, against in zip(metric["values"], metric["against_first"], strict=True):
            cells.append(Text(f"{value:.2f}"))
            if against is not None:
                better = (against["lift"] > 0) != (name in LESS_IS_BETTER)
                style = ("green" if better else "red") if against["clear"] else "dim"
                interval = f"{against['lift']:+.2f} ({against['low']:+.2f} to {against['high']:+.2f})"
                cells.append(Text(interval, style))
        table.add_row(*cells)
    console.print()
    console.print(table)


def _answers(console: Console, row: Mapping[str, Any], names: Sequence[str]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(justify="right", style="dim")
    table.add_column(overflow="fold")
    table.add_row("question", Text(clean(row["input"])))
    table.add_row("reference", Text(clean(row["reference"])))
    for name, answer, score in zip(names, row["answers"], row["scores"], strict=True):
        table.add_row(Text(name), Text.assemble(clean(answer) or "(nothing)", (f"  {_number(score)}", "dim")))
    console.print()
    console.print(table)


def _value(value: Any) -> str:
    text = "–" if value is None else clean(str(value))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _number(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else "–"
