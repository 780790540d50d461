"""What a person sees: one live display while it works, notes as they come, tables at the end.

Notes and the display go to standard error, so that standard output holds results alone. Without a terminal there is no
live display, just the notes, each in one line.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from seqtune import progress
from seqtune.data.findings import LEVELS, Finding, worst

#: Metrics of the closing table, in its order: key, name, whether more is better. Metrics of your own follow them.
SHOWN_METRICS = (
    ("rouge1", "ROUGE-1", True),
    ("rouge2", "ROUGE-2", True),
    ("rougeL", "ROUGE-L", True),
    ("bleu", "BLEU", True),
    ("chrf", "chrF", True),
    ("exact_match", "exact match", True),
    ("f1", "F1", True),
    ("identical", "identical", True),
    ("loss", "loss", False),
    ("bits_per_byte", "bits a byte", False),
)

#: Metrics that the closing table leaves to the report.
LEFT_OUT = ("rougeLsum",)

#: Width of a table that goes to a file or a pipe, in columns.
PIPED_WIDTH = 100

_JOINERS = "\u200c\u200d"  # invisible, but Persian and Hindi are spelled with them
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@contextmanager
def display(*, notes: bool = True, live: bool = True) -> Iterator[None]:
    """Show progress and notes on standard error while the block runs.

    Args:
        notes: show what is said; without it, warnings alone.
        live: draw the live display, where standard error is a terminal.
    """
    console = Console(stderr=True, highlight=False)
    drawing = _Drawing(console, trail=notes)
    logger = logging.getLogger("seqtune")
    before = logger.level, logger.propagate
    handler = _Notes(console)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if notes else logging.WARNING)
    logger.propagate = False
    try:
        with warnings.catch_warnings(), progress.listening(drawing):
            # Raised by PEFT's call of transformers; nobody but PEFT can mend it.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            if live and console.is_terminal:
                with Live(drawing, console=console, transient=True, redirect_stdout=False, refresh_per_second=8):
                    yield
                    drawing.finish()
            else:
                yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _Drawing:
    """The live display: the stage, how far it is, its figures. A finished stage leaves one line behind.

    Args:
        console: where it is drawn.
        trail: whether finished stages leave their line.
    """

    def __init__(self, console: Console, trail: bool):
        self.console = console
        self.trail = trail
        self.spinner = Spinner("dots", style="cyan")
        self.report: progress.Progress | None = None
        self.started = time.monotonic()
        self.first: tuple[float, int] = (self.started, 0)
        self.last = self.started
        self.between = "getting ready"

    def __call__(self, report: progress.Progress) -> None:
        """Take a report in."""
        now = time.monotonic()
        if self.report is None or report.stage != self.report.stage or report.done < self.report.done:
            self.finish()
            self.first = (now, report.done)
            self.between = "working"
        self.report, self.last = report, now
        if report.done >= report.total:
            self.finish()

    def finish(self) -> None:
        """End the stage: its line is printed for keeps."""
        report, now = self.report, time.monotonic()
        self.report = None
        if report is not None and self.trail and self.console.is_terminal:
            took = f"{report.done} {report.unit}"
            if now - self.started >= 1:
                took += f" in {duration(now - self.started)}"
            line = Text.assemble(("✓ ", "green"), report.stage, "  ", (took, "dim"), "  ", (_figures(report), "dim"))
            self.console.print(line, soft_wrap=True)
        self.started = now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw two lines: stage, bar and count; figures, rate and time left."""
        now, report = time.monotonic(), self.report
        spinner = self.spinner.render(console.get_time())
        if report is None:
            line = Table.grid(padding=(0, 1))
            line.add_row(spinner, Text(self.between), Text(duration(now - self.started), "dim"))
            yield line
            return
        count = f"{report.done}/{report.total} {report.unit}"
        room = options.max_width - len(report.stage) - len(count) - 6
        line = Table.grid(padding=(0, 1))
        cells = [spinner, Text(report.stage, "bold")]
        if room >= 10:
            cells.append(ProgressBar(report.total, report.done, width=min(room, 40), complete_style="cyan"))
        line.add_row(*cells, Text(count))
        yield line
        facts = [_figures(report)] if report.figures else []
        since, done_then = self.first
        if report.done > done_then and self.last > since:
            rate = (report.done - done_then) / (self.last - since)
            facts.append(f"{rate:.1f} {report.unit}/s" if rate >= 1 else f"{1 / rate:.1f} s/{report.unit.rstrip('s')}")
            facts.append(f"{duration(max(0.0, (report.total - report.done) / rate - (now - self.last)))} left")
        yield Text("  " + "   ".join(facts), "dim", no_wrap=True, overflow="ellipsis")


