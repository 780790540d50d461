"""The model card: ``README.md`` beside the adapter, in the format of the Hugging Face hub, from the run's manifest.

It holds figures and facts of the data, never a row of it, no path and no name of a file on this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from seqtune.metrics import LESS_IS_BETTER, METRIC_LABELS
from seqtune.models import quantized

NAME = "README.md"
#: An id of the hub: a name, or an owner and a name.
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
#: The base models whose licence binds the adapter and is known here.
LICENCES = {"seqtune-mini": "cc-by-sa-4.0"}
#: Settings that the card shows.
SETTINGS = (
    "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "per_device_train_batch_size",
    "gradient_accumulation_steps", "lora_r", "lora_alpha", "lora_dropout", "target_modules", "precision",
    "random_state",
)  # fmt: skip


def render(manifest: Mapping[str, Any], name: str | None = None) -> str:
    """The card as text.

    Args:
        manifest: the content of ``run.json``; what an older one lacks is left out.
        name: the title; None names the base model.
    """
    from huggingface_hub import ModelCard

    base = public_name(str((manifest.get("base_model") or {}).get("model_id") or "unknown"))
    title = name or f"LoRA adapter of {base}"
    parts = [
        f"---\n{_metadata(manifest, title)}\n---",
        f"# {_plain(title)}",
        _verdict(manifest, base),
        _scores(manifest),
        _watched(manifest),
        _data(manifest),
        _use(manifest, base),
        _training(manifest),
    ]
    return str(ModelCard("\n\n".join(part for part in parts if part) + "\n"))


def public_name(model_id: str) -> str:
    """An id of the hub as it is; of a folder on this machine its last name alone."""
    return model_id if _HUB_ID.match(model_id) else PurePath(model_id.replace("\\", "/")).name or "a local model"


def is_hub_id(model_id: str) -> bool:
    """Whether this may be the name of a model of the hub (or of the embedded one), and is no path."""
    return bool(_HUB_ID.match(model_id))


def _metadata(manifest: Mapping[str, Any], title: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    base = str((manifest.get("base_model") or {}).get("model_id") or "")
    source = ((manifest.get("data") or {}).get("sources") or {}).get("data") or {}
    on_hub = source.get("kind") == "hub"
    tuned = ((manifest.get("metrics") or {}).get("hold_out") or {}).get("tuned") or {}
    results = [
        EvalResult(
            task_type="text2text-generation",
            dataset_type=str(source["path"]) if on_hub else "private",
            dataset_name=str(source["path"]) if on_hub else "hold-out rows of a private file",
            dataset_revision=source.get("revision") if on_hub else None,
            metric_type=metric,
            metric_name=METRIC_LABELS.get(metric, metric),
            metric_value=round(float(value), 4),
        )
        for metric, value in tuned.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    known: dict[str, Any] = {"base_model": base} if is_hub_id(base) and base not in LICENCES else {}
    data = ModelCardData(
        **known,
        datasets=[str(source["path"])] if on_hub else None,
        library_name="peft",
        license=LICENCES.get(base),
        pipeline_tag="text2text-generation",
        tags=["lora", "peft", "seqtune", "transformers"],
        metrics=[metric for metric in ("rouge", "bleu", "chrf", "exact_match", "f1") if _measured(metric, tuned)],
        model_name=title,
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def _measured(metric: str, tuned: Mapping[str, Any]) -> bool:
    return any(name.startswith(metric) for name in tuned)


def _verdict(manifest: Mapping[str, Any], base: str) -> str:
    sentence = (manifest.get("verdict") or {}).get("sentence")
    made = (
        f"A LoRA adapter for `{_code(base)}`, tuned on question–answer pairs and scored against its base on rows that "
        "training has not seen."
    )
    return made + (f"\n\n**Verdict:** {_plain(str(sentence))}" if sentence else "")


def score_rows(manifest: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The heading and the rows of the table of scores on the hold-out rows, as text."""
    lifts = (manifest.get("lifts") or {}).get("hold_out") or {}
    scores = (manifest.get("metrics") or {}).get("hold_out") or {}
    base, tuned = scores.get("base") or {}, scores.get("tuned") or {}
    rows: list[tuple[str, ...]] = []
    for name in [*(n for n in tuned if n not in LESS_IS_BETTER), *(n for n in LESS_IS_BETTER if n in tuned)]:
        if isinstance(tuned[name], int | float) and isinstance(base.get(name), int | float):
            lift = lifts.get(name)
            change = f"{tuned[name] - base[name]:+.2f}"
            if lift:
                change += f" ({lift['low']:+.2f} to {lift['high']:+.2f})"
            label = str(METRIC_LABELS.get(name, name)) + (" (less is better)" if name in LESS_IS_BETTER else "")
            rows.append((_plain(label), f"{base[name]:.2f}", f"{tuned[name]:.2f}", change))
    return ("metric, hold-out rows", "base", "tuned", "difference (95 % interval)"), rows


