"""Which section of the page shows the result of a node of the dataflow, so that its box in the picture leads there."""

from __future__ import annotations

#: Nodes whose result has a section of its own.
_OF_NODE = {
    "train_set": "splits",
    "validation_set": "splits",
    "hold_out_set": "splits",
    "data_splits": "splits",
    "split_warnings": "splits",
    "validation_sample": "splits",
    "hold_out_sample": "splits",
    "hold_out_unseen": "verdict",
    "row_problems": "checks",
    "clean_rows": "checks",
    "training_lengths": "lengths",
    "length_limits": "lengths",
    "cut_rows": "lengths",
    "tokenized_train": "lengths",
    "tokenized_validation": "lengths",
    "tokenized_hold_out": "lengths",
    "trained_adapter": "training",
    "checkpoints": "training",
    "finetuned_model": "training",
    "training_and_validation_set_metrics": "training",
    "device": "versions",
    "versions": "versions",
    "base_checkpoint": "versions",
    "base_model": "versions",
    "tokenizer": "versions",
    "verdict": "verdict",
    "validation_set_metrics": "scores",
    "hold_out_set_metrics": "scores",
    "rouge_words": "settings",
    "manifest": "versions",
    "report_page": "verdict",
    "save_best_models": "again",
}

#: Words in the names of the other nodes, the first that fits.
_OF_WORD = (
    ("settings", "settings"),
    ("precision", "settings"),
    ("config", "settings"),
    ("predictions", "answers"),
    ("_on_", "answers"),
    ("lift", "scores"),
    ("guard", "scores"),
    ("forget", "scores"),
    ("metric", "scores"),
    ("finding", "checks"),
    ("check", "checks"),
    ("length", "lengths"),
    ("token", "lengths"),
)


def of_node(name: str) -> str:
    """The anchor of the section: a node's own, or that of what its name speaks of, or the data."""
    if name in _OF_NODE:
        return _OF_NODE[name]
    return next((section for word, section in _OF_WORD if word in name), "data")
