"""What differs in how runs were made, by their manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seqtune.claim import OF_KEEPING
from seqtune.settings import DEFAULT

#: Of the settings: where a run lies, which makes no difference to what comes out.
PLACES = (*OF_KEEPING, "adapter_path")
#: Of the data: what tells one file and division from another.
OF_DATA = ("sha256", "rows", "bad_rows", "splits", "evaluated")
OF_BASE = ("model_id", "revision", "sha256", "tokenizer_id", "tokenizer_sha256")


def between(manifests: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """What is not the same in all of them, by section: ``{name: [the first run's value, the second's, …]}``.

    Sections: ``settings`` that were given or are defaults; ``derived`` ones, which follow from other settings and the
    data; ``data``; ``base_model``; ``versions``; ``machine``.
    """
    default = DEFAULT.model_dump()
    settings = [{**default, **manifest.get("settings", {})} for manifest in manifests]
    worked_out = {
        name for name in default if all(_reason(manifest, name) not in (None, "given") for manifest in manifests)
    }
    paths = [name for name in default if name.endswith("_path")]
    same_data = len({str(manifest.get("data", {}).get("sha256")) for manifest in manifests}) == 1
    left_out = {*PLACES, *(paths if same_data else ())}
    given = [{k: v for k, v in each.items() if k not in left_out and k not in worked_out} for each in settings]
    return {
        "settings": _unequal(given),
        "derived": _unequal(
            [
                {k: _in_effect(manifest, k, each[k]) for k in worked_out if k not in left_out}
                for manifest, each in zip(manifests, settings, strict=True)
            ]
        ),
        "data": _unequal([_some(manifest.get("data"), OF_DATA) for manifest in manifests]),
        "base_model": _unequal([_some(manifest.get("base_model"), OF_BASE) for manifest in manifests]),
        "versions": _unequal([manifest.get("versions") or {} for manifest in manifests]),
        "machine": _unequal([manifest.get("machine") or {} for manifest in manifests]),
    }


def _in_effect(manifest: Mapping[str, Any], name: str, value: Any) -> Any:
    """What ``auto`` came to, where the manifest keeps the wish itself among the settings."""
    return manifest["derived"][name].get("value", value) if value == "auto" else value


def _reason(manifest: Mapping[str, Any], name: str) -> str | None:
    return ((manifest.get("derived") or {}).get(name) or {}).get("reason")


def _some(content: Mapping[str, Any] | None, names: Sequence[str]) -> dict[str, Any]:
    return {name: content[name] for name in names if name in content} if content else {}


def _unequal(each: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    flat = [_flat(content) for content in each]
    names = dict.fromkeys(name for content in flat for name in content)
    values = {name: [content.get(name) for content in flat] for name in names}
    return {name: found for name, found in sorted(values.items()) if any(value != found[0] for value in found)}


def _flat(content: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return flat
