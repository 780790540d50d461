"""What to know about the data before it is trained on: all checks in one list, for `seqtune check` and for every run.

A check is a function from a `Subject` to findings. A new one is written in the room of `seqtune.data` that knows what
it looks at, and added to `CHECKS`; the command, the manifest and the report show it without further ado.

Not covered: what stops a run by itself (a key that no row has, shares that do not fit): `seqtune.preflight`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from seqtune.data import checks, division, duplicates, intake, readers, texts
from seqtune.data.checks import Problem
from seqtune.data.findings import Finding
from seqtune.data.groups import Groups
from seqtune.errors import InputError
from seqtune.progress import warn
from seqtune.settings import DEFAULT

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Subject:
    """What a check looks at. The files go by the names ``data``, ``validation`` and ``hold_out``.

    Args:
        settings: the knobs in effect, by name.
        sources: what `readers.identify` says of each file.
        raw: the rows of each file as they stand in it.
        problems: what makes rows of each file unusable.
        clean: the usable rows of each file: ``row``, ``input``, ``reference``, ``extra``.
        sets: ``train``, ``validation`` and ``hold_out``; empty where the rows can't be divided.
        split_warnings: what to know of the division.
        groups: of the rows to divide (`division.used`); None where there are none.
        tokenizer: of the base model; None where no model is named, and then checks of tokens find nothing to say.
        model_path: the folder of that model.
    """

    settings: Mapping[str, Any]
    sources: Mapping[str, Mapping[str, Any]]
    raw: Mapping[str, Sequence[Any]]
    problems: Mapping[str, Sequence[Problem]]
    clean: Mapping[str, Dataset]
    sets: Mapping[str, Dataset] = field(default_factory=dict)
    split_warnings: Sequence[str] = ()
    groups: Groups | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    model_path: str = ""


Check = Callable[[Subject], Iterable[Finding]]


def reading(subject: Subject) -> Iterable[Finding]:
    """What each file was taken for, so that a wrong guess is seen."""
    for name, source in subject.sources.items():
        total, codec = len(subject.raw[name]), source.get("encoding")
        told = [FORMATS.get(source.get("format", ""), source.get("format") or source.get("kind"))]
        if codec:
            told.append("UTF-8" if codec == "utf-8-sig" else f"{codec.upper()}, converted")
        found = ", ".join([checks.counted(total, "row"), *(each for each in told if each)])
        yield Finding("reading", "PASS", f"{source['path']}: {found}", of=total)


#: The formats in words.
FORMATS = {"jsonl": "JSON Lines", "json": "JSON list", "csv": "CSV", "tsv": "TSV", "parquet": "Parquet"}


def unusable_rows(subject: Subject) -> Iterable[Finding]:
    """Rows that can't be used, a finding for each kind of problem: FAIL, or WARN where they are left out."""
    skip = subject.settings["on_bad_rows"] == "skip"
    for name, problems in subject.problems.items():
        where, total = _where(subject.sources, name), len(subject.raw[name])
        for check, (kinds, what) in KINDS.items():
            found = [problem for problem in problems if problem.kind in kinds]
            rows = len({problem.row for problem in found})
            if not found:
                yield Finding(check, "PASS", f"{where}no {what}", of=total)
                continue
            mends = [checks.MENDS[kind] for kind in kinds if kind in checks.MENDS]
            mend = "They are left out." if skip else "Fix these rows, or pass --on-bad-rows skip to leave them out."
            yield Finding(
                check,
                "WARN" if skip else "FAIL",
                f"{where}{rows:,} of {checks.counted(total, 'row')}: {what}",
                rows=rows,
                of=total,
                examples=tuple(checks.listed((each.place, each.finding, each.expected) for each in found)),
                mend=" ".join([mend, *mends]),
            )


#: The checks of unusable rows: which kinds of `Problem` count for each, and what these are.
KINDS = {
    "unreadable_rows": (("unreadable",), "rows that can't be read"),
    "encoding": (("not_utf8",), "bytes that are no UTF-8"),
    "repeated_keys": (("doubled",), "question or answer that stands twice"),
    "missing_text": (("missing", "null", "empty", "blank"), "missing, null, empty or white text"),
    "not_text": (("not_text", "number"), "values that are no text"),
    "broken_characters": (("broken_characters",), "NUL characters or lone surrogates"),
    "too_long": (("too_long",), f"texts of more than {checks.LONGEST:,} characters"),
}


