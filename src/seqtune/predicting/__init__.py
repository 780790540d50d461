"""Answers to a file of questions, however long: in constant memory, and going on after a stop.

- `filling`: from questions to a file of answers
- `journal`: which answers there are already, on the disk
- `columns`: what columns the rows have, for tables
- `writers`: JSON Lines, CSV, TSV, Parquet

Nothing is imported here: what is wrong with a file is said before PyTorch is there.
"""