class _Notes(logging.Handler):
    """Prints what is said: wrapped at words on a terminal, a line each elsewhere; control characters taken out."""

    def __init__(self, console: Console):
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            note = Text(clean(record.getMessage()))
            if record.levelno >= logging.WARNING:
                note = Text.assemble(("note: ", "bold yellow"), note)
            if not self.console.is_terminal:
                self.console.print(note, soft_wrap=True)
                return
            for number, line in enumerate(_wrapped(self.console, note, self.console.width - 2)):
                self.console.print(Text("  " if number else "") + line, soft_wrap=True)
        except Exception:
            self.handleError(record)


def _wrapped(console: Console, text: Text, width: int) -> list[Text]:
    """The lines of a text, broken at words; nothing is padded."""
    lines = list(text.wrap(console, width))
    for line in lines:
        line.rstrip()
    return lines


def _figures(report: progress.Progress) -> str:
    return "   ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in report.figures.items())


def duration(seconds: float) -> str:
    """``9 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def clean(text: str) -> str:
    """Text with its control characters (escape sequences, bells) taken out; line ends, tabs and joiners stay."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t\u00a0" or c in _JOINERS)


def as_json(content: Any, indent: int | None = None) -> str:
    """JSON that a terminal may be shown: what it would obey is written as an escape, and so are lone surrogates."""
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def output() -> Console:
    """Standard output: as wide as the terminal; a file or a pipe gets tables of one width."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)


def _say(console: Console, text: str) -> None:
    """A sentence: wrapped at words on a terminal, one line elsewhere."""
    console.print(Text(clean(text)), soft_wrap=not console.is_terminal)


def show_result(manifest: Mapping[str, Any], path: str | None) -> None:
    """The closing table on standard output: base against tuned on the hold-out rows, and the verdict.

    Metrics of your own stand under ours, without a colour: which way is better is not known of them.
    """
    console = output()
    metrics, verdict = manifest["metrics"]["hold_out"], manifest["verdict"]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    for name in ("base", "tuned", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    ours = [key for key, _, _ in SHOWN_METRICS]
    own = [(key, clean(key), None) for key in metrics["tuned"] if key not in (*ours, *LEFT_OUT)]
    for key, name, more_is_better in (*SHOWN_METRICS, *own):
        base, tuned = (metrics[model].get(key) for model in ("base", "tuned"))
        if _is_number(base) and _is_number(tuned):
            gain = 0.0 if more_is_better is None else round(tuned - base if more_is_better else base - tuned, 2)
            style = "green" if gain > 0 else "red" if gain < 0 else ""
            difference = Text(f"{tuned - base:+.2f}", style)
            table.add_row(Text(name), f"{base:.2f}", Text(f"{tuned:.2f}", "bold"), difference)
    console.print()
    unseen = ", which training has not seen" if verdict.get("unseen", True) else ""
    _say(console, f"{verdict['rows']} hold-out rows{unseen}:")
    console.print(table)
    console.print()
    _say(console, verdict["sentence"])
    if path is not None:
        console.print(Text(f"\nrun directory  {clean(path)}\nreport         {clean(path)}/report.html"), soft_wrap=True)
        console.print(Text(f"ask it         seqtune predict {clean(path)} questions.jsonl"), soft_wrap=True)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def show_answers(rows: Sequence[Mapping[str, Any]]) -> None:
    """Questions with their reference and the answers of base and tuned model, on standard output."""
    console = output()
    for row in rows:
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
        table.add_column(justify="right", style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, key in (("question", "input"), ("reference", "reference"), ("base", "base"), ("tuned", "tuned")):
            table.add_row(name, Text(clean(row[key]) or "(nothing)", style="bold" if key == "tuned" else ""))
        console.print()
        console.print(table)


def show_inputs(rows: Sequence[Mapping[str, str]]) -> None:
    """The table of inputs on standard output, a section a group."""
    console = output()
    group = ""
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            console.print(Text(("" if row is rows[0] else "\n") + group.capitalize(), "bold"))
        kind = ", ".join(part for part in (row["type"], row["bounds"], row["unit"]) if part)
        console.print(Text.assemble("  ", (row["name"], "cyan"), "  ", (kind, "dim")))
        for line in _wrapped(console, Text(f"{row['use']} Default: {row['default']}."), console.width - 6):
            console.print(Text("      ") + line, soft_wrap=True)


def show_plan(plan: Mapping[str, Any]) -> None:
    """What a run will take, on standard output, and which settings suit it better."""
    console = output()
    rows, seconds, memory, disk = plan["rows"], plan["seconds"], plan["memory"], plan["disk"]
    tokens = " and ".join(f"{number:,} {side}" for side, number in plan["tokens"].items())
    about = "" if plan["model_is_here"] else " (guessed from characters)"
    steps = plan["steps"]
    lines = [
        ("rows", f"{rows['train']:,} to train on, {rows['validation']:,} validation, {rows['hold_out']:,} hold-out"),
        ("tokens", f"{tokens}, in training{about}"),
        ("steps", f"{steps['total']:,}, {steps['of_an_epoch']:,} an epoch"),
    ]
    if seconds is not None:
        parts = ", ".join(f"{duration(value)} {name}" for name, value in seconds.items() if name != "total")
        lines.append(("time", f"about {duration(seconds['total'])}: {parts}"))
        lines.append(
            ("memory", f"{memory['peak_bytes'] / 2**30:.1f} GiB at most; {memory['free_bytes'] / 2**30:.1f} free")
        )
    else:
        lines.append(("model", f"{plan['model_id']} is not on this machine: time and memory can't be measured"))
    needed = f"{disk['needed_bytes'] / 2**20:,.0f} MiB; " if disk["needed_bytes"] else ""
    lines.append(("disk", f"{needed}{disk['free_bytes'] / 2**30:.0f} GiB free"))
    console.print(_pairs(lines))
    if plan["proposals"]:
        console.print(Text("\nThis would suit the data better:", "bold"))
        console.print(_pairs([(each["option"], each["reason"]) for each in plan["proposals"]]))


def _pairs(lines: Sequence[tuple[str, str]]) -> Table:
    """Names and what belongs to them, without a frame."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(clean(name), clean(text))
    return table