def _where(sources: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """The file, where there are several."""
    return f"{sources[name]['path']}: " if len(sources) > 1 else ""


def contents(subject: Subject) -> Iterable[Finding]:
    """What stands in the texts of each file that one should know of."""
    for name, rows in subject.clean.items():
        yield from texts.findings_of(rows, _where(subject.sources, name))


def control_tokens(subject: Subject) -> Iterable[Finding]:
    """Control tokens in the texts of each file: those of many models, and those of the model that is named."""
    return control_tokens_of(subject.clean, subject.sources, subject.tokenizer)


def control_tokens_of(
    clean: Mapping[str, Dataset],
    sources: Mapping[str, Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase | None,
) -> Iterable[Finding]:
    """The same of what a `Subject` holds."""
    own = None
    if tokenizer is not None:
        from seqtune.data import plain  # not above: it brings transformers

        own = plain.control_names(tokenizer)
    for name, rows in clean.items():
        yield texts.control_tokens(rows, _where(sources, name), own)


def repetitions(subject: Subject) -> Iterable[Finding]:
    """What repeats itself in the rows to divide."""
    if subject.groups is None:
        return
    rows = division.used(subject.clean, subject.settings)
    yield duplicates.repeated_rows(rows, subject.groups)
    yield duplicates.near_duplicates(rows, subject.groups)
    yield duplicates.conflicting_answers(rows, subject.groups)
    yield duplicates.few_answers(rows)
    if subject.sets:
        own = {name: subject.clean[name] for name in ("validation", "hold_out") if name in subject.clean}
        yield duplicates.leakage(rows, subject.groups, subject.sets, own)


def splits(subject: Subject) -> Iterable[Finding]:
    """How the rows are divided, what was left out of own files, and where near-duplicates had to be torn apart."""
    if not subject.sets:
        return
    sizes = [f"{len(rows):,} {name.replace('_', '-')}" for name, rows in subject.sets.items()]
    total = sum(map(len, subject.sets.values()))
    found, warnings = f"{', '.join(sizes)} rows", tuple(subject.split_warnings)
    mend = "More rows, or own files that do not overlap, mend it." if warnings else ""
    yield Finding("splits", "WARN" if warnings else "PASS", found, of=total, examples=warnings, mend=mend)


def tokens_of_rows(subject: Subject) -> Iterable[Finding]:
    """Lengths, and what the tokenizer loses, where a model is named. (In a run these are nodes of their own.)"""
    if subject.tokenizer is None or not subject.sets:
        return
    from seqtune.data import lengths, roundtrip, tokens
    from seqtune.models import pieces

    train, template = subject.sets["train"], subject.settings["input_template"]
    kept = roundtrip.characters_to_preserve(train, subject.tokenizer, subject.settings)
    tokenizer = pieces.with_pieces(subject.tokenizer, kept)
    encoded = tokens.encoded(train, tokenizer, template)
    measured = lengths.measure(encoded)
    limits = lengths.limits(measured, subject.settings, subject.model_path)
    yield lengths.finding(measured, limits, lengths.cut_report({"train": encoded}, limits), len(encoded))
    yield roundtrip.finding(roundtrip.loss(train, tokenizer, template), bool(kept))


#: Every check, in the order in which they are shown.
CHECKS: tuple[Check, ...] = (reading, unusable_rows, contents, control_tokens, repetitions, splits, tokens_of_rows)
#: Those that need the tokenizer. In a run they are a node of their own, behind it.
OF_TOKENS: tuple[Check, ...] = (control_tokens, tokens_of_rows)


def findings_of(subject: Subject, checks_: Iterable[Check] = CHECKS) -> list[Finding]:
    """What all checks find."""
    return [finding for check in checks_ for finding in check(subject)]


def in_a_run(subject: Subject) -> list[dict[str, Any]]:
    """The findings of a run's data, but those of tokens, as the manifest has them; warnings are said in a line."""
    path = subject.sources["data"]["path"]
    return said(findings_of(subject, [each for each in CHECKS if each not in OF_TOKENS]), path)


def said(findings: Sequence[Finding], path: str, option: str = "") -> list[dict[str, Any]]:
    """The findings as the manifest has them; which of them warn is said in a line.

    Args:
        findings: of a run.
        path: the file.
        option: of `seqtune check`, that shows them.
    """
    if warned := list(dict.fromkeys(finding.check for finding in findings if finding.verdict != "PASS")):
        warn(f"{path}: worth a look: {', '.join(warned)}; `seqtune check {path}{option}` shows where")
    return [finding.as_dict() for finding in findings]


def check(given: Mapping[str, Any]) -> tuple[list[Finding], list[dict[str, Any]]]:
    """All that is found in the data that the settings name; what would stop a run is a finding too.

    Args:
        given: checked settings, ``data_path`` among them; the others have their defaults.

    Returns:
        The findings, and the rows that can't be used as `intake.rejects_of` has them.
    """
    settings = {**DEFAULT.model_dump(), **given}
    try:
        subject, stopped = _subject(settings)
    except InputError as error:
        return [_failed("reading", error)], []
    rejects = [
        reject
        for name, rows in subject.raw.items()
        for reject in intake.rejects_of(rows, subject.problems[name], subject.sources[name])
    ]
    return [*findings_of(subject), *stopped], rejects


def _subject(settings: Mapping[str, Any]) -> tuple[Subject, list[Finding]]:
    """The subject, and what keeps the rows from being divided. Raises InputError for a file that can't be read."""
    sources, raw, problems, clean = {}, {}, {}, {}
    for name in ("data", "validation", "hold_out"):
        path = settings[f"{name}_path"]
        if path is not None:
            sources[name] = readers.identify(path, settings["dataset_split"], settings["encoding"])
            raw[name] = readers.read(sources[name], settings["dataset_split"])
            problems[name] = intake.problems_of(raw[name], sources[name], settings)
    stopped: list[Finding] = []
    sets: dict[str, Any] = {}
    groups, warnings = None, ()
    try:
        clean = {name: intake.clean_of(rows, problems[name], settings) for name, rows in raw.items()}
        groups = division.groups_of(clean, settings)
        divided = division.made(clean, settings, groups)
        sets = {"train": divided.train, "validation": divided.validation, "hold_out": divided.hold_out}
        warnings = divided.warnings
    except InputError as error:
        stopped = [_failed("splits", error)]
    subject = Subject(settings, sources, raw, problems, clean, sets, warnings, groups)
    return replace(subject, **_model_of(settings)), stopped


def _model_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Tokenizer and folder of the model that is named; nothing without one."""
    if settings["model_id"] is None and settings["model_id_tokenizer"] is None:
        return {}
    from seqtune.models import loading

    found = loading.resolve(settings["model_id"], settings["model_id_tokenizer"], settings["model_revision"])
    return {"tokenizer": loading.load_fitting_tokenizer(found), "model_path": found.path}


def _failed(name: str, error: InputError) -> Finding:
    return Finding(name, "FAIL", error.headline, examples=tuple(error.details), mend=error.mend)
