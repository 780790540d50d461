"""What is known of a run at a moment, and the page and the JSON that are made of it. Two threads meet here."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from seqtune.progress import Progress
from seqtune.report import curves, facts, page, safety

#: The share of the server's time that drawing the curves may take: a long log is drawn less often.
SHARE = 0.05


@dataclass
class State:
    """All of it. ``facts`` are results of nodes by name; ``version`` grows when there is more to show than curves."""

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    picture: tuple[Markup, str] | None = None
    progress: Progress | None = None
    log: Sequence[dict[str, Any]] = ()
    samples: list[dict[str, Any]] = field(default_factory=list)
    report: str | None = None
    version: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _curves: tuple[int, float, dict[str, Any]] = (-1, 0.0, {})

    def advance(self, report: Progress) -> None:
        """Note how far it is. The page is made anew when training begins: all of the data is known then."""
        with self._lock:
            if report.stage == "training" and (self.progress is None or self.progress.stage != "training"):
                self.version += 1
            self.progress = report

    def finish(self, report: str) -> None:
        """Note the finished report, which is shown from now on."""
        with self._lock:
            self.report = report
            self.version += 1

    def html(self) -> str:
        """The page as things stand; the report itself once it is there."""
        if self.report is not None:
            return self.report
        live = {"stage": self.progress.stage if self.progress else "getting ready", "version": self.version}
        return page.render(
            facts.manifest(self.facts), list(self.log), {}, picture=self.picture, name=self.name, live=live
        )

    def json(self) -> str:
        """What the page asks for every second."""
        with self._lock:
            report, log = self.progress, list(self.log)
            told: dict[str, Any] = {
                "version": self.version,
                "stage": report.stage if report else "getting ready",
                "samples": self.samples,
            }
            if report:
                told |= {"done": report.done, "total": report.total, "unit": report.unit, "figures": report.figures}
            if drawn := self._drawn(log):
                told["curves"] = drawn
        return safety.in_html(told)

    def _drawn(self, log: list[dict[str, Any]]) -> dict[str, Any]:
        steps, until, drawn = self._curves
        if len(log) != steps and time.monotonic() >= until:
            started = time.monotonic()
            drawn = curves.of_log(log)
            took = time.monotonic() - started
            self._curves = (len(log), time.monotonic() + took / SHARE, drawn)
        return drawn
