"""What should not be in training data: e-mail addresses, phone numbers, keys that look like secrets. Found, and masked.

The patterns would rather miss one than take a date, a version or an order number for a phone number: what they find is
worth reading. Not covered: names, addresses, account numbers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

#: What stands in the place of what is masked, by kind.
MASKS = {"emails": "[EMAIL]", "phones": "[PHONE]", "secrets": "[SECRET]"}
#: The kinds that each value of the knob ``mask`` masks.
MASKED = {"none": (), "secrets": ("secrets",), "all": ("secrets", "emails", "phones")}

_EMAIL = re.compile(
    r"(?<![\w.+@/-])[\w.+-]{1,64}@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,24}(?![\w@-]|:\w)", re.I
)
#: With a country code, or an area code in parentheses or behind a zero: numbers without any of these are order numbers.
_PHONE = re.compile(
    r"(?<![\w+.,/:#-])(?<!\d )(?:"
    r"(?:\+[1-9]\d{0,2}|00[1-9]\d{0,2}(?=[ ./-]))(?:[ .-]?\(0\))?(?:[ ./-]?(?:\d{1,5}|\(\d{1,5}\))){2,5}"
    r"|\(\d{2,5}\)[ -]?\d{2,5}(?:[ .-]?\d{2,5}){1,2}"
    r"|[2-9]\d{2}[.-][2-9]\d{2}[.-]\d{4}"
    r"|0[1-9]\d{1,4}[ /-]\d{2,8}(?:[ -]?\d{2,5}){0,3}"
    r")(?![\w%°€$£]|[.,:/-]\d)"
)
#: What is in every key of `_MARKED`, so that nearly all texts are done with in a moment.
# fmt: off
_MARKS = (
    "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "AIza", "hf_", "npm_",
    "pypi-", "sk-", "sk_", "pk-", "pk_", "rk-", "rk_", "eyJ", "-----BEGIN ",
)
# fmt: on
#: The same for `_NAMED`, in small letters.
_NAMES = ("key", "secret", "token", "passw")
#: Keys with a mark of whoever made them out.
_MARKED = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}|glpat-[\w-]{20,}"
    r"|xox[abeprs]-[A-Za-z0-9-]{10,}"  # Slack
    r"|AIza[\w-]{35}"  # Google
    r"|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,}"
    r"|(?:sk|pk|rk)[-_](?:live|test|proj|ant)[-_][\w-]{16,}|sk-[A-Za-z0-9]{32,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"  # JSON Web Token
    r")(?![A-Za-z0-9])"
    r"|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----(?:[\s\S]{0,8000}?-----END (?:[A-Z]+ )*PRIVATE KEY-----)?"
)
#: A value that is said to be one: ``password = …``.
_NAMED = re.compile(
    r"\b(?:api[_ -]?key|secret(?:[_ -]?key)?|access[_ -]?token|auth[_ -]?token|client[_ -]?secret|passw(?:or)?d|token)"
    r"[\"']?\s*[:=]\s*[\"']?([A-Za-z0-9+/_.~!@#$%^&*=-]{12,200})",
    re.I,
)


def found_in(text: str) -> dict[str, list[str]]:
    """What is found in a text: ``emails``, ``phones`` and ``secrets``; kinds without any are left out."""
    found: dict[str, list[str]] = {}
    for kind, start, end in _places(text):
        found.setdefault(kind, []).append(text[start:end])
    return found


def masked_text(text: str, mask: str) -> str:
    """The text with `MASKS` in the place of what the knob ``mask`` names."""
    kinds, end, parts = MASKED[mask], 0, []
    for kind, start, stop in sorted((each for each in _places(text) if each[0] in kinds), key=lambda each: each[1]):
        if start >= end:
            parts += [text[end:start], MASKS[kind]]
            end = stop
    return "".join([*parts, text[end:]]) if parts else text


def masked(rows: Dataset, mask: str) -> Dataset:
    """Clean rows with their texts masked; what lies in other fields is never trained on and stays as it is."""
    if not MASKED[mask]:
        return rows
    texts: dict[str, list] = {
        name: [masked_text(text, mask) for text in rows[name][:]] for name in ("input", "reference")
    }
    if "references" in rows.column_names:
        texts["references"] = [[masked_text(text, mask) for text in answers] for answers in rows["references"][:]]
    columns = {name: texts.get(name) or rows[name][:] for name in rows.column_names}
    return rows.from_dict(columns, features=rows.features)


def shown(kind: str, found: str) -> str:
    """What was found, fit to be shown: of a secret only its first characters."""
    return f"{found[:6]}… ({len(found)} characters)" if kind == "secrets" else found


def _places(text: str) -> Iterator[tuple[str, int, int]]:
    """Kind, start and end of all that is found. The quick looks save the slow patterns on nearly every text."""
    if "@" in text:
        yield from (("emails", *each.span()) for each in _EMAIL.finditer(text))
    if any(mark in text for mark in _MARKS):
        yield from (("secrets", *each.span()) for each in _MARKED.finditer(text))
    small = text.lower()
    if any(name in small for name in _NAMES):
        for each in _NAMED.finditer(text):
            if _is_random(each[1]):
                yield "secrets", *each.span(1)
    if sum(map(text.count, "0123456789")) >= 7:
        for each in _PHONE.finditer(text):
            if _is_number(each[0]):
                yield "phones", *each.span()


def _is_number(text: str) -> bool:
    """7 to 15 digits (E.164), not all alike, and no date."""
    digits = re.sub(r"\D", "", text)
    return 7 <= len(digits) <= 15 and len(set(digits)) > 2 and not re.match(r"0?\d{1,2}[/-]\d{1,2}[/-]\d{2,4}$", text)


def _is_random(value: str) -> bool:
    """Whether a value looks drawn at random: letters and digits mixed, and more than 3 bits a character (Shannon)."""
    if not (re.search(r"\d", value) and re.search(r"[A-Za-z]", value)):
        return False
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts) > 3
