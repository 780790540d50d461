"""Scores of each row and of whole sets.

A row may have several reference answers: then each metric takes the one that suits the answer best, as ROUGE, chrF and
SQuAD do, and BLEU counts the n-grams of all (Papineni et al. 2002, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from typing import Any

from seqtune.errors import InputError
from seqtune.metrics import squad
from seqtune.metrics.words import TokenizerName, UnicodeTokenizer, bleu_tokenizer

#: For each row its reference answer, or several.
References = Sequence[str | Sequence[str]]

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
ROW_METRICS = (*ROUGE_TYPES, "chrf", "exact_match", "f1", "identical")
SET_METRICS = (*ROUGE_TYPES, "bleu", "chrf", "exact_match", "f1", "identical")
#: Scores of a set that are no means of row scores: sacrebleu counts n-grams over all rows together.
CORPUS_METRICS = ("bleu", "chrf")
#: All others are better when they are higher.
LESS_IS_BETTER = ("loss", "bits_per_byte")

_LABELS = ("ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum", "BLEU", "chrF", "exact match", "F1", "identical")
METRIC_LABELS: dict[str, str] = dict(zip(SET_METRICS, _LABELS, strict=True))
METRIC_LABELS |= {"loss": "loss", "bits_per_byte": "bits a byte", "embedding_similarity": "embedding similarity"}
METRIC_LABELS |= {"bertscore": "BERTScore"}


def row_scores(
    predictions: Sequence[str], references: References, tokenizer: TokenizerName = "english"
) -> list[dict[str, float]]:
    """Scores of each answer against its reference, all 0 to 100; against the best of several.

    - ``rouge1``, ``rouge2``, ``rougeL``, ``rougeLsum``: F1 by Google's ``rouge_score`` (Lin 2004, "ROUGE: A Package for
      Automatic Evaluation of Summaries", sections 2 and 3); Lsum takes each line as a sentence. 0 where either side
      has no token, and rouge2 is 0 where either side has only one.
    - ``chrf``: sentence chrF by ``sacrebleu`` (Popović 2015): character 1- to 6-grams, beta 2.
    - ``exact_match``, ``f1``: as SQuAD's (see `squad`): case, punctuation and articles aside.
    - ``identical``: 100 if both are the same text, surrounding and repeated white space aside, else 0. Case and
      punctuation count, as they do in a command or in code.

    Raises ValueError for lists of different length, a row without a reference, or an unknown tokenizer.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.chrf import CHRF

    check_same_length(predictions, references)
    if tokenizer not in ("english", "unicode"):
        raise ValueError(f"tokenizer is {tokenizer!r}, expected 'english' or 'unicode'")
    unicode = UnicodeTokenizer() if tokenizer == "unicode" else None
    rouge = RougeScorer(list(ROUGE_TYPES), use_stemmer=True, tokenizer=unicode)  # without tokenizer: Google's own
    chrf = CHRF()
    words = squad.SquadWords(tokenizer)
    rows = []
    for prediction, wanted in zip(predictions, map(several, references), strict=True):
        scored = [rouge.score(reference, prediction) for reference in wanted]
        row = {name: 100.0 * max(float(each[name].fmeasure) for each in scored) for name in ROUGE_TYPES}
        row["chrf"] = float(chrf.sentence_score(prediction, wanted).score)
        said, expected = words(prediction), [words(reference) for reference in wanted]
        row["exact_match"] = max(squad.exact_match(said, each) for each in expected)
        row["f1"] = max(squad.f1(said, each) for each in expected)
        row["identical"] = 100.0 if any(prediction.split() == each.split() for each in wanted) else 0.0
        rows.append(row)
    return rows


def set_scores(
    predictions: Sequence[str],
    references: References,
    tokenizer: TokenizerName = "english",
    rows: Sequence[Mapping[str, float]] | None = None,
) -> dict[str, float]:
    """Scores of a whole set of answers, all 0 to 100.

    ``bleu`` (Papineni et al. 2002; Post 2018) and ``chrf`` are sacrebleu's corpus scores, counted over all rows
    together, so they are not means of row scores. All others are the means of :func:`row_scores`.

    Args:
        predictions: one answer a row; an empty one scores 0 (exact_match 100 where the reference is empty too).
        references: the answer that was wanted, or several, one entry a row.
        tokenizer: see :func:`words.choose_tokenizer`.
        rows: the result of :func:`row_scores` for the same lists, where it is at hand.

    Raises InputError without rows, ValueError for lists of different length or an unknown tokenizer.
    """
    from sacrebleu.metrics.chrf import CHRF

    check_same_length(predictions, references)
    if not references:
        raise InputError("there are no rows to score", mend="A split needs at least one row.")
    rows = row_scores(predictions, references, tokenizer) if rows is None else rows
    check_same_length(rows, references)
    means = {
        name: math.fsum(row[name] for row in rows) / len(rows) for name in ROW_METRICS if name not in CORPUS_METRICS
    }
    answers, wanted = list(predictions), streams(references)
    means["bleu"] = float(bleu(references, tokenizer).corpus_score(answers, wanted).score)
    means["chrf"] = float(CHRF().corpus_score(answers, wanted).score)
    return {name: means[name] for name in SET_METRICS}


def signatures(references: References, tokenizer: TokenizerName) -> dict[str, str]:
    """sacrebleu's signatures of ``bleu`` and ``chrf``: version and every choice, so that others can get the same."""
    from sacrebleu.metrics.chrf import CHRF

    found = {}
    for name, metric in (("bleu", bleu(references, tokenizer)), ("chrf", CHRF())):
        metric.corpus_score([""] * len(references), streams(references))  # it learns the number of references so
        found[name] = metric.get_signature().format()
    return found


def bleu(references: References, tokenizer: TokenizerName):
    """sacrebleu's BLEU with the tokenizer for these references."""
    from sacrebleu.metrics.bleu import BLEU

    text = [text for wanted in references for text in several(wanted)]
    # force only silences a warning about text that ends in " .", which answers of a young model do
    return BLEU(tokenize=bleu_tokenizer(text, tokenizer), force=True)


def several(wanted: str | Sequence[str]) -> list[str]:
    """A row's references as a list."""
    if isinstance(wanted, str):
        return [wanted]
    if not wanted:
        raise ValueError("a row without a reference")
    return list(wanted)


def streams(references: References) -> list[Any]:
    """The references as sacrebleu takes them: first ones, second ones …; None where a row has fewer."""
    rows = [several(wanted) for wanted in references]
    most = max(map(len, rows), default=1)
    return [[row[index] if index < len(row) else None for row in rows] for index in range(most)]


def bits_per_byte(nll_nats: float, n_bytes: int) -> float:
    """Loss in bits for each UTF-8 byte of the answers: ``nll_nats / (ln 2 · n_bytes)``; 0 or more, less is better.

    Unlike loss by token it compares models with different tokenizers (Gao et al. 2020, "The Pile", section 3.1).

    ``nll_nats`` is the negative log-likelihood of all answers together, a sum over tokens, in nats; ``n_bytes`` the
    length of the same answers in UTF-8 bytes, 1 or more.
    """
    if n_bytes <= 0:
        raise ValueError(f"n_bytes is {n_bytes}, expected 1 or more")
    return float(nll_nats) / (math.log(2) * n_bytes)


def check_same_length(left: Sized, right: Sized) -> None:
    """Raise ValueError where the two do not have an entry for each other."""
    if len(left) != len(right):
        raise ValueError(f"{len(left)} rows against {len(right)}: expected one for each")
