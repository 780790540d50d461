"""An export against the model it was made of: the same answers, the same probabilities; else it is not published.

Answers come from the export's own ``load.py``, so that what a user will run is what is checked. They are greedy.
"""

from __future__ import annotations

import math
import runpy
import statistics
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

from seqtune import metrics
from seqtune.data import tokens
from seqtune.errors import RunError
from seqtune.export.tuned import QUESTIONS, Tuned
from seqtune.models.quiet import quiet
from seqtune.progress import say

#: Rows that are answered by the export: float32, and arithmetic that is judged by its ROUGE.
ROWS = {"float32": 16}
ROWS_OTHERWISE = 64

#: float32: largest difference of a token's log-probability, in nats. Rounding gives about 0.0001.
BOUND = 0.01
#: Other arithmetic: points of ROUGE-L on the rows that may be lost, and the average difference of a token's
#: log-probability, in nats (int8 as tried: 0.005 to 0.01).
ROUGE_BOUND = 2.0
MEAN_BOUND = 0.1


def snippet(template: str, tuned: Tuned) -> str:
    """``load.py`` of an export."""
    packaged = tuned.base_path.name == "seqtune_mini"
    values = {
        "template": repr(tuned.settings["input_template"]),
        "source_limit": tuned.settings["max_source_length"],
        "limit": tuned.limit,
        "open_limit": tuned.open_limit,
        "start": tuned.options["decoder_start_token_id"],
        "first": tuned.first,
        "ends": tuned.ends,
        "options": repr(tuned.options),
        "base": "str(seqtune.models.loading.embedded_folder())" if packaged else repr(tuned.base_id),
        "revision": repr(tuned.base_revision),
        "imports": "import seqtune.models.loading\n" if packaged else "",
    }
    return Template(template).substitute(values)


def check(target: Any, tuned: Tuned, folder: Path, quantization: str) -> dict[str, Any]:
    """What was compared, and how it came out.

    Returns:
        ``rows``, ``same`` (rows with the same tokens), ``tied`` (float32: rows whose first other token the tuned model
        holds as likely, to twice the bound), ``largest`` and ``mean`` difference of a token's log-probability (nats),
        ``bound``; with references, ``rouge`` of the tuned model and of the export (ROUGE-L, 0–100).

    Raises:
        RunError: the export is beyond the bound.
    """
    exact, bound = quantization == "float32", getattr(target, "BOUND", BOUND)
    few = _first(tuned, ROWS.get(quantization, ROWS_OTHERWISE))
    count = len(few.texts)
    expected = few.answerer.tokens(few.sources, batch_size=16, random_state=0, max_new_tokens=few.limit)
    ours, theirs = few.log_probs(few.model, expected), target.log_probs(few, folder, expected)
    differences = [
        abs(a - b) for row, other in zip(ours, theirs, strict=True) for a, b in zip(row, other, strict=False)
    ]
    if not all(map(math.isfinite, differences)):
        raise RunError("the export gives probabilities that are no numbers; nothing was published")
    answered = getattr(target, "answers", _answers)(folder, few.texts)
    apart = [n for n in range(count) if _bare(tuned, expected[n]) != _bare(tuned, answered[n])]
    # The export may put either of two tokens first whose log-probabilities it has each wrong by the bound.
    tied = sum(_lead(few, n, expected[n], answered[n]) <= 2 * bound for n in apart) if exact else 0
    found: dict[str, Any] = {
        "rows": count,
        "same": count - len(apart),
        "tied": tied,
        "largest": max(differences),
        "mean": statistics.mean(differences),
        "bound": f"{bound} nats a token" if exact else f"{MEAN_BOUND} nats on average, {ROUGE_BOUND} points of ROUGE-L",
    }
    if few.references:
        words, _ = metrics.choose_tokenizer(few.references)
        found["rouge"] = {
            name: metrics.set_scores([few.answerer.text(row) for row in rows], few.references, words)["rougeL"]
            for name, rows in (("tuned", expected), ("export", answered))
        }
    lost = found["rouge"]["tuned"] - found["rouge"]["export"] if "rouge" in found else 0.0
    far = found["largest"] > bound if exact else found["mean"] > MEAN_BOUND
    wrong = far or (tied < len(apart) if exact else lost > ROUGE_BOUND)
    if wrong:
        raise RunError(
            "the export does not answer as the tuned model does; nothing was published",
            [sentence(found)],
            "Export to another target." if exact else "Try another --quantization, or another target.",
        )
    return found


def sentence(found: dict[str, Any]) -> str:
    """What came out, in a line."""
    ties = f", {found['tied']} otherwise from two tokens on that are as likely" if found["tied"] else ""
    parts = [
        f"{found['same']} of {found['rows']} rows answered with the same tokens{ties}",
        f"log-probabilities differ by {found['largest']:.2g} nats at most, {found['mean']:.2g} on average",
    ]
    if "rouge" in found:
        parts.append(f"ROUGE-L {found['rouge']['tuned']:.2f} → {found['rouge']['export']:.2f}")
    return "; ".join(parts) + f" (allowed: {found['bound']})"


def _answers(folder: Path, texts: list[str]) -> list[list[int]]:
    with quiet():
        return runpy.run_path(str(folder / "load.py"), run_name="export")["tokens"](texts)


def _first(tuned: Tuned, count: int) -> Tuned:
    """The same model with the first of the rows, but for those that ``load.py`` encodes otherwise.

    It tells its tokenizer to obey nothing in a text; but the ``</s>`` that somebody writes is one of the pieces of a
    SentencePiece vocabulary, and to spell it out (`data.plain`) is more than a snippet should do.
    """
    framed = tokens.apply_template(tuned.settings["input_template"], tuned.texts)
    limit = tuned.settings["max_source_length"]
    plain = tuned.tokenizer(framed, truncation=True, max_length=limit, split_special_tokens=True)["input_ids"]
    same = [n for n, (one, other) in enumerate(zip(plain, tuned.sources, strict=True)) if list(one) == list(other)]
    if len(same) < len(framed):
        say(f"{len(framed) - len(same)} rows hold a special token, which load.py reads otherwise; they are left out")
    if not same:
        return replace(tuned, texts=list(QUESTIONS), references=[])
    texts, references = ([each[n] for n in same[:count]] if each else [] for each in (tuned.texts, tuned.references))
    return replace(tuned, texts=texts, references=references)


def _lead(tuned: Tuned, row: int, expected: list[int], answered: list[int]) -> float:
    """How much likelier (nats) than the export's the tuned model holds its own token, where the two answers part."""
    special = set(tuned.tokenizer.all_special_ids)
    places = [place for place, token in enumerate(expected) if token not in special]
    own, other = [expected[place] for place in places], _bare(tuned, answered)
    parting = next((n for n, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), min(len(own), len(other)))
    if parting < len(own):
        place = places[parting]
    else:  # its own answer ends here
        place = next((n for n, token in enumerate(expected) if token in tuned.ends and n > max(places, default=-1)), -1)
        if place < 0:
            return math.inf  # the export went on beyond the limit
    alone = replace(tuned, texts=[tuned.texts[row]])
    pair = (expected[place], other[parting] if parting < len(other) else tuned.ends[0])
    mine, its = (alone.log_probs(alone.model, [[*expected[:place], token]])[0][-1] for token in pair)
    return mine - its


def _bare(tuned: Tuned, answer: list[int]) -> list[int]:
    """Without special tokens: runtimes differ in whether they return start and end."""
    special = set(tuned.tokenizer.all_special_ids)
    return [token for token in answer if token not in special]