def _scores(manifest: Mapping[str, Any]) -> str:
    heading, rows = score_rows(manifest)
    if not rows:
        return ""
    signatures = (manifest.get("signatures") or {}).values()
    notes = "".join(f"\n\nsacrebleu: `{_code(str(each))}`" for each in signatures)
    return f"## Scores\n\n{table(heading, rows)}{notes}"


def _watched(manifest: Mapping[str, Any]) -> str:
    from seqtune.metrics.guards import FLAGS

    found = (manifest.get("guard_rails") or {}).get("hold_out") or {}
    base, tuned = found.get("base") or {}, found.get("tuned") or {}
    lines = []
    if tuned.get("rows"):
        rows = [(text, str(base.get(name, "–")), str(tuned.get(name, "–"))) for name, text in FLAGS.items()]
        lines.append(table((f"of {tuned['rows']} hold-out answers", "base", "tuned"), rows))
    general = manifest.get("forgetting") or {}
    if general.get("base") and general.get("tuned"):
        lines.append(
            f"Forgetting: the loss on {general['rows']} general questions that have nothing to do with the data is "
            f"{general['base']['loss']:.2f} nats a token for the base and {general['tuned']['loss']:.2f} for the tuned "
            "model."
        )
    return "## What to watch\n\n" + "\n\n".join(lines) if lines else ""


def _data(manifest: Mapping[str, Any]) -> str:
    data = manifest.get("data") or {}
    if not data.get("rows"):
        return ""
    splits = ", ".join(f"{rows:,} {name.replace('_', '-')}" for name, rows in (data.get("splits") or {}).items())
    lengths = data.get("training_lengths") or {}
    lines = [f"- {data['rows']:,} rows: {splits}"]
    lines += [
        f"- {name} of training rows, in tokens: median {lengths[side]['p50']}, longest {lengths[side]['max']}"
        for side, name in (("source", "questions"), ("target", "answers"))
        if side in lengths
    ]
    if data.get("sha256"):
        lines.append(f"- SHA-256 of the data: `{_code(str(data['sha256']))}`")
    return "## Data\n\nThe rows themselves are not published.\n\n" + "\n".join(lines)


def _use(manifest: Mapping[str, Any], base: str) -> str:
    template = (manifest.get("settings") or {}).get("input_template") or "{question}"
    asked = template if template.isprintable() and "```" not in template else "{question}"
    in_4bit = bool((manifest.get("base_model") or {}).get("load_in_4bit"))
    names = "AutoModelForSeq2SeqLM, AutoTokenizer" + (", BitsAndBytesConfig" if in_4bit else "")
    loaded = f"{base!r}, quantization_config={quantized.IN_TRANSFORMERS}" if in_4bit else repr(base)
    return (
        "## Use\n\n```python\nfrom peft import PeftModel\n"
        f"from transformers import {names}\n\n"
        f"base = AutoModelForSeq2SeqLM.from_pretrained({loaded})\n"
        'model = PeftModel.from_pretrained(base, "path/to/this/adapter")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/adapter")\n'
        f'text = {asked!r}.replace("{{question}}", "your question")\n'
        'written = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=128)\n'
        "print(tokenizer.decode(written[0], skip_special_tokens=True))\n```"
    )


def _training(manifest: Mapping[str, Any]) -> str:
    settings, training = manifest.get("settings") or {}, manifest.get("training") or {}
    rows = [(f"`{name}`", _code(str(settings[name]))) for name in SETTINGS if settings.get(name) is not None]
    if not rows:
        return ""
    versions = manifest.get("versions") or {}
    with_ = ", ".join(f"{_plain(name)} {_plain(str(versions[name]))}" for name in versions if "sha256" not in name)
    took = ""
    if training.get("steps"):
        took = f"{training['steps']} steps, the best by validation loss at step {training['best_step']}. "
    return f"## Training\n\n{took}Made with {with_}.\n\n" + table(("setting", "value"), rows)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Text without anything that Markdown or HTML would obey."""
    return re.sub(r"([\\`*_\[\]<>#&])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return " ".join(text.replace("`", "'").split())
