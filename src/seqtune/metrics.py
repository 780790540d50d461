"""Scores of answers against references, and whether one set of scores is better than another.

A row score tells about one answer; a set score about a whole split. All scores are percentages, 0 to 100, and more is
better. Two models are compared by a paired bootstrap over the same rows. Not covered here: metrics that need a model
(similarity of embeddings) and several references for one question.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from seqtune.errors import InputError

TokenizerName = Literal["english", "unicode"]
Verdict = Literal["better", "no clear difference", "worse"]

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
ROW_METRICS = (*ROUGE_TYPES, "chrf", "exact_match")
SET_METRICS = (*ROUGE_TYPES, "bleu", "chrf", "exact_match")
_LABELS = ("ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum", "BLEU", "chrF", "exact match")
METRIC_LABELS: dict[str, str] = dict(zip(SET_METRICS, _LABELS, strict=True))

FEWEST_ROWS = 5  # below this the verdict never says more than "no clear difference"
LARGEST_ENGLISH_SHARE = 0.005  # of letters outside ASCII: a name or a loan word here and there

# scx, script extensions: a mark such as the Japanese long-vowel sign belongs to every script that uses it
_SPACELESS = "".join(rf"\p{{scx={script}}}" for script in ("Hani", "Hira", "Kana", "Thai", "Laoo", "Khmr", "Mymr"))
_TOKEN = rf"[[\p{{L}}\p{{N}}]&&[{_SPACELESS}]]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_SPACELESS}]]+"
_CHUNK = 1_000_000  # resampled rows held at once: 8 MB of indices and 8 MB of differences


class UnicodeTokenizer:
    """Words of any script, for ``rouge_score``, whose own tokenizer keeps ``[a-z0-9]`` and so nothing of Japanese.

    A token is a run of letters, marks and digits. Scripts written without spaces between words (Han, Hiragana,
    Katakana, Thai, Lao, Khmer, Myanmar) give one token a character, with its combining marks. Text is compared in
    Unicode's NFKC form and case-folded; nothing is stemmed.
    """

    def __init__(self) -> None:
        import regex

        self._token = regex.compile(_TOKEN, regex.VERSION1)

    def tokenize(self, text: str) -> list[str]:
        """The tokens of ``text`` in order."""
        return self._token.findall(unicodedata.normalize("NFKC", text).casefold())


def choose_tokenizer(references: Sequence[str]) -> tuple[TokenizerName, str]:
    """The tokenizer that suits these reference answers, and why.

    "english" (Google's, with Porter stemming) as long as at most 0.5 % of the letters lie outside ASCII, for it drops
    every other letter; else "unicode". The choice looks at references alone, so that both models are scored alike.
    """
    letters = outside = 0
    for reference in references:
        for character in reference:
            if character.isalpha():
                letters += 1
                outside += not character.isascii()
    share = outside / letters if letters else 0.0
    found = f"{100 * share:.1f} % of the letters in the reference answers are outside ASCII"
    if share > LARGEST_ENGLISH_SHARE:
        return "unicode", f"{found}: words of every script are kept, without stemming"
    return "english", f"{found}: ROUGE's own tokenizer, with stemming"


def row_scores(
    predictions: Sequence[str], references: Sequence[str], tokenizer: TokenizerName = "english"
) -> list[dict[str, float]]:
    """Scores of each answer against its reference, all 0 to 100.

    - ``rouge1``, ``rouge2``, ``rougeL``, ``rougeLsum``: F1 by Google's ``rouge_score`` (Lin 2004, "ROUGE: A Package for
      Automatic Evaluation of Summaries", sections 2 and 3); Lsum takes each line as a sentence. 0 where either side
      has no token, and rouge2 is 0 where either side has only one.
    - ``chrf``: sentence chrF by ``sacrebleu`` (Popović 2015): character 1- to 6-grams, beta 2.
    - ``exact_match``: 100 if both are the same text, surrounding and repeated white space aside, else 0. Case and
      punctuation count.

    Raises ValueError for lists of different length or an unknown tokenizer.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.chrf import CHRF

    _check_same_length(predictions, references)
    if tokenizer not in ("english", "unicode"):
        raise ValueError(f"tokenizer is {tokenizer!r}, expected 'english' or 'unicode'")
    unicode = UnicodeTokenizer() if tokenizer == "unicode" else None
    rouge = RougeScorer(list(ROUGE_TYPES), use_stemmer=True, tokenizer=unicode)  # without tokenizer: Google's own
    chrf = CHRF()
    rows = []
    for prediction, reference in zip(predictions, references, strict=True):
        scored = rouge.score(reference, prediction)
        row = {name: 100.0 * float(scored[name].fmeasure) for name in ROUGE_TYPES}
        row["chrf"] = float(chrf.sentence_score(prediction, [reference]).score)
        row["exact_match"] = 100.0 if prediction.split() == reference.split() else 0.0
        rows.append(row)
    return rows


def set_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    tokenizer: TokenizerName = "english",
    rows: Sequence[dict[str, float]] | None = None,
) -> dict[str, float]:
    """Scores of a whole set of answers, all 0 to 100.

    ROUGE and ``exact_match`` are the means of :func:`row_scores`. ``bleu`` (Papineni et al. 2002; Post 2018) and
    ``chrf`` are sacrebleu's corpus scores, counted over all rows together, so they are not means of row scores.

    Args:
        predictions: one answer a row; an empty one scores 0 (exact_match 100 where the reference is empty too).
        references: the answer that was wanted, one a row.
        tokenizer: see :func:`choose_tokenizer`.
        rows: the result of :func:`row_scores` for the same lists, where it is at hand.

    Raises InputError without rows, ValueError for lists of different length or an unknown tokenizer.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    _check_same_length(predictions, references)
    if not references:
        raise InputError("there are no rows to score", mend="A split needs at least one row.")
    rows = row_scores(predictions, references, tokenizer) if rows is None else rows
    _check_same_length(rows, references)
    means = {name: math.fsum(row[name] for row in rows) / len(rows) for name in (*ROUGE_TYPES, "exact_match")}
    # force only silences a warning about text that ends in " .", which answers of a young model do
    bleu = BLEU(tokenize=bleu_tokenizer(references, tokenizer), force=True)
    answers, wanted = list(predictions), [list(references)]
    means["bleu"] = float(bleu.corpus_score(answers, wanted).score)
    means["chrf"] = float(CHRF().corpus_score(answers, wanted).score)
    return {name: means[name] for name in SET_METRICS}


def bleu_tokenizer(references: Sequence[str], tokenizer: TokenizerName) -> Literal["13a", "intl", "char"]:
    """sacrebleu's name of the tokenizer that BLEU uses; none of them needs a download.

    "13a" for English; else "char" where most letters are of scripts written without spaces, and "intl" for the rest.
    """
    import regex

    if tokenizer == "english":
        return "13a"
    text = "".join(references)
    letters = len(regex.findall(r"\p{L}", text))
    spaceless = len(regex.findall(rf"[\p{{L}}&&[{_SPACELESS}]]", text, flags=regex.VERSION1))
    return "char" if 2 * spaceless > letters else "intl"


def bits_per_byte(nll_nats: float, n_bytes: int) -> float:
    """Loss in bits for each UTF-8 byte of the answers: ``nll_nats / (ln 2 · n_bytes)``; 0 or more, less is better.

    Unlike loss by token it compares models with different tokenizers (Gao et al. 2020, "The Pile", section 3.1).

    ``nll_nats`` is the negative log-likelihood of all answers together, a sum over tokens, in nats; ``n_bytes`` the
    length of the same answers in UTF-8 bytes, 1 or more.
    """
    if n_bytes <= 0:
        raise ValueError(f"n_bytes is {n_bytes}, expected 1 or more")
    return float(nll_nats) / (math.log(2) * n_bytes)


@dataclass(frozen=True)
class Lift:
    """What tuning changed: tuned minus base, in points of the metric, with its interval.

    ``low`` to ``high`` is the interval, ``rows`` how many rows were compared, and ``confidence`` the share of repeated
    samplings whose interval holds the true difference.
    """

    mean: float
    low: float
    high: float
    rows: int
    confidence: float = 0.95


def lift(
    base: Sequence[float], tuned: Sequence[float], samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Lift:
    """Mean difference tuned − base over the same rows, with a paired percentile-bootstrap interval.

    Rows are drawn with replacement ``samples`` times; the interval runs between the (1 ± confidence) / 2 quantiles of
    the means (Efron & Tibshirani 1993, chapter 13; for text metrics Koehn 2004). Both scores of a row are drawn
    together, so what makes a row hard for both models cancels. The interval tells how far the choice of rows matters;
    it does not know of other training seeds. The same arguments give the same result.

    ``base`` and ``tuned`` are scores of the same rows in the same order, more is better. Raises InputError without
    rows, ValueError for lists of different length, scores not finite, or a bad ``samples`` or ``confidence``.
    """
    import numpy as np

    _check_same_length(tuned, base)
    if not len(base):
        raise InputError("there are no rows to compare", mend="A split needs at least one row.")
    if samples < 1 or not 0 < confidence < 1:
        raise ValueError(f"samples={samples}, confidence={confidence}: expected 1 or more, and between 0 and 1")
    difference = np.asarray(tuned, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    if not np.isfinite(difference).all():
        raise ValueError("a score is not finite")
    rng = np.random.default_rng(seed)
    rows = len(difference)
    means = np.empty(samples)
    step = max(1, _CHUNK // rows)
    for start in range(0, samples, step):
        size = min(step, samples - start)
        means[start : start + size] = difference[rng.integers(0, rows, size=(size, rows))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Lift(float(difference.mean()), float(low), float(high), rows, float(confidence))


def verdict(lift: Lift) -> Verdict:
    """ "better" if the whole interval lies above 0, "worse" if below, else "no clear difference".

    Fewer than 5 rows are always "no clear difference": an interval from so few leaves out 0 as soon as all rows agree
    in sign, and four rows of two equal models do so by chance in one case of eight.
    """
    if lift.rows >= FEWEST_ROWS:
        if lift.low > 0:
            return "better"
        if lift.high < 0:
            return "worse"
    return "no clear difference"


def verdict_sentence(metric: str, lift: Lift, split: str = "hold-out") -> str:
    """Such as "better: ROUGE-L +31.2 points over the base (95 % interval 27.5 to 34.8, 53 hold-out rows)"."""
    # an end close to 0 is shown with two decimals, so that "better" is not seen beside an interval from 0.0
    places = 1 if min(abs(lift.low), abs(lift.high)) >= 0.05 else 2
    mean, low, high = (round(value, places) + 0.0 for value in (lift.mean, lift.low, lift.high))  # + 0.0: no "-0.0"
    rows = f"{lift.rows} {split} row{'' if lift.rows == 1 else 's'}"
    few = ", too few to tell" if lift.rows < FEWEST_ROWS else ""
    return (
        f"{verdict(lift)}: {METRIC_LABELS.get(metric, metric)} {mean:+.{places}f} points over the base "
        f"({100 * lift.confidence:g} % interval {low:.{places}f} to {high:.{places}f}, {rows}{few})"
    )


def _check_same_length(left: Sequence[object], right: Sequence[object]) -> None:
    if len(left) != len(right):
        raise ValueError(f"{len(left)} rows against {len(right)}: expected one for each")
