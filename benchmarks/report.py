"""How large the report of many predictions is, and how long it takes to open.

"Opened": the table is filled and what is in sight is drawn. "Drawn": every figure of the page is. Both by the clock,
from the moment the browser began to load; "busy" is the processor time of the page's thread until all was drawn, which
other work on the machine changes much less.

    python benchmarks/report.py --rows 10000
    python benchmarks/report.py --rows 1000 10000 100000 --times 5

Needs Playwright and a Chromium (the extra `dev`, `apt-get install chromium`).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from seqtune.report import page

WORDS = [
    "reset",
    "the",
    "device",
    "by",
    "holding",
    "its",
    "button",
    "until",
    "light",
    "blinks",
    "twice",
    "then",
    "wait",
    "for",
    "a",
    "minute",
    "and",
    "open",
    "Settings",
]


def predictions(count: int) -> list[dict[str, Any]]:
    """Rows as long as those of a support desk: 20 to 100 words an answer."""
    draw = random.Random(0)
    rows = []
    for number in range(1, count + 1):
        answer = " ".join(draw.choices(WORDS, k=draw.randint(20, 100)))
        scores = {m: {k: draw.uniform(0, 100) for k in ("rougeL", "rouge1", "chrf")} for m in ("base", "tuned")}
        row = {"row": number, "input": answer[:90], "reference": answer, "base": answer[::2], "tuned": answer[:-9]}
        rows.append({**row, "scores": scores, "extra": {"category": f"c{number % 7}"}})
    return rows


def log(steps: int) -> list[dict[str, Any]]:
    """A log of so many steps."""
    return [
        {"step": s, "epoch": s / steps, "loss": 3 / s**0.3, "learning_rate": 1e-3, "tokens": 900, "seconds": 0.1}
        | ({"validation_loss": 3 / s**0.25} if s % (steps // 20) == 0 else {})
        for s in range(1, steps + 1)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000])
    parser.add_argument("--times", type=int, default=5)
    arguments = parser.parse_args()
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        parser.error("no Chromium on this machine")
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as started, tempfile.TemporaryDirectory() as folder:
        browser = started.chromium.launch(executable_path=found, args=sandbox)
        print("    rows  with text  megabytes   rendered     opened      drawn       busy  (medians)")
        for count in arguments.rows:
            rows = predictions(count)
            began = time.perf_counter()
            html = page.render({}, log(20_000), {"hold_out": rows}, text="all")
            rendered = time.perf_counter() - began
            path = Path(folder) / f"{count}.html"
            path.write_text(html, encoding="utf-8")
            took: dict[str, list[float]] = {"open": [], "ready": []}
            busy = []
            for _ in range(arguments.times):
                tab = browser.new_page()
                session = tab.context.new_cdp_session(tab)
                session.send("Performance.enable", {"timeDomain": "threadTicks"})
                tab.goto(path.as_uri())
                tab.wait_for_selector("html[data-ready]", state="attached")
                for state, seconds in took.items():  # milliseconds since the browser began to load the page
                    seconds.append(tab.evaluate(f"performance.getEntriesByName('{state}')[0].startTime") / 1000)
                found = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
                busy.append(found["TaskDuration"])
                texts = tab.evaluate("data.sets.hold_out.texts")
                tab.close()
            size = len(html.encode()) / 1e6
            medians = "".join(f" {statistics.median(each):8.2f} s" for each in (*took.values(), busy))
            print(f"{count:8,} {texts:10,} {size:10.1f} {rendered:8.1f} s{medians}")
        browser.close()


if __name__ == "__main__":
    main()
