"""Manifest, log and predictions of a run that never was, with a text of one's choice in every field that takes text."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from seqtune.report import page, scores

KEYS = [key for key, _, _ in scores.METRICS if key not in ("f1", "token_f1", "bertscore", "embedding_similarity")]

Text = Callable[[str], str]


def name_of(field: str) -> str:
    """A harmless text: the field's own name."""
    return field


def manifest(text: Text = name_of) -> dict[str, Any]:
    """Everything that a manifest may hold."""
    base = dict.fromkeys(KEYS, 20.0) | {"loss": 3.0, "bits_per_byte": 1.5}
    tuned = dict.fromkeys(KEYS, 60.0) | {"loss": 1.0, "bits_per_byte": 0.5}
    own = text("own metric")
    lift = {"base": 20.0, "tuned": 60.0, "lift": 40.0, "low": 30.0, "high": 50.0, "confidence": 0.95, "rows": 9}
    rails = dict.fromkeys((*scores.RAILS, text("rail")), 1) | {"rows": 9}
    lengths = {"p50": 10, "p90": 20, "p95": 25, "p99": 28, "max": 30, "total": 900}
    cut = {s: {side: {"rows": 1, "tokens": 7} for side in ("source", "target")} for s in ("train", "hold_out")}
    histogram = {"edges": [0, 10, 20, 30], "counts": [5, 9, 2]}
    return {
        "created": text("created"),
        "settings": {
            "data_path": text("data path"),
            "input_template": text("template") + "{question}",
            "max_source_length": 25,
            "learning_rate": 0.003,
            "validation_size": None,
            text("own setting"): text("own setting's value"),
        },
        "derived": {"max_source_length": {"value": 25, "reason": text("reason")}},
        "data": {
            "sources": {
                text("source"): {"path": text("path"), "format": text("format"), "sha256": text("sha"), "bytes": 9}
            },
            "sha256": text("data sha"),
            "rows": 99,
            "bad_rows": {"data": 2},
            "splits": {"train": 80, "validation": 9, "hold_out": 10},
            "evaluated": {"validation": 9, "hold_out": 10},
            "warnings": [text("warning")],
            "training_lengths": {"source": lengths, "target": lengths},
            "cut": cut,
            "findings": [
                {"check": text(f"check {verdict}"), "verdict": verdict, "found": text("found"), "rows": 3, "of": 99,
                 "examples": [text("example")], "mend": text("mend")}
                for verdict in ("PASS", "WARN", "FAIL")
            ],
            "length_histograms": {"source": histogram, "target": histogram},
            "tokenizer_loss": {"rows": 1, "of": 9, "characters": {text("character"): 1},
                               "examples": [{"row": 1, "before": text("before"), "after": text("after")}]},
        },
        "base_model": {"model_id": text("model"), "revision": text("revision"), "sha256": text("model sha")},
        "adapter": {"sha256": text("adapter sha")},
        "versions": {text("library"): text("version")},
        "machine": {text("machine"): text("machine's value")},
        "signatures": {"bleu": text("signature")},
        "seeds": [{"seed": 1, "run": text("run"), "metrics": {"hold_out": {"tuned": tuned}}}],
        "training": {
            "steps": 40, "epochs": 2.0, "best_step": 30, "best_validation_loss": 1.0, "stopped_early": True,
            "tokens": 9000, "seconds": 75.0, "resumed_at": [10], "changes": [text("change")],
            "trainable_parameters": 10, "parameters": 100,
        },
        "metrics": {s: {"base": {**base, own: 5.0}, "tuned": {**tuned, own: 7.0}} for s in scores.SPLITS},
        "lifts": {split: dict.fromkeys(KEYS, lift) for split in scores.SPLITS},
        "guard_rails": {split: {"base": rails, "tuned": rails} for split in scores.SPLITS},
        "forgetting": {"rows": 9, "base": {"loss": 3.0, "bits_per_byte": 1.0}, "tuned": {"loss": 3.1}},
        "verdict": {
            "verdict": text("better"), "sentence": text("verdict"), "metric": "rougeL", "split": "hold_out",
            "lift": 40.0, "low": 30.0, "high": 50.0, "confidence": 0.95, "rows": 10, "unseen": False,
        },
    }  # fmt: skip


def log(steps: int = 40) -> list[dict[str, Any]]:
    """A falling loss, measured on the validation rows every ten steps."""
    found: list[dict[str, Any]] = [{"step": 0, "epoch": 0.0, "validation_loss": 3.0}]
    for step in range(1, steps + 1):
        row = {"step": step, "epoch": step / 20, "loss": 3.0 * math.exp(-step / steps), "learning_rate": 1e-3 / step}
        found.append({**row, "grad_norm": 1.0, "tokens": 300, "seconds": 0.1})
        if step % 10 == 0:
            found[-1]["validation_loss"] = 3.0 * math.exp(-step / steps) + 0.1
    return found


def rows(count: int = 12, text: Text = name_of) -> list[dict[str, Any]]:
    """Rows whose tuned answer gets better with their number; two categories, by turns."""
    scored = {"base": {"rougeL": 20.0, "loss": 3.0}, "tuned": {"rougeL": 20.0, "loss": 2.0}}
    return [
        {
            "row": number,
            "input": f"{text('input')} {number}",
            "reference": f"{text('reference')} the quick brown fox {number}",
            "base": f"{text('base')} a slow fox {number}",
            "tuned": f"{text('tuned')} the quick red fox {number}",
            "scores": {**scored, "tuned": {"rougeL": 10.0 + 80.0 * number / count, "loss": 2.0}},
            "extra": {text("field"): f"{text('value')}{number % 2}", "language": "de" if number % 2 else "ja"},
        }
        for number in range(1, count + 1)
    ]


def real_sized(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows as long as those of a support desk: about 60 words of answer."""
    draw = random.Random(seed)
    words = ["reset", "the", "device", "by", "holding", "its", "button", "until", "light", "blinks", "twice", "then"]
    for number in range(count):
        answer = " ".join(itertools.islice(iter(lambda: draw.choice(words), None), draw.randint(20, 100)))
        value = {
            m: {"rougeL": draw.uniform(0, 100), "rouge1": draw.uniform(0, 100), "loss": 1.0} for m in ("base", "tuned")
        }
        yield {
            "row": number, "input": answer[:90], "reference": answer, "base": answer[::2], "tuned": answer[:-9],
            "scores": value, "extra": {"category": f"c{number % 7}"},
        }  # fmt: skip


def rendered(write: Text = name_of, **options: Any) -> str:
    """The whole page of that run, with all its rows' text."""
    both = {"hold_out": rows(12, write), "validation": rows(6, write)}
    asked = {name: f"{write(f'learned {name}')} now" for name in ("input", "reference", "answer")}
    learned = [{"step": step, "validation_loss": 3.0 - step, "answers": [asked]} for step in (0, 1)]
    known = {"text": "all", "name": write("name"), "learned": learned}
    return page.render(manifest(write), log(), both, **{**known, **options})
