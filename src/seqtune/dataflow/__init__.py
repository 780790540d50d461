"""The nodes of the dataflow and nothing else, in order of execution.

`data` → `tokenization` → `finetuning` → `evaluation` → `delivery`. A node is a noun; what it calls is a verb in one of
the libraries beside this package.
"""
