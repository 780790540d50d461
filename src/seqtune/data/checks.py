"""What is wrong with the rows, all of it at once, and the clean rows that the rest works on.

Not covered: what a good row is worth to a model (duplicates, leakage, lengths); only whether it can be used at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seqtune.data.keys import MISSING, likeliest, paths_of, value_at, without
from seqtune.data.opening import FOREIGN_MEND
from seqtune.data.problems import Doubled, Problem, Unreadable, counted, kind_of, listed
from seqtune.errors import InputError
from seqtune.progress import along, say

#: Rows of a part of the clean rows.
PART = 10_000

if TYPE_CHECKING:
    from datasets import Dataset

#: Longest text of a row, in characters: a book. Anything longer is a mistake, and takes hours to tokenize.
LONGEST = 1_000_000

#: What to do about each kind of problem, besides leaving the row out.
MENDS = {
    "not_utf8": FOREIGN_MEND,
    "number": "Pass --values-as-text to take numbers and booleans as text.",
}


def check_rows(
    rows: Sequence[dict | Unreadable],
    input_text_key: str,
    output_text_key: str,
    path: str = "the data",
    values_as_text: bool = False,
    whole: bool = True,
) -> list[Problem]:
    """Every problem of every row: unreadable, missing, null, empty or blank, not text, no whole characters, too long.

    Args:
        rows: the raw rows, in file order.
        input_text_key: dotted path of the input text.
        output_text_key: dotted path of the target text.
        path: the file, for the error's first line.
        values_as_text: numbers and booleans are no problem.
        whole: these are all rows of the file, and a key that none has is another name for it, not a fault of each row.

    Raises:
        InputError: no row at all has one of the keys (or both): lists the keys there are and the likeliest; or the two
            keys are the same.
    """
    if input_text_key == output_text_key:
        mend = "Give them different keys with --input-text-key and --output-text-key."
        raise InputError(f'{path}: input and output are the same key "{input_text_key}"', mend=mend)
    keys = (input_text_key, output_text_key)
    problems: list[Problem] = []
    found = dict.fromkeys(keys, 0)
    readable = False
    for number, row in enumerate(along(rows, "checking rows", len(rows)), 1):
        if isinstance(row, Unreadable):
            problems.append(row.at(number))
            continue
        readable = True
        for key in keys:
            value = value_at(row, key)
            found[key] += value is not MISSING
            if value is MISSING:
                problems.append(Problem(number, key, "is missing", _has(row), "missing"))
            elif wrong := _wrong_of(value, key == output_text_key, values_as_text) or _twice(row, key):
                problems.append(Problem(number, key, *wrong))
    if whole and readable and (absent := [key for key in keys if not found[key]]):
        raise _no_row_has(path, [row for row in rows if isinstance(row, dict)], absent, keys)
    return problems


def as_text(value: Any) -> Any:
    """A number or a boolean as JSON writes it (``42``, ``0.5``, ``true``); anything else as it is."""
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    return value


def bad_rows_error(path: str, problems: Sequence[Problem], total_rows: int, part: bool = False) -> InputError:
    """The error that lists the first problems and counts all.

    Args:
        path: the file, as the user named it.
        problems: what `check_rows` found; at least one.
        total_rows: rows in the file.
        part: these are some of the rows that are streamed, met before training or in the middle of it.
    """
    count = f"{counted(len(problems), 'problem')} in {counted(total_rows, 'row')}"
    lines = listed((each.place, each.finding, each.expected) for each in problems)
    if part:
        return InputError(f"{path}: {count}", lines, "Fix the rows, or pass --on-bad-rows skip to leave them out.")
    mends = [mend for kind, mend in MENDS.items() if any(each.kind == kind for each in problems)]
    mend = "Nothing was trained. Fix the rows, or pass --on-bad-rows skip to leave them out."
    if len({each.row for each in problems}) >= total_rows:
        mend = "Nothing was trained. No row can be used: fix the rows, or name other keys."
    return InputError(f"{path}: {count}", lines, " ".join([mend, *mends]))


def clean_rows(
    rows: Sequence[dict | Unreadable],
    problems: Sequence[Problem],
    input_text_key: str,
    output_text_key: str,
    values_as_text: bool = False,
) -> Dataset:
    """The rows without a problem, in file order; numbers and booleans as text where they are no problem.

    Returns:
        A dataset with the columns ``row`` (int64, number in the file counted from 1), ``input`` and ``reference`` (the
        texts, exactly as they are) and ``extra`` (the row's other fields as a JSON object, keys sorted; one string, so
        that fields of mixed type from row to row never meet Arrow's types). Where an answer is a list of several, all
        right, ``reference`` is the first, which training takes, and a column ``references`` has the whole lists.

    Raises:
        InputError: no row is left.
    """
    from datasets import Dataset, Features, List, Value, concatenate_datasets

    bad = {problem.row for problem in problems}
    types: dict[str, Any] = {
        "row": Value("int64"),
        **{name: Value("string") for name in ("input", "reference", "extra")},
        "references": List(Value("string")),
    }
    features = Features(types)
    parts: list[Any] = []
    several = False
    columns: dict[str, list] = {name: [] for name in types}
    for number, row in enumerate(along(rows, "taking texts out of rows", len(rows)), 1):
        if number not in bad and isinstance(row, dict):
            texts = [value_at(row, key) for key in (input_text_key, output_text_key)]
            question, answer = map(as_text, texts) if values_as_text else texts
            answers = [as_text(each) if values_as_text else each for each in answer] if _is_list(answer) else [answer]
            columns["row"].append(number)
            columns["input"].append(question)
            columns["reference"].append(answers[0])
            columns["references"].append(answers)
            several = several or len(answers) > 1
            fields = without(without(row, input_text_key), output_text_key)
            try:
                columns["extra"].append(as_json(fields, sort_keys=True))
            except RecursionError:
                raise InputError(
                    f"row {number}: its other fields are nested too deeply", mend="Take them out."
                ) from None
            if len(columns["row"]) == PART:  # a part at a time: a million rows are never lists all at once
                parts.append(Dataset.from_dict(columns, features=features))
                columns = {name: [] for name in types}
    if columns["row"]:
        parts.append(Dataset.from_dict(columns, features=features))
    if not parts:
        raise InputError(
            f"no row is left: each of the {len(rows):,} has a problem", mend="Fix the rows, or name other keys."
        )
    whole = concatenate_datasets(parts)
    return whole if several else whole.remove_columns("references")


def sample_rows(dataset: Dataset, max_samples: int | None, random_state: int) -> Dataset:
    """At most `max_samples` rows of a clean dataset, in the order they have there.

    Chosen by a hash of their content and `random_state`: the same rows whatever their order and on every machine.
    """
    if max_samples is None or max_samples >= len(dataset):
        return dataset
    content = zip(*(dataset[name][:] for name in ("input", "reference", "extra")), strict=True)
    ranks = [content_hash(f"sample {random_state}", *texts) for texts in content]
    chosen = sorted(range(len(ranks)), key=ranks.__getitem__)[:max_samples]
    return dataset.select(sorted(chosen))


def evaluation_sample(name: str, dataset: Dataset, settings: Mapping[str, Any]) -> Dataset:
    """The rows of a set that are scored: at most ``max_eval_rows``, chosen by ``random_state``; said where not all."""
    sample = sample_rows(dataset, settings["max_eval_rows"], settings["random_state"])
    if len(sample) < len(dataset):
        say(
            f"{len(sample):,} of {len(dataset):,} {name} rows are scored (max_eval_rows), "
            f"chosen by random_state {settings['random_state']}"
        )
    return sample


def content_hash(*texts: str) -> str:
    """sha256 over texts; the lengths keep ("ab", "c") and ("a", "bc") apart."""
    return hashlib.sha256("".join(f"{len(text)}:{text}" for text in texts).encode()).hexdigest()


def _wrong_of(value: Any, is_answer: bool, values_as_text: bool) -> tuple[str, str, str] | None:
    """As `_wrong`; an answer may be a list of texts, each of which is right."""
    if not (is_answer and _is_list(value)):
        return _wrong(as_text(value) if values_as_text else value)
    if not value:
        return "is an empty list", "expected text, or a list of texts", "empty"
    for number, each in enumerate(value, 1):
        if wrong := _wrong(as_text(each) if values_as_text else each):
            return f"{wrong[0]} in place {number} of its list", wrong[1], wrong[2]
    return None


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _wrong(value: Any) -> tuple[str, str, str] | None:
    """What is wrong with a text, what was expected (where that is not plain), and the kind; None if nothing is."""
    if not isinstance(value, str):
        kind = kind_of(value)
        kinds = {"null": "null", "NaN": "null", "a number": "number", "a boolean": "number"}
        return f"is {kind}", "expected text", kinds.get(kind, "not_text")
    if not value:
        return "is empty", "", "empty"
    if not value.strip():
        return "is white space", "", "blank"
    if len(value) > LONGEST:
        return f"has {len(value):,} characters", f"expected at most {LONGEST:,}", "too_long"
    if "\0" in value:
        found = f"expected text; \\u0000 is character {value.index(chr(0)) + 1}"
        return "holds a NUL character", found, "broken_characters"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = f"expected whole characters; \\u{ord(value[error.start]):04x} is character {error.start + 1}"
        return "holds a lone surrogate", found, "broken_characters"
    return None


def _twice(row: dict, key: str) -> tuple[str, str, str] | None:
    """Whether the key, or an object on the way to it, stands more than once: which of them is meant is not known."""
    parts = key.split(".")
    for count in range(len(parts)):
        node = value_at(row, ".".join(parts[:count])) if count else row
        if (isinstance(node, Doubled) and ".".join(parts[count:]) in node.doubled) or (
            isinstance(node, Doubled) and parts[count] in node.doubled
        ):
            return "stands more than once in the row", "expected each key once", "doubled"
    return None


def _has(row: dict) -> str:
    names = [str(name) for name in row]
    return (
        f"this row has: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}" if names else "this row has no fields"
    )


def as_json(fields: dict, sort_keys: bool = False) -> str:
    """Fields as strict JSON: NaN and infinities, which JSON lacks, as null; dates and the like as text."""
    text = json.dumps(_finite(fields), sort_keys=sort_keys, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: only its escape can be written
        return json.dumps(_finite(fields), sort_keys=sort_keys, default=str)
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _no_row_has(path: str, rows: Sequence[dict], absent: list[str], keys: tuple[str, str]) -> InputError:
    """The error for keys that no row has: the keys there are, in how many rows, and the likeliest."""
    rows_with, rows_with_text = Counter[str](), Counter[str]()
    for row in rows:
        for name, value in paths_of(row):
            rows_with[name] += 1
            rows_with_text[name] += isinstance(value, str)
    wanted = " or ".join(f'"{key}"' for key in absent)
    table = [(name, counted(count, "row")) for name, count in rows_with.most_common()]
    details = (
        ["the rows have:", *("  " + line for line in listed(table))] if table else ["the rows have no keys at all"]
    )
    texts = {name: count / len(rows) for name, count in rows_with_text.items() if count}
    likely = likeliest(keys, absent, texts)
    options = [
        f"--{'input' if key == keys[0] else 'output'}-text-key {shlex.quote(likely[key])}"
        for key in absent
        if key in likely
    ]
    mend = (
        f"Did you mean {' '.join(options)}?"
        if options
        else "Name the keys with --input-text-key and --output-text-key."
    )
    return InputError(f"{path}: no row has {wanted}", details, mend)
