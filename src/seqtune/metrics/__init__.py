"""Scores of answers against references, and whether one set of scores is better than another.

A row score tells about one answer; a set score about a whole split. All scores are percentages, 0 to 100, and more is
better. Two models are compared by a paired bootstrap over the same rows (`bootstrap`), and what is wrong with an answer
whatever the reference says is counted (`guards`). `docs/evaluation.md` has the definitions and their sources.

Nothing here needs PyTorch: finished runs are compared with it too.
"""

from seqtune.metrics.bootstrap import Lift, lift
from seqtune.metrics.rows import (
    LESS_IS_BETTER,
    METRIC_LABELS,
    ROUGE_TYPES,
    ROW_METRICS,
    SET_METRICS,
    References,
    bits_per_byte,
    row_scores,
    set_scores,
    signatures,
)
from seqtune.metrics.verdicts import FEWEST_ROWS, Verdict, verdict, verdict_sentence
from seqtune.metrics.words import TokenizerName, UnicodeTokenizer, bleu_tokenizer, choose_tokenizer

__all__ = [
    "FEWEST_ROWS",
    "LESS_IS_BETTER",
    "METRIC_LABELS",
    "ROUGE_TYPES",
    "ROW_METRICS",
    "SET_METRICS",
    "Lift",
    "References",
    "TokenizerName",
    "UnicodeTokenizer",
    "Verdict",
    "bits_per_byte",
    "bleu_tokenizer",
    "choose_tokenizer",
    "lift",
    "row_scores",
    "set_scores",
    "signatures",
    "verdict",
    "verdict_sentence",
]
