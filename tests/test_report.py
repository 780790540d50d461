from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from seqtune.report import page

SCORES = {"base": {"rougeL": 1.0}, "tuned": {"rougeL": 2.0}}
MODEL = {name: 1.5 for name, _, _ in page.METRICS}
LOG = [{"step": 0, "validation_loss": 3.0}, {"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0, "validation_loss": 2.1}]
PAYLOADS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</td></table><h1>x",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "<!-- --><style>*{display:none}</style>",
)


def manifest(text: str = "t") -> dict[str, Any]:
    cut = {name: {side: {"rows": 0, "tokens": 0} for side in ("source", "target")} for name in ("train", "hold_out")}
    return {
        "created": text,
        "settings": {"input_template": text, "max_source_length": 3},
        "derived": {"max_source_length": {"value": 3, "reason": text}},
        "data": {
            "sources": {"data": {"path": text}},
            "sha256": text,
            "rows": 9,
            "bad_rows": {"data": 0},
            "splits": {"train": 3, "validation": 3, "hold_out": 3},
            "evaluated": {"validation": 3, "hold_out": 3},
            "warnings": [text],
            "training_lengths": {side: {"p50": 1, "p95": 2, "max": 3} for side in ("source", "target")},
            "cut": cut,
        },
        "base_model": {"model_id": text, "revision": text, "sha256": text},
        "adapter": {"sha256": text},
        "versions": {"torch": text},
        "machine": {"name": text},
        "training": None,
        "metrics": {split: {"base": {**MODEL, text: 1}, "tuned": MODEL} for split in ("validation", "hold_out")},
        "verdict": {"sentence": text},
    }


def rows(text: str) -> list[dict[str, Any]]:
    return [
        {
            "row": 1,
            "input": text,
            "reference": text,
            "base": text,
            "tuned": text,
            "scores": SCORES,
            "extra": {text: [text]},
        }
    ]


class Outline(HTMLParser):
    """The tags of a page in order, with their attributes' names."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_text_is_never_markup(payload: str):
    """Whatever the text, the page has the same tags with the same attributes."""
    harmless = Outline(page.render(manifest(), LOG, {"hold_out": rows("t"), "validation": rows("t")}))
    hostile = Outline(page.render(manifest(payload), LOG, {"hold_out": rows(payload), "validation": rows(payload)}))
    assert hostile.tags == harmless.tags
    assert "script" not in {tag[0] for tag in hostile.tags}


def test_the_page_asks_for_nothing():
    text = page.render(manifest(), LOG, {"hold_out": rows("t"), "validation": rows("t")})
    assert "default-src 'none'" in text
    assert not {"src", "href", "onload"} & {name for tag in Outline(text).tags for name in tag[1:]}


def test_a_run_whose_training_is_unknown_has_a_page():
    text = page.render(manifest(), None, {"hold_out": rows("t"), "validation": rows("t")})
    assert "Unknown: the adapter was trained elsewhere." in text
    assert "<svg" not in text


def test_curves():
    curves = page.loss_curves(LOG)
    assert curves is not None
    assert curves["lines"]["validation_loss"] == f"0.0,0.0 {page.WIDTH:.1f},{0.9 * page.HEIGHT:.1f}"
    assert curves["lines"]["loss"].split()[-1] == f"{page.WIDTH:.1f},{page.HEIGHT:.1f}"
    assert page.loss_curves(LOG[:1]) is None


def test_only_so_many_answers_are_on_the_page():
    text = page.render(manifest(), LOG, {"hold_out": rows("t") * 150, "validation": rows("t")})
    assert f"{page.SHOWN_ANSWERS} of 150" in text


def test_metrics_of_your_own_and_absent_ones():
    metrics = {
        "hold_out": {
            "base": {"rougeL": 10.0, "loss": 3.0, "numbers_right": 5, "note": "text", "ok": True},
            "tuned": {"rougeL": 42.25, "loss": 1.5, "numbers_right": 30, "note": "text", "ok": True},
        },
        "validation": {"base": {"rougeL": 1.0}, "tuned": {"rougeL": 2.0, "mine": 7.0}},
    }
    assert page.metric_rows(metrics) == [
        {"name": "ROUGE-L", "cells": ["10.00", "42.25", "+32.25", "1.00", "2.00"], "good": True},
        {"name": "loss (nats a token)", "cells": ["3.00", "1.50", "-1.50", "–", "–"], "good": True},
        {"name": "numbers_right", "cells": ["5.00", "30.00", "+25.00", "–", "–"], "good": False},
        {"name": "mine", "cells": ["–", "–", "–", "–", "7.00"], "good": False},
    ]
    text = page.render({**manifest(), "metrics": metrics}, LOG, {"hold_out": rows("t"), "validation": rows("t")})
    row = '<tr><td>numbers_right</td><td class="n">5.00</td><td class="n">30.00</td><td class="n">+25.00</td>'
    assert row + '<td class="n">–</td><td class="n">–</td></tr>' in text
    assert '<td class="n good">+32.25</td>' in text


def test_the_extra_fields_of_a_row_stand_under_its_question():
    (row,) = rows("t")
    row["extra"] = {"topic": "<b>errors</b>", "ids": [1, None], "long": "x" * 500, "lines": "a\n b"}
    text = page.render(manifest(), LOG, {"hold_out": [row], "validation": [{**row, "extra": {}}]})
    line = f"topic: &lt;b&gt;errors&lt;/b&gt; · ids: [1, null] · long: {'x' * (page.SHOWN_OF_EXTRA - 1)}… · lines: a b"
    assert text.count(f'<td class="text">t<br><small>{line}</small></td>') == 1
    assert '<td class="text">t</td><td class="text">t</td>' in text


def test_a_run_that_was_stopped_says_so():
    training = {
        "steps": 9, "epochs": 1.0, "tokens": 10, "seconds": 1.0, "best_step": 9, "stopped_early": False,
        "trainable_parameters": 1, "parameters": 2,
    }  # fmt: skip
    splits = {"hold_out": rows("t"), "validation": rows("t")}
    text = page.render(
        {**manifest(), "training": {**training, "resumed_at": [3, 5], "changes": ["<b>: was 1"]}}, LOG, splits
    )
    assert "Stopped and gone on with at step 3, 5." in text
    assert "<li>&lt;b&gt;: was 1</li>" in text
    text = page.render({**manifest(), "training": training}, LOG, splits)  # a run from before there was such a thing
    assert "gone on with" not in text.lower()
