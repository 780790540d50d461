"""The page, in a headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from serving_help import QUESTION, Served, serving

KEY = "a-key-of-some-length"
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    """The page, open; what it asks elsewhere, refuses by its policy or says of errors fails the test."""
    opened = browser.new_page(viewport={"width": 1200, "height": 800})
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda asked: problems.append(asked.url) if not asked.url.startswith(served.url) else None)
    opened.goto(served.url)
    opened.wait_for_selector("#ask:enabled")
    yield opened
    opened.close()
    assert problems == []


def ask(page: Any, question: str) -> Any:
    page.fill("#question", question)
    page.click("#ask")
    page.wait_for_selector("#ask:enabled", timeout=30_000)
    return page.locator("article").first


def test_base_and_tuned_side_by_side(page: Any, served: Served):
    shown = ask(page, QUESTION)
    assert shown.locator("h2").all_inner_texts() == ["tiny-t5, base", "run, tuned"]
    own = [served.chat(model=name, max_tokens=None)[2] for name in ("tiny-t5", "run")]
    texts = [each["choices"][0]["message"]["content"] for each in own]
    assert shown.locator(".answer").evaluate_all("each => each.map(one => one.textContent)") == texts
    assert "8 tokens in" in shown.locator(".facts").nth(1).inner_text()
    page.uncheck("#compare")
    assert ask(page, QUESTION).locator("h2").all_inner_texts() == ["run, tuned"]
    assert page.locator("article").count() == 2


def test_text_is_only_ever_text(page: Any, served: Served, monkeypatch: pytest.MonkeyPatch):
    from transformers import PreTrainedTokenizerFast

    monkeypatch.setattr(PreTrainedTokenizerFast, "decode", lambda *_, **__: HOSTILE)
    shown = ask(page, HOSTILE)
    assert shown.locator(".answer").first.inner_text() == HOSTILE
    assert shown.locator(".question").inner_text() == HOSTILE
    assert page.locator("img").count() == 0
    assert page.title() == "seqtune"


def test_a_question_that_is_too_long(browser: Any, served: Served):
    page = browser.new_page()
    page.goto(served.url)
    page.wait_for_selector("#ask:enabled")
    shown = ask(page, "word " * 3000)
    assert "takes at most 1,024" in shown.inner_text()
    assert shown.locator(".question").bounding_box()["height"] < 200, "what was said to it is to be seen"
    colour = "each => getComputedStyle(each).color"
    assert shown.locator(".facts").first.evaluate(colour) == "rgb(179, 38, 30)", "as an error"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Any, served: Served, scheme: str):
    page = browser.new_page(viewport={"width": 360, "height": 640}, color_scheme=scheme)
    page.goto(served.url)
    page.wait_for_selector("#ask:enabled")
    ask(page, "word" * 200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light is (scheme == "light")
    page.close()


def test_the_page_asks_for_the_key(browser: Any, shelf: Any):
    with serving(shelf, api_key=KEY) as served:
        page = browser.new_page()
        page.goto(served.url)
        page.wait_for_selector("#key:visible")
        assert page.locator("#state").inner_text().startswith("a key is needed")
        page.fill("#key", KEY)
        page.press("#key", "Enter")
        page.wait_for_selector("#ask:enabled")
        assert page.locator("#model option").count() == 3
        assert ask(page, QUESTION).locator(".answer").count() == 2
        page.close()
