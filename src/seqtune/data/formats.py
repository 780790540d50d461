"""The text of a data file, or the bytes of a Parquet file, to plain rows: one function a format.

Each takes the whole content and returns a list of dicts in file order, or raises one `InputError` that names all that
is wrong with line and column. Row and line numbers count from 1.

Not covered: what the values are; that is for `checks`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from typing import Any

from seqtune.data.checks import kind_of, listed
from seqtune.errors import InputError

#: Said wherever a JSON file has another shape.
JSON_SHAPE = 'Expected a list of objects: [{"question": "…", "reply": "…"}, …], or one such object a line.'

CSV_SHAPE = (
    'Expected a header row, then rows of as many fields; a field with a comma, quote or line break in it stands in "…".'
)


def rows_of_json(text: str, where: str) -> list[dict]:
    """A JSON list of objects.

    Args:
        text: the content of the file.
        where: the file, as the user named it; begins every message.

    Raises:
        InputError: not JSON, not a list, an empty list, or a list with other things than objects.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        found = [f"found: {_excerpt(text, error.pos)}"]
        hint = _hint(text, error.pos)
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{where}: not JSON at {place}: {error.msg}", found, f"{hint} {JSON_SHAPE}".strip()) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not usable as JSON: {_reason(error)}", mend=JSON_SHAPE) from None
    if isinstance(content, dict):
        raise _object_instead_of_list(content, where)
    if not isinstance(content, list):
        raise InputError(f"{where}: {kind_of(content)} instead of a list of rows", mend=JSON_SHAPE)
    if not content:
        raise InputError(f"{where}: an empty list, no rows", mend=JSON_SHAPE)
    others = [(f"row {number}", kind_of(row)) for number, row in enumerate(content, 1) if not isinstance(row, dict)]
    if others:
        lines = listed((place, f"is {kind}", "expected an object") for place, kind in others)
        raise InputError(f"{where}: {len(others):,} of {len(content):,} rows are no objects", lines, JSON_SHAPE)
    return content


def rows_of_json_lines(text: str, where: str) -> list[dict]:
    r"""JSON Lines: an object a line; blank lines are passed over.

    Lines end with ``\n`` or ``\r\n`` and nothing else: U+2028 and its kin may stand inside a JSON string.

    Raises:
        InputError: naming every line that is no JSON object.
    """
    rows: list[dict] = []
    broken: list[tuple[str, ...]] = []
    lines = text.split("\n")
    filled = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        filled += 1
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            cut = number == len(lines) and error.pos >= len(line.rstrip())
            remark = "the file ends here: was it cut off?" if cut else f"found: {_excerpt(line, error.pos)}"
            broken.append((f"line {number}, column {error.colno}", error.msg, remark))
        except (ValueError, RecursionError) as error:
            broken.append((f"line {number}", _reason(error), ""))
        else:
            if isinstance(row, dict):
                rows.append(row)
            else:
                broken.append((f"line {number}", f"is {kind_of(row)}", "expected an object"))
    if broken:
        found = f"{where}: {len(broken):,} of {filled:,} lines are no JSON object"
        raise InputError(
            found, listed(broken), 'Expected JSON Lines, one object a line: {"question": "…", "reply": "…"}'
        )
    return rows


def rows_of_csv(text: str, where: str) -> list[dict]:
    """Comma-separated values with a header row (or, as the header shows, separated by semicolons or tabs).

    Blank lines are passed over. A row with fewer fields than the header lacks the last keys; all values are text.

    Raises:
        InputError: broken quoting; two columns of one name; a header alone; naming every row with too many fields.
    """
    header = next((line for line in text.split("\n") if line.strip()), "")
    # The first of the most frequent: a comma where none of them occurs.
    return _delimited(text, where, max(",;\t", key=header.count))


def rows_of_tsv(text: str, where: str) -> list[dict]:
    """Tab-separated values with a header row; quoted as in CSV. Raises as `rows_of_csv` does."""
    return _delimited(text, where, "\t")


