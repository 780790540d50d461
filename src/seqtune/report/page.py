"""The page: facts and rows into the template, style and scripts into the page. One file, no network.

Raises nothing for what a manifest lacks: a run of an older version, a run that was stopped and a run at work have pages
too, with fewer sections.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from seqtune.report import answers, curves, groups, origins, safety, scores
from seqtune.report.reading import dig, number, set_name, shown, took

#: The scripts in the order in which they need each other; all of them are one script block.
SCRIPTS = ("core.js", "words.js", "charts.js", "distributions.js", "answers.js", "learning.js", "main.js")

#: Added while a run is at work.
LIVE_SCRIPTS = ("live.js",)

STYLES = ("base.css", "parts.css", "answers.css")


def render(
    manifest: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]] | None,
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    text: answers.TextPolicy = "none",
    picture: tuple[Markup, str] | None = None,
    name: str = "",
    live: Mapping[str, Any] | None = None,
    learned: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page as text that UTF-8 can hold.

    Args:
        manifest: the content of ``run.json``, or what there is of it.
        log: a dict per step, or None where training is unknown.
        predictions: the predictions of each set; a set that is missing was not answered.
        text: whose questions and answers may stand in the page; "none" leaves out all that rows hold.
        picture: SVG and style of the dataflow (`seqtune.picture.linked`).
        name: of the run, for its title.
        learned: answers to a few questions as the model learned (`seqtune.live`); text of rows as well.
        live: for a page that follows a run at work: ``stage`` and whatever its scripts are told first.
    """
    styles = [static(*STYLES), *([picture[1]] if picture else [])]
    plotly = static("plotly/plotly-basic.min.js")
    script = static(*SCRIPTS, *(LIVE_SCRIPTS if live is not None else ()))
    metric = str(dig(manifest, "verdict", "metric", default="rougeL"))
    sets: dict[str, Any] = {}
    room = answers.ROOM
    for split in [s for s in (*scores.SPLITS, *predictions) if s in predictions]:
        if split not in sets:
            sets[split], room = answers.columns(predictions[split], text, metric, room)
    tables = {split: scores.table(manifest, split) for split in scores.SPLITS}
    html = environment().get_template("page.html.j2").render(
        policy=safety.policy([plotly, script], styles, live=live is not None),
        styles=[Markup(style) for style in styles],  # ours: constants, and numbers of boxes
        plotly=Markup(plotly),  # run by the page's own script when it draws
        script=Markup(script),
        data=Markup(
            safety.in_html(
                {
                    "sets": sets,
                    "metric": metric,
                    "labels": {key: label for key, label, _ in scores.METRICS},
                    "less_is_better": list(scores.NO_PERCENT),
                    "scores": tables,
                    "curves": curves.of_log(log or []),
                    "best_step": dig(manifest, "training", "best_step"),
                    "resumed": dig(manifest, "training", "resumed_at", default=[]),
                    "histograms": origins.histograms(manifest),
                    "live": live,
                    "learned": list(learned) if text != "none" else [],
                }
            )
        ),
        title=dig(manifest, "verdict", "sentence", default="Not finished" if live is None else "A run at work"),
        name=name,
        live=live,
        learned=bool(learned) and text != "none",
        head=heading(manifest),
        tables=[
            {"split": split, "set": set_name(split), "rows": rows, "answered": _answered(manifest, split)}
            for split, rows in tables.items()
            if rows
        ],
        whisker=scores.whisker,
        rails=scores.rails(manifest),
        forgetting=scores.forgetting(manifest),
        seeds=scores.seeds(manifest),
        by_field=groups.by_field(predictions.get("hold_out") or [], metric) if text != "none" else [],
        metric_name=next((label for key, label, _ in scores.METRICS if key == metric), metric),
        sets=sets,
        set_name=set_name,
        text=text,
        training=origins.training(manifest, log),
        splits=origins.splits(manifest),
        files=origins.files(manifest),
        data_rows=dig(manifest, "data", "rows"),
        bad_rows=sum(dig(manifest, "data", "bad_rows", default={}).values()),
        checks=origins.checks(manifest, with_examples=text != "none"),
        lengths=origins.lengths(manifest),
        histograms=origins.histograms(manifest),
        tokenizer_loss=origins.tokenizer_loss(manifest, with_examples=text != "none"),
        settings=origins.settings(manifest),
        command=origins.command(manifest),
        versions=origins.versions(manifest),
        picture=picture[0] if picture else None,
    )  # fmt: skip
    return safety.encodable(html)


def heading(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What stands at the top: the verdict in a word and a sentence, its interval, notes, and a few figures."""
    verdict = dig(manifest, "verdict", default={})
    low, high, lift = (number(verdict.get(key)) for key in ("low", "high", "lift"))
    reach = max(abs(v) for v in (low, high, lift, 1.0) if v is not None)
    tuned, base = (dig(manifest, "metrics", "hold_out", model, default={}) for model in ("tuned", "base"))
    tiles = [
        {"name": label, "before": shown(number(base[key]), places), "after": shown(number(tuned[key]), places)}
        for key, label, places in (("rougeL", "ROUGE-L", 1), ("exact_match", "exact match", 1), ("loss", "loss", 2))
        if number(base.get(key)) is not None and number(tuned.get(key)) is not None
    ]
    seconds = number(dig(manifest, "training", "seconds"))
    word, sentence = str(verdict.get("verdict") or ""), str(verdict.get("sentence") or "")
    return {
        "word": word,
        "mood": {"better": "good", "worse": "bad"}.get(word, "even"),
        "sentence": sentence.removeprefix(f"{word}: "),
        "interval": None if low is None or high is None or lift is None else {
            name: round(50 + 46 * value / reach, 2) for name, value in (("low", low), ("high", high), ("lift", lift))
        },
        "reach": shown(reach, 0),
        "unseen": verdict.get("unseen", True),
        "rows": verdict.get("rows"),
        "tiles": tiles,
        "time": took(seconds) if seconds is not None else "",
        "model": dig(manifest, "base_model", "model_id", default=""),
        "data": dig(manifest, "data", "sources", "data", "path", default=""),
        "trained_on": dig(manifest, "data", "splits", "train"),
        "created": dig(manifest, "created", default=""),
        "notes": dig(manifest, "data", "warnings", default=[]),
        "launcher": "torchrun --nproc-per-node N -m " if dig(manifest, "settings", "shard_base") is True else "",
    }  # fmt: skip


def environment() -> Environment:
    """Templates that escape whatever they are given."""
    return Environment(
        loader=PackageLoader("seqtune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _answered(manifest: Mapping[str, Any], split: str) -> str:
    answered, of = (dig(manifest, "data", key, split) for key in ("evaluated", "splits"))
    return f"{answered:,} of {of:,} rows" if answered is not None and of is not None else ""


@functools.cache
def static(*names: str) -> str:
    """Files of the page's style and scripts, one after the other."""
    folder = files("seqtune.report").joinpath("static")
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
