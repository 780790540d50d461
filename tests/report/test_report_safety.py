"""Text stays text: a hundred payloads in every field that takes text, in the HTML and in the browser."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_payloads import PAYLOADS
from report_runs import rendered

from seqtune.report import safety

#: All elements outside the figures by tag and names of attributes; the words that differ may be more or fewer.
OUTLINE = """() => [...document.querySelectorAll("body *")]
    .filter((each) => !each.closest(".plot") && !["INS", "DEL"].includes(each.tagName))
    .map((each) => each.tagName + " " + each.getAttributeNames().sort().join(" "))"""


class Outline(HTMLParser):
    """The tags of a page in order, with their attributes' names, and the text of its data block."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.data = ""
        self._in_data = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))
        self._in_data = ("id", "content") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False

    def handle_data(self, data: str) -> None:
        self.data += data if self._in_data else ""


def hostile(number: int) -> Callable[[str], str]:
    """For each field another payload, so that over all numbers every field has had every one of them."""
    order: dict[str, int] = {}

    def text(field: str) -> str:
        return PAYLOADS[(number + order.setdefault(field, len(order))) % len(PAYLOADS)]

    return text


def test_there_are_a_hundred_of_them():
    assert len(set(PAYLOADS)) >= 100


@pytest.fixture(scope="module")
def harmless() -> Outline:
    return Outline(rendered())


@pytest.mark.parametrize("number", range(len(PAYLOADS)))
def test_the_html_has_the_same_tags_whatever_the_text(harmless: Outline, number: int):
    text = rendered(hostile(number))
    found = Outline(text)
    assert found.tags == harmless.tags
    assert json.loads(found.data)["sets"]["hold_out"]["rows"] == 12
    text.encode("utf-8")


def test_in_the_browser_nothing_runs_and_nothing_changes(opened: Callable[..., Any]):
    """No script runs, no request is made, the elements are those of a harmless page.

    Every payload, in a quarter of the fields; with SEQTUNE_ALL_PAYLOADS set in all of them, which takes minutes.
    """
    harmless = opened(rendered(), name="harmless.html").page.evaluate(OUTLINE)
    view = opened(rendered(), name="hostile.html")
    path = Path(view.page.url.removeprefix("file://"))
    for number in range(0, len(PAYLOADS), 1 if "SEQTUNE_ALL_PAYLOADS" in os.environ else 4):
        path.write_text(rendered(hostile(number)), encoding="utf-8")
        view.go(path)
        assert view.page.evaluate(OUTLINE) == harmless, PAYLOADS[number]
        assert view.page.evaluate("[window.ran, {}.hidden]") == [None, None], PAYLOADS[number]
        assert view.page.evaluate("document.querySelectorAll('.plot a, .plot image, .plot foreignObject').length") == 0
    assert view.faults == []
    assert {url for url in view.requests if not url.startswith("file:///")} == set()
    assert all(url.endswith("hostile.html") for url in view.requests)


def test_a_predictions_file_of_a_stranger_is_text_too(opened: Callable[..., Any], tmp_path: Path):
    lines = [
        json.dumps(
            {"row": payload, "input": payload, "reference": payload, "base": payload, "tuned": payload,
             "scores": {m: {"rougeL": 1.0, payload: 2.0} for m in ("base", "tuned")}, "extra": {payload: payload}}
        )
        for payload in PAYLOADS
    ]  # fmt: skip
    (tmp_path / "hold_out.jsonl").write_text("\n".join([*lines, "no JSON", '{"scores": 3}']), encoding="utf-8")
    view = opened(rendered(text="none"))
    view.page.set_input_files("#open-file", tmp_path / "hold_out.jsonl")
    view.until_found(str(len(PAYLOADS)))
    assert (
        view.page.evaluate("document.querySelectorAll('#rows tbody img, #rows script, #rows svg, #rows a').length") == 0
    )
    assert view.page.evaluate("window.ran") is None
    assert view.faults == []
    assert len(view.requests) == 1


def test_the_policy_allows_the_page_itself_and_nothing_else(opened: Callable[..., Any]):
    view = opened(rendered())
    view.page.evaluate("""() => { const s = document.createElement("script"); s.textContent = "window.ran=1"; document.body.append(s);
        const i = new Image(); i.src = "http://127.0.0.1:9/x"; document.body.append(i);
        const d = document.createElement("div"); d.innerHTML = "<img src=x onerror='window.ran=2'>"; document.body.append(d); }""")
    view.page.wait_for_timeout(100)
    assert view.page.evaluate("window.ran") is None
    assert any("violates the following Content Security Policy" in fault for fault in view.faults)
    policy = view.page.get_attribute("meta[http-equiv]", "content")
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize("payload", PAYLOADS)
def test_json_in_html_comes_back_and_ends_no_block(payload: str):
    text = safety.in_html({payload: [payload, 1.5, float("nan"), None, True]})
    assert not set("<>&\u2028\u2029") & set(text)
    text.encode("utf-8")
    assert json.loads(text) == {payload: [payload, 1.5, None, None, True]}
