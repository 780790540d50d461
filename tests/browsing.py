"""Fixtures: a headless Chromium, and pages opened in it. (A conftest imports them.)"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The system's Chromium; the test is skipped where there is none.

    Closed at the end of a module: while it is open, Playwright's event loop runs, and no other can be started.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra dev has it)")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"] if as_root else [])
        yield browser
        browser.close()


class Opened:
    """A page in the browser, and all that it did: requests, console errors, dialogs."""

    def __init__(self, page: Any):
        self.page = page
        self.requests: list[str] = []
        self.faults: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda said: self.faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", lambda dialog: (self.faults.append(f"dialog {dialog.message}"), dialog.dismiss()))

    def go(self, path: Path | str) -> Opened:
        self.page.goto(path.as_uri() if isinstance(path, Path) else path)
        self.page.wait_for_selector("html[data-ready]", state="attached")
        return self

    def until(self, expression: str) -> None:
        """Wait until it is true. (Playwright's own way evaluates text, which the page's policy forbids.)"""
        end = time.monotonic() + 20
        while not self._is_true(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            self.page.wait_for_timeout(30)

    def _is_true(self, expression: str) -> bool:
        try:
            return bool(self.page.evaluate(expression))
        except Exception as error:  # the page is being loaded anew
            if "context was destroyed" not in str(error):
                raise
            return False

    def until_found(self, begins: str) -> None:
        """Wait until the line above the table of answers begins like this."""
        self.until(f"document.querySelector('#found').textContent.startsWith('{begins}')")


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """``opened(html, width=…, color_scheme=…)``: the page, or that of an address, in a tab of its own."""
    tabs = []

    def make(html: str, width: int = 1200, name: str = "report.html", **options: Any) -> Opened:
        path: Path | str = html
        if not html.startswith("http:"):
            path = tmp_path / name
            path.write_text(html, encoding="utf-8")
        tab = chromium.new_page(viewport={"width": width, "height": 800}, **options)
        tabs.append(tab)
        return Opened(tab).go(path)

    yield make
    for tab in tabs:
        tab.close()
