"""What a model makes of a set of rows: its answers, its losses, its scores; and base against tuned.

Metric names and their scales: ``loss`` is nats a target token, ``bits_per_byte`` bits a byte of the answer (UTF-8;
comparable across tokenizers), all others 0–100. A set's metrics, lifts and guard rails all follow from its prediction
rows, so that a finished run can be looked at in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqtune import generation, metrics, similarity
from seqtune.data import tokens
from seqtune.data.shingles import question_key
from seqtune.metrics import bootstrap, guards, own, sums
from seqtune.progress import say

#: The metric that the verdict is about.
VERDICT_METRIC = "rougeL"

#: Points of ROUGE-L between a model's answers in bf16 and in fp32 up to which ``answer_precision=auto`` takes bf16.
ROUNDING = 0.3

Answers = dict[str, Any]


def answers_of(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    sample: Dataset,
    tokenized_sample: Dataset,
    settings: Mapping[str, Any],
    stage: str,
    rouge_tokenizer: metrics.TokenizerName | None = None,
) -> Answers:
    """The model's answers to the rows of a set and its losses on their references, column by column.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        sample: the rows as text.
        tokenized_sample: the same as token ids.
        settings: the knobs of answering.
        stage: what to call this in the progress display.
        rouge_tokenizer: whose words; where given, ``answer_precision=auto`` is settled by these rows: bf16 where its
            ROUGE-L is within `ROUNDING` of fp32's. Else it is what the processor is best at.

    Returns:
        Lists with an entry per row: ``predictions`` and ``references`` (text), ``at_limit`` (whether the answer was cut
        at its longest), ``nll`` (nats, summed over the target), ``target_tokens`` and ``target_bytes`` (of what the
        loss is over: the reference, or what the limit left of it). And ``precision``: ``value`` and ``reason`` of the
        arithmetic that the answers are from, and ``rougeL`` of both where these rows have settled it.
    """
    rows = tokens.as_rows(tokenized_sample)
    precision, written = _written(model, tokenizer, rows, settings, settings["answer_precision"], stage)
    if rouge_tokenizer and settings["answer_precision"] == "auto" and precision["value"] == "bf16":
        _, exact = _written(model, tokenizer, rows, settings, "fp32", f"{stage} in fp32")
        wanted = all_references(sample)
        rounded_points, points = (_rouge(each["predictions"], wanted, rouge_tokenizer) for each in (written, exact))
        close = abs(rounded_points - points) <= ROUNDING
        both = f"ROUGE-L of {len(rows)} validation rows is {points:.2f} in fp32 and {rounded_points:.2f} in bf16, "
        precision = {
            "value": "bf16" if close else "fp32",
            "reason": both + ("which is faster" if close else f"more than {ROUNDING} points apart"),
            "rougeL": {"fp32": points, "bf16": rounded_points},
        }
        written = written if close else exact
        say(f"{stage} in {precision['value']}: {precision['reason']}")
    nll, count = generation.score(
        model, rows, generation.pad_token_id(tokenizer), settings["per_device_eval_batch_size"]
    )
    references = list(sample["reference"])
    whole = [len(ids) for ids in tokens.encode_targets(tokenizer, references)]
    scored_text = [
        reference if n == full else str(tokenizer.decode(row["labels"], skip_special_tokens=True))
        for reference, row, n, full in zip(references, rows, count, whole, strict=True)
    ]
    return {
        **written,
        "references": references,
        "nll": nll,
        "target_tokens": count,
        "target_bytes": [len(text.encode()) for text in scored_text],
        "precision": precision,
    }


def in_the_precision_of(answers: Answers, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, to answer other rows by: in the arithmetic that the model's ``answers`` are from.

    Answers of a node of your own need not say what theirs is.
    """
    return {**settings, **({"answer_precision": answers["precision"]["value"]} if "precision" in answers else {})}


def settled_precision(tuned: Answers, base: Answers) -> dict[str, Any]:
    """``answer_precision`` as the run's manifest has it: the tuned model's, and in ``base`` the base model's."""
    own, others = (
        each.get("precision") or {"value": "unknown", "reason": "answers of a node of your own"}
        for each in (tuned, base)
    )
    return {**own, "base": others}


def set_metrics(answers: Answers, rouge_tokenizer: metrics.TokenizerName) -> dict[str, float]:
    """Loss, bits per byte, ROUGE, BLEU, chrF, exact match and F1 of one model's answers; for nodes of your own."""
    nll = sum(answers["nll"])
    return {
        "loss": nll / sum(answers["target_tokens"]),
        "bits_per_byte": metrics.bits_per_byte(nll, sum(answers["target_bytes"])),
        **metrics.set_scores(answers["predictions"], answers["references"], rouge_tokenizer),
    }


