"""Where a result comes from: training, data, checks, lengths, settings, versions, and how to make it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from seqtune.report.reading import dig, number, set_name, shown, took, words
from seqtune.settings import knobs

Manifest = Mapping[str, Any]

#: Settings that `seqtune rerun` and a new run make for themselves.
_NOT_AGAIN = ("model_id_tokenizer", "data_path")


def training(manifest: Manifest, log: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """``known`` (is there anything to tell?), ``facts`` (name and text), ``resumed``, ``changes``, ``summary``."""
    found = dig(manifest, "training")
    facts: list[tuple[str, str]] = []
    if found:
        whole, trained = number(found.get("parameters")), number(found.get("trainable_parameters"))
        seconds, tokens = number(found.get("seconds")), number(found.get("tokens"))
        epochs = f", {found['epochs']:.2f} epochs" if number(found.get("epochs")) is not None else ""
        facts.append(("steps", f"{words(found.get('steps'))}{epochs}"))
        stopped = ", stopped early" if found.get("stopped_early") else ""
        facts.append(("best adapter", f"step {words(found.get('best_step'))}{stopped}"))
        if seconds is not None:
            facts.append(("time", took(seconds)))
        if tokens is not None:
            rate = f" ({tokens / seconds:,.0f} a second)" if seconds else ""
            facts.append(("tokens", f"{tokens:,.0f}{rate}"))
        if whole and trained:
            facts.append(("trained weights", f"{trained:,.0f} of {whole:,.0f} ({100 * trained / whole:.1f} %)"))
    losses = [(row["step"], row["validation_loss"]) for row in log or [] if "validation_loss" in row]
    summary = ""
    if losses:
        best = min(losses, key=lambda pair: pair[1])
        summary = (
            f"The validation loss went from {shown(losses[0][1])} to {shown(losses[-1][1])} nats a token; "
            f"the lowest, {shown(best[1])}, was at step {best[0]:,}."
        )
    return {
        "known": bool(found or log),
        "facts": facts,
        "resumed": dig(found, "resumed_at", default=[]),
        "changes": dig(found, "changes", default=[]),
        "summary": summary,
    }


def splits(manifest: Manifest) -> list[dict[str, Any]]:
    """The sets with their rows, those that were answered, and their share of all (percent)."""
    rows = dig(manifest, "data", "splits", default={})
    total = sum(rows.values()) or 1
    answered = dig(manifest, "data", "evaluated", default={})
    purpose = {"train": "trained on", "validation": "chose the adapter", "hold_out": "gives the verdict"}
    found, left = [], 0.0
    for name, count in rows.items():
        share = 100 * count / total
        found.append(
            {
                "key": name,
                "name": {"train": "training"}.get(name, set_name(name)),
                "rows": f"{count:,}",
                "answered": f"{answered[name]:,}" if name in answered else "–",
                "purpose": purpose.get(name, ""),
                "left": round(left, 2),
                "share": round(share, 2),
            }
        )
        left += share
    return found


def files(manifest: Manifest) -> list[dict[str, str]]:
    """The files of the rows: use, path, format, bytes, SHA-256."""
    return [
        {
            "use": name.replace("_", " "),
            "path": words(source.get("path")),
            "format": words(source.get("format") or source.get("kind")),
            "bytes": f"{source['bytes']:,}" if number(source.get("bytes")) is not None else "–",
            "sha256": words(source.get("sha256")),
        }
        for name, source in dig(manifest, "data", "sources", default={}).items()
    ]


def checks(manifest: Manifest, with_examples: bool) -> list[dict[str, Any]]:
    """What the checks of the data found, the gravest first; examples are rows' text, and only there where asked for."""
    order = {"FAIL": 0, "WARN": 1, "PASS": 2}
    found = [
        {
            "check": words(each.get("check")).replace("_", " "),
            "verdict": each["verdict"] if each.get("verdict") in order else "WARN",
            "found": words(each.get("found")),
            "examples": [words(example) for example in each.get("examples") or []] if with_examples else [],
            "mend": words(each.get("mend") or ""),
        }
        for each in dig(manifest, "data", "findings", default=[])
    ]
    return sorted(found, key=lambda each: order[each["verdict"]])