#: Colours of the verdicts.
_VERDICT_STYLES = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red"}


def show_findings(findings: Sequence[Finding]) -> None:
    """The checks of the data on standard output, each with its verdict, what was found and what to do about it."""
    console = output()
    room = max(20, console.width - 6) if console.is_terminal else 10_000
    for finding in findings:
        style = _VERDICT_STYLES[finding.verdict]
        _say_under(console, Text.assemble((finding.verdict, style), "  ", _words(finding)), room)
        for line in (*finding.examples, *([finding.mend] if finding.mend else [])):
            mend = line is finding.mend
            for part in _wrapped(console, Text(clean(line), "" if mend else "dim"), room - 2):
                console.print(Text("        ") + part, soft_wrap=True)
    counts = Counter(finding.verdict for finding in findings)
    words = ", ".join(f"{counts[level]} {level}" for level in LEVELS if counts[level])
    console.print(Text.assemble("\n", (worst(findings), _VERDICT_STYLES[worst(findings)]), f"  {words}"))


def _words(finding: Finding) -> Text:
    passed = finding.verdict == "PASS"
    name = (finding.check.replace("_", " "), "" if passed else "bold")
    return Text.assemble(name, "  ", (clean(finding.found), "dim" if passed else ""))


def _say_under(console: Console, text: Text, room: int) -> None:
    """A paragraph whose further lines stand under its words."""
    for number, line in enumerate(_wrapped(console, text, room)):
        console.print(Text("      " if number else "") + line, soft_wrap=True)