def prediction_rows(
    sample: Dataset,
    base: Answers,
    tuned: Answers,
    rouge_tokenizer: metrics.TokenizerName,
    training_answers: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """A dict per row of a set.

    Args:
        sample: the rows, as `answers_of` has answered them.
        base: of the base model.
        tuned: of the tuned model.
        rouge_tokenizer: whose words.
        training_answers: what the tuned model was trained to say; an answer that is one of them is flagged.
        more: what else scores the answers, as `more_metrics` gives it.

    Returns:
        ``row`` (its number in the file), ``input``, ``reference`` (what training would have taken), ``base`` and
        ``tuned`` (the answers), ``scores`` and ``flags`` (`metrics.guards`) of both, ``target`` (tokens and bytes that
        the loss is over), ``extra`` (the row's other fields); ``references`` where the row has several.
    """
    models = {"base": base, "tuned": tuned}
    wanted = all_references(sample)
    scores = {name: _row_scores(answers, wanted, rouge_tokenizer) for name, answers in models.items()}
    for name, found in _more_scores(models, wanted, more or {}).items():
        for row_scores, others in zip(scores[name], found, strict=True):
            row_scores.update(others)
    guard = guards.Guards(training_answers)
    rows = []
    for index, row in enumerate(sample.to_list()):
        several = {"references": wanted[index]} if len(wanted[index]) > 1 else {}
        flags = {
            name: guard.flags(
                answers["predictions"][index],
                row["input"],
                wanted[index],
                "at_limit" in answers and answers["at_limit"][index],
            )
            for name, answers in models.items()
        }
        rows.append(
            {
                "row": row["row"],
                "input": row["input"],
                "reference": row["reference"],
                **several,
                "base": base["predictions"][index],
                "tuned": tuned["predictions"][index],
                "scores": {name: scores[name][index] for name in scores},
                "flags": flags,
                "target": {"tokens": base["target_tokens"][index], "bytes": base["target_bytes"][index]},
                "extra": json.loads(row["extra"]),
            }
        )
    return rows


def more_metrics(metric: str | None, similarity_model: str | None) -> dict[str, Any]:
    """What scores answers besides our own metrics: ``metric`` and ``similarity_model`` as given, and what they are now.

    ``functions`` has for each function of `metric` the SHA-256 of its file, ``encoder`` that of the encoder's files:
    when these change, a cache computes again.

    Raises:
        InputError: as `own.load` and `similarity.resolve`.
    """
    functions = {each.spec: each.sha256 for each in own.load(metric)}
    encoder = None if similarity_model is None else similarity.digest(similarity_model)
    return {"metric": metric, "functions": functions, "similarity_model": similarity_model, "encoder": encoder}


def _more_scores(
    models: Mapping[str, Answers], references: Sequence[Sequence[str]], more: Mapping[str, Any]
) -> dict[str, list[dict[str, float]]]:
    """The scores of `more_metrics` of each model's answers, a dict per row."""
    functions = own.load(more.get("metric"))
    name = more.get("similarity_model")
    encoder = None if name is None else similarity.Encoder(name)
    found = {}
    for model, answers in models.items():
        predictions = answers["predictions"]
        rows = encoder.scores(predictions, references) if encoder else [{} for _ in predictions]
        for row, prediction, wanted in zip(rows, predictions, references, strict=True):
            row.update({each.name: each.score(prediction, wanted) for each in functions})
        found[model] = rows
    return found


def all_references(sample: Dataset) -> list[list[str]]:
    """For each row every answer that counts as right: its own, and those of the rows that ask the same question."""
    if "references" in sample.column_names:
        own = [list(answers) for answers in sample["references"]]
    else:
        own = [[reference] for reference in sample["reference"]]
    questions = [question_key(text) for text in sample["input"]]
    by_question: dict[str, dict[str, None]] = {}
    for question, answers in zip(questions, own, strict=True):
        by_question.setdefault(question, {}).update(dict.fromkeys(answers))
    return [
        list(dict.fromkeys([*answers, *by_question[question]]))
        for question, answers in zip(questions, own, strict=True)
    ]


def metrics_of(
    rows: Sequence[Mapping[str, Any]], rouge_tokenizer: metrics.TokenizerName
) -> dict[str, dict[str, float]]:
    """``base`` and ``tuned``: every metric of a set, from its prediction rows."""
    found = {}
    for model in ("base", "tuned"):
        values = {name: each.value for name, each in sums.of_predictions(rows, model, rouge_tokenizer).items()}
        first = [name for name in ("loss", "bits_per_byte", *metrics.SET_METRICS) if name in values]
        found[model] = {name: values[name] for name in [*first, *(name for name in values if name not in first)]}
    return found


def lifts(
    rows: Sequence[Mapping[str, Any]],
    rouge_tokenizer: metrics.TokenizerName,
    samples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Tuned against base, by each metric of the prediction rows: ``base``, ``tuned``, ``lift`` and its interval."""
    base, tuned = (sums.of_predictions(rows, model, rouge_tokenizer) for model in ("base", "tuned"))
    found = bootstrap.lifts(base, [tuned], questions=questions_of(rows), samples=samples, seed=seed)
    return {
        name: {"base": base[name].value, "tuned": tuned[name].value, **_as_dict(each)} for name, each in found.items()
    }


def guard_rails(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """``base`` and ``tuned``: how many answers are empty, copies of the question, loops, cut, or recited."""
    return {model: guards.counted(rows, model) for model in ("base", "tuned")}


def signatures(rows: Sequence[Mapping[str, Any]], rouge_tokenizer: metrics.TokenizerName) -> dict[str, str]:
    """sacrebleu's signatures for prediction rows; said, so that they stand in the terminal beside the scores."""
    found = metrics.signatures(sums.references_of(rows), rouge_tokenizer)
    for name, signature in found.items():
        say(f"{metrics.METRIC_LABELS[name]}: sacrebleu {signature}")
    return found


def verdict(rows: Sequence[Mapping[str, Any]], split: str, samples: int, seed: int) -> dict[str, Any]:
    """Tuned against base by the rows' ROUGE-L: the lift, its 95 % interval by paired bootstrap, and the word for it."""
    base, tuned = (
        {VERDICT_METRIC: sums.mean([row["scores"][model][VERDICT_METRIC] for row in rows])}
        for model in ("base", "tuned")
    )
    found = bootstrap.lifts(base, [tuned], questions=questions_of(rows), samples=samples, seed=seed)
    return worded(found[VERDICT_METRIC], split)


def worded(lift: metrics.Lift, split: str, seeds: int = 1) -> dict[str, Any]:
    """The verdict on a lift, as the manifest has it."""
    return {
        "verdict": metrics.verdict(lift),
        "metric": VERDICT_METRIC,
        "split": split,
        **_as_dict(lift),
        "seeds": seeds,
        "sentence": metrics.verdict_sentence(VERDICT_METRIC, lift, split.replace("_", "-"), seeds),
    }


def questions_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the bootstrap draws: rows that ask the same question get the same answer and are one draw."""
    return [question_key(row["input"]) if "input" in row else str(index) for index, row in enumerate(rows)]


def _as_dict(lift: metrics.Lift) -> dict[str, Any]:
    return {
        "lift": lift.mean,
        "low": lift.low,
        "high": lift.high,
        "confidence": lift.confidence,
        "rows": lift.rows,
        "questions": lift.questions,
    }


def _written(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    settings: Mapping[str, Any],
    precision: str,
    stage: str,
) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """The arithmetic with its reason, and ``predictions`` and ``at_limit`` of the rows."""
    knobs = {name: settings[name] for name in generation.GENERATE_KNOBS}
    answerer = generation.Answerer(model, tokenizer, precision)
    written = answerer.tokens(
        [row["input_ids"] for row in rows],
        batch_size=settings["per_device_eval_batch_size"],
        random_state=settings["random_state"],
        stage=stage,
        **knobs,
    )
    wishes = answerer.wishes(**knobs)
    if answerer.engine == "transformers" or wishes.unhandled:
        settled = {"value": "fp32", "reason": "transformers' generate writes the answers, in the model's own precision"}
    elif precision == "auto":
        units = "units" if answerer.precision == "bf16" else "no units"
        settled = {"value": answerer.precision, "reason": f"this machine has {units} for bf16"}
    else:
        settled = {"value": precision, "reason": "given"}
    found = {
        "predictions": [answerer.text(each) for each in written],
        "at_limit": [wishes.cut(each) for each in written],
    }
    return settled, found


def _rouge(predictions: Sequence[str], references: metrics.References, words: metrics.TokenizerName) -> float:
    scores = metrics.row_scores(predictions, references, words)
    return sums.mean([row[VERDICT_METRIC] for row in scores]).value


def _row_scores(
    answers: Answers, references: metrics.References, rouge_tokenizer: metrics.TokenizerName
) -> list[dict[str, float]]:
    text_scores = metrics.row_scores(answers["predictions"], references, rouge_tokenizer)
    losses = [nll / count for nll, count in zip(answers["nll"], answers["target_tokens"], strict=True)]
    return [{"loss": loss, **scores} for loss, scores in zip(losses, text_scores, strict=True)]