def rows_of_parquet(content: bytes, where: str) -> list[dict]:
    """The rows of one Parquet file.

    Raises:
        InputError: it can't be read as Parquet, or has no rows.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)) as file:
            rows = file.read().to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        mend = "Write it again, or give the rows as JSON Lines or CSV."
        raise InputError(f"{where}: can't be read as Parquet: {_reason(error)}", mend=mend) from None
    if not rows:
        raise InputError(f"{where}: a Parquet file without rows", mend="Give a file with question–answer rows.")
    return rows


def _delimited(text: str, where: str, delimiter: str) -> list[dict]:
    """Rows of text separated by `delimiter`."""
    csv.field_size_limit(2**31 - 1)  # the limit of 128 KiB a field guards against broken quotes; strict=True does too
    # newline="": the reader itself must see the line ends inside quoted fields.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    rows: list[dict] = []
    too_long: list[tuple[str, ...]] = []
    start = 1
    try:
        for fields in reader:
            if not fields:
                pass
            elif not names:
                names = [name.strip() or f"column {number}" for number, name in enumerate(fields, 1)]
            else:
                rows.append(dict(zip(names, fields, strict=False)))
                # A comma too many at the end of a row loses nothing.
                if extra := next((field for field in fields[len(names) :] if field), ""):
                    place = f"row {len(rows)}, line {start}"
                    too_long.append((place, f"has {len(fields)} fields", f"too many: {_excerpt(extra, 0)}"))
            start = reader.line_num + 1
    except csv.Error as error:
        lines = f"line {start}" if reader.line_num <= start else f"lines {start} to {reader.line_num}"
        reason = "a quote is never closed" if "unexpected end" in str(error) else str(error)
        raise InputError(f"{where}: broken row at {lines}: {reason}", mend=CSV_SHAPE) from None
    twice = [f"column {name!r} stands {count} times" for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{where}: columns with the same name", twice, "Give each column a name of its own.")
    if too_long:
        found = f"{where}: {len(too_long):,} of {len(rows):,} rows have more fields than the header"
        header = f"the header has {len(names)}: {', '.join(names)}"
        raise InputError(found, [header, *listed(too_long)], CSV_SHAPE)
    if not rows:
        raise InputError(f"{where}: a header row and no others", mend=CSV_SHAPE)
    return rows


def _object_instead_of_list(content: dict[str, Any], where: str) -> InputError:
    """The error for a JSON object at the top of a file, with the list inside it where there is one."""
    details = []
    for key, value in content.items():
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            details.append(
                f'its key "{key}" holds a list of {len(value):,} objects: save that list as a file of its own'
            )
    if not details:
        names = list(content)
        details.append(
            f"its keys: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}" if names else "it has no keys"
        )
        if names and all(isinstance(value, list | dict) for value in content.values()):
            details.append('it looks like columns: with pandas, write rows with to_json(…, orient="records")')
    return InputError(f"{where}: a JSON object instead of a list", details, JSON_SHAPE)


def _excerpt(text: str, position: int) -> str:
    """Up to 40 characters of the line from `position` on; enough to find the place."""
    rest = text[position : position + 200].split("\n", 1)[0].rstrip("\r")
    if not rest:
        return "the end of the file" if position >= len(text.rstrip()) else "the end of the line"
    return quoted(rest[:40]) + ("…" if len(rest) > 40 else "")


def quoted(text: str) -> str:
    """A piece of a file between backquotes; what a terminal would not show or would obey is escaped."""
    return "`" + "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text) + "`"


def _hint(text: str, position: int) -> str:
    """The mend for the three slips that break most JSON files; else the empty string."""
    before = text[max(0, position - 200) : position].rstrip()
    rest = text[position : position + 200].lstrip()
    if not rest:
        return "The file ends too early: was it cut off?"
    if rest.startswith("'"):
        return "JSON takes double quotes, not single ones."
    # Python 3.13 reports the place of the comma itself, earlier ones that of the bracket.
    if (before.endswith(",") and rest[0] in "]}") or re.match(r",\s*[\]}]", rest):
        return "Remove the comma before the closing bracket."
    return ""


def _reason(error: BaseException) -> str:
    """The first line of an exception's message, in words."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