def lengths(manifest: Manifest) -> list[dict[str, Any]]:
    """Inputs and targets: percentiles, limit with reason, and what was cut off in which set."""
    found = []
    for side, name, knob in (("source", "inputs", "max_source_length"), ("target", "targets", "max_target_length")):
        measured = dig(manifest, "data", "training_lengths", side, default={})
        if not measured:
            continue
        limit = dig(manifest, "derived", knob, default={})
        cut = [
            {
                "set": {"train": "training"}.get(split, set_name(split)),
                "rows": f"{dig(sides, side, 'rows', default=0):,}",
                "tokens": f"{dig(sides, side, 'tokens', default=0):,}",
            }
            for split, sides in dig(manifest, "data", "cut", default={}).items()
        ]
        found.append(
            {
                "side": side,
                "name": name,
                "percentiles": [(key, f"{value:,}") for key, value in measured.items() if key in _PERCENTILES],
                "limit": words(limit.get("value")),
                "reason": words(limit.get("reason")),
                "cut": cut,
                "any_cut": any(line["rows"] != "0" for line in cut),
            }
        )
    return found


_PERCENTILES = ("p50", "p90", "p95", "p99", "max")


def histograms(manifest: Manifest) -> dict[str, Any]:
    """Counts of the training rows by length, with the limit of each side; empty where nobody counted."""
    found = {}
    for side, histogram in dig(manifest, "data", "length_histograms", default={}).items():
        edges, counts = dig(histogram, "edges", default=[]), dig(histogram, "counts", default=[])
        if len(edges) == len(counts) + 1 and counts:
            limit = number(dig(manifest, "derived", f"max_{side}_length", "value"))
            found[side] = {"edges": edges, "counts": counts, "limit": limit}
    return found


def tokenizer_loss(manifest: Manifest, with_examples: bool) -> dict[str, Any] | None:
    """What the tokenizer can't write: rows, the characters, examples; None where nobody looked."""
    found = dig(manifest, "data", "tokenizer_loss")
    if found is None:
        return None
    characters = dig(found, "characters", default={})
    return {
        "rows": found.get("rows") or 0,
        "of": found.get("of") or 0,
        "characters": [(repr(key)[1:-1], count) for key, count in list(characters.items())[:40]],
        "examples": list(found.get("examples") or [])[:5] if with_examples else [],
    }


def settings(manifest: Manifest) -> list[dict[str, Any]]:
    """The settings by group: name, value, ``kind`` (given, derived or default) and why."""
    derived, known = dig(manifest, "derived", default={}), knobs()
    groups: dict[str, list[dict[str, str]]] = {}
    for name, value in dig(manifest, "settings", default={}).items():
        knob = known.get(name)
        reason = words(dig(derived, name, "reason", default=""))
        if name == "target_modules" and value is not None:  # its reason says where it is written down, not whence
            kind, reason = "given", ""
        elif reason and reason != "given":
            kind = "derived"
        elif knob is not None and value is None and knob.derived:
            kind, reason = "derived", knob.derived
        else:
            kind = "default" if knob is not None and value == knob.default else "given"
            reason = ""
        value = dig(derived, name, "value", default=value) if value in (None, "auto") else value
        line = {"name": name, "value": words(value), "kind": kind, "why": reason, "help": knob.help if knob else ""}
        groups.setdefault(knob.group if knob else "others", []).append(line)
    return [{"name": name, "lines": lines} for name, lines in groups.items()]


def command(manifest: Manifest) -> str:
    """The command line that makes such a run: the data, and every setting that is neither default nor derived."""
    given = [line for group in settings(manifest) for line in group["lines"] if line["kind"] == "given"]
    values, known = dig(manifest, "settings", default={}), knobs()
    parts = ["seqtune", "finetune", str(values.get("data_path") or "FILE")]
    for line in given:
        name = line["name"]
        if name not in known or name in _NOT_AGAIN or values[name] is None:
            continue
        option = known[name].option
        if known[name].type is bool:
            parts.append(option if values[name] else f"--no-{option[2:]}")
        else:
            parts += [option, str(values[name])]
    return shlex.join(parts)


def versions(manifest: Manifest) -> list[tuple[str, str]]:
    """Everything that the result depends on besides settings and data: name and value."""
    base = dig(manifest, "base_model", default={})
    revision = f" at {base['revision']}" if base.get("revision") else ""
    found = [
        ("base model", f"{base['model_id']}{revision}" if base.get("model_id") else ""),
        ("base model, sha256", base.get("sha256")),
        ("tokenizer, sha256", base.get("tokenizer_sha256")),
        ("adapter, sha256", dig(manifest, "adapter", "sha256")),
        ("data, sha256", dig(manifest, "data", "sha256")),
        *dig(manifest, "versions", default={}).items(),
        *((f"machine: {name}", value) for name, value in dig(manifest, "machine", default={}).items()),
        *((f"signature of {name}", value) for name, value in dig(manifest, "signatures", default={}).items()),
    ]
    return [(name.replace("_", " "), words(value)) for name, value in found if value not in (None, "")]
