"""The pre-training tasks: each turns a piece of the corpora into one (source, target) pair of texts.

Three families. Denoising and continuation teach the language. Dialogue turns and trivia teach to answer. The copying
tasks (`copying.py`) teach to bring names, numbers and phrases from the question into the answer.

Every task is a function (rng, text) -> (source, target) or None where the text does not suit it. All randomness comes
from `rng`, so a seed fixes the whole sequence of examples.
"""

import random
from dataclasses import dataclass

from copying import (
    Example,
    a_sentence,
    as_list,
    fill_slots,
    find_gap,
    find_name,
    find_number,
    look_up,
    pick_sentence,
    repeat_sentence,
    repeat_words,
)
from corpus import Corpus, sentences


@dataclass(frozen=True)
class Recipe:
    """The choices of mixture.

    Attributes:
        denoisers: ``t5``: short spans, 15 % of the words; ``ul2``: as often, long spans and half of the words.
        supervised: the weight of the tasks that have a right answer, against the language tasks, late in training.
    """

    denoisers: str = "t5"
    supervised: float = 1.0


def window(rng: random.Random, text: str, low: int, high: int) -> list[str]:
    """A run of `low` to `high` words of the text, starting at a sentence where there is one."""
    parts = sentences(text)
    words = " ".join(parts[rng.randrange(len(parts)) :]).split(" ") if parts else []
    if len(words) < low:
        words = text.split(" ")
    return words[: rng.randint(low, high)]


# --- language ------------------------------------------------------------------------------------------------------


def span_corruption(rng: random.Random, text: str) -> Example:
    """T5's denoising: about 15 % of the words hidden, two words (some three pieces) a span on average."""
    return _with_spans_hidden(rng, window(rng, text, 12, 80), 0.15, (1, 1, 2, 2, 2, 3, 3))


def extreme_corruption(rng: random.Random, text: str) -> Example:
    """UL2's other denoiser (Tay et al., 2022, section 3.1.2): long spans, or half of the words."""
    share, lengths = rng.choice(((0.15, (8, 12, 16)), (0.5, (1, 2, 2, 3, 4)), (0.5, (8, 12, 16))))
    return _with_spans_hidden(rng, window(rng, text, 24, 80), share, lengths)


def _with_spans_hidden(rng: random.Random, words: list[str], share: float, lengths: tuple[int, ...]) -> Example:
    spans = max(1, round(len(words) * share / (sum(lengths) / len(lengths))))
    starts = sorted(rng.sample(range(len(words)), min(spans, len(words))))
    source, target, at = [], [], 0
    for number, start in enumerate(starts):
        if start < at:
            continue
        length = rng.choice(lengths)
        source += [*words[at:start], f"<extra_id_{number}>"]
        target += [f"<extra_id_{number}>", *words[start : start + length]]
        at = start + length
    return " ".join(source + words[at:]), " ".join(target)


def continuation(rng: random.Random, text: str) -> Example | None:
    """Continue a text: the only task with long free targets, so it carries most of the fluency."""
    words = window(rng, text, 20, rng.choice((50, 70, 120)))
    cut = rng.randint(6, max(7, min(40, len(words) // 2)))
    return (" ".join(words[:cut]), " ".join(words[cut : cut + 80])) if len(words) > cut + 3 else None


def word_order(rng: random.Random, text: str) -> Example | None:
    """Put a sentence with locally swapped words right."""
    sentence = a_sentence(rng, text, 5, 16)
    if sentence is None:
        return None
    words = sentence.split(" ")
    order = sorted(range(len(words)), key=lambda place: place + rng.uniform(0, 3))
    return "Put in order: " + " ".join(words[place] for place in order), sentence


def repair(rng: random.Random, text: str) -> Example | None:
    """Repair typing errors: dropped, doubled and swapped letters, lost capitals."""
    sentence = a_sentence(rng, text, 4, 20)
    if sentence is None:
        return None
    letters = list(sentence.lower() if rng.random() < 0.5 else sentence)
    for _ in range(max(1, len(letters) // 20)):
        at = rng.randrange(len(letters) - 1)
        action = rng.randrange(3)
        if action == 0:
            letters[at] = ""
        elif action == 1:
            letters[at] *= 2
        else:
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "Correct: " + "".join(letters), sentence


# --- answering -----------------------------------------------------------------------------------------------------


def dialogue_reply(rng: random.Random, turns: list[tuple[str, str]]) -> Example | None:
    """The system's reply to the last one to three turns."""
    places = [place for place, (speaker, _) in enumerate(turns) if speaker == "system" and place > 0]
    if not places:
        return None
    place = rng.choice(places)
    before = turns[max(0, place - rng.choice((1, 1, 2, 3))) : place]
    return "\n".join(said for _, said in before), turns[place][1]


def trivia_answer(rng: random.Random, pair: tuple[str, str]) -> Example:
    return pair


# Tasks over a paragraph, with their weights at the start and at the end of training: copying, on short texts, comes
# first, because it appears all at once and late otherwise; language takes over afterwards.
LANGUAGE_TASKS = ((span_corruption, 10, 24), (continuation, 3, 20))
SUPERVISED_TASKS = (
    (word_order, 2, 2),
    (repair, 2, 4),
    (repeat_words, 30, 4),
    (repeat_sentence, 10, 2),
    (pick_sentence, 2, 2),
    (look_up, 14, 7),
    (fill_slots, 6, 5),
    (find_gap, 5, 4),
    (find_number, 1, 1),
    (find_name, 1, 1),
    (as_list, 2, 2),
)
COPY_TASKS = (repeat_words, look_up, fill_slots, find_gap)  # what the copying accuracy is measured on
ANSWER_TASKS = ((dialogue_reply, 8, 24), (trivia_answer, 4, 6))
EARLY = 0.15  # share of the training over which the weights move from the first to the second


def example(rng: random.Random, corpus: Corpus, progress: float, recipe: Recipe) -> tuple[str, str, str]:
    """One (task name, source, target), with the weights of the moment `progress` (0 to 1) of the training."""
    late = min(1.0, progress / EARLY)
    tasks = [*LANGUAGE_TASKS, *SUPERVISED_TASKS, *ANSWER_TASKS]
    weights = [
        start + (end * (1.0 if (task, start, end) in LANGUAGE_TASKS else recipe.supervised) - start) * late
        for task, start, end in tasks
    ]
    while True:
        task = rng.choices(tasks, weights)[0][0]
        if task is dialogue_reply:
            made = task(rng, rng.choice(corpus.dialogues))
        elif task is trivia_answer:
            made = task(rng, rng.choice(corpus.trivia))
        else:
            if task is span_corruption and recipe.denoisers == "ul2" and rng.random() < 0.5:
                task = extreme_corruption
            made = task(rng, rng.choice(corpus.wikipedia if rng.random() < 0.6 else corpus.books))
        if made and made[0].strip() and made[1].strip():
            return task.__name__, *made
