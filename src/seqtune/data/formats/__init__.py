"""A file's content to plain rows: a module for each format.

Each has a function that takes a stream and yields ``(line, row)`` in file order, where a row that can't be read is an
`Unreadable` in its place: what is wrong with one row never hides another. What is wrong with the file as a whole is an
`InputError`. Row and line numbers count from 1.

Not covered: what the values are; that is for `checks`.
"""

from seqtune.data.formats.json_lines import rows_of_json_lines
from seqtune.data.formats.json_list import rows_of_json
from seqtune.data.formats.parquet import check_columns, rows_of_batch, rows_of_parquet
from seqtune.data.formats.separated import rows_of_csv, rows_of_tsv

__all__ = [
    "check_columns",
    "rows_of_batch",
    "rows_of_csv",
    "rows_of_json",
    "rows_of_json_lines",
    "rows_of_parquet",
    "rows_of_tsv",
]
