"""The copying tasks: bring names, numbers and phrases from the source into the target.

This is the one skill that fine-tuning on a few hundred examples cannot teach. Values made up on the spot make sure
that the tasks cannot be solved from memory. Every task is a function (rng, text) -> (source, target), or None where
the text does not suit it.
"""

import random
import re
import string

from corpus import sentences

Example = tuple[str, str]

# fmt: off
SLOTS = [
    "Name", "Order", "Number", "City", "Date", "Amount", "Email", "Phone", "Account", "Product", "Invoice", "Street",
    "Country", "Colour", "Size", "Time", "Price", "Room", "Order Number", "First Name", "Tracking Number", "Due Date",
    "Company Name", "Delivery Address", "Website URL",
]
SYLLABLES = [
    "ba", "co", "di", "fe", "gu", "ha", "jo", "ki", "la", "mo", "ne", "pi", "ra", "so", "tu", "ve", "wi", "xa", "yo",
    "ze", "lan", "ter", "mun", "dor",
]
# fmt: on
ASK = ("What is the {}?", "{}?", "Give the {}.", "Which {} is it?", "Can you tell me the {}?", "I need the {}.")
_CAPITALISED = re.compile(r"\b[A-Z][a-z]+(?: [A-Z][a-z]+)+\b")
_NUMBER = re.compile(r"\b\d[\d,.:]*\d\b|\b\d\b")


def a_sentence(rng: random.Random, text: str, low: int = 5, high: int = 28) -> str | None:
    fitting = [part for part in sentences(text) if low <= part.count(" ") + 1 <= high]
    return rng.choice(fitting) if fitting else None


def made_up(rng: random.Random, text: str) -> str:
    """A name, number, code, phrase or sign-laden string that nobody could guess."""
    kind = rng.randrange(8)
    if kind == 0:
        return str(rng.randrange(10 ** rng.randint(1, 7)))
    if kind == 1:
        letters = "".join(rng.choices(string.ascii_uppercase, k=rng.randint(1, 3)))
        return letters + rng.choice(("-", "", "#")) + str(rng.randrange(10 ** rng.randint(2, 5)))
    if kind == 2:
        return "".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))).capitalize()
    words = [word.strip(".,;:()\"'") for word in text.split(" ")]
    words = [word for word in words if word.isalpha()] or ["blue"]
    if kind == 3:
        return with_signs(rng, words)
    chosen = rng.choices(words, k=rng.randint(1, 3))
    return " ".join(word.capitalize() if kind == 4 else word for word in chosen)


def with_signs(rng: random.Random, words: list[str]) -> str:
    """What words do not prepare for: amounts, dates, addresses, paths, options, quotes and brackets."""
    one, two = (word.lower() for word in rng.choices(words, k=2))
    number = str(rng.randrange(10 ** rng.randint(1, 4)))
    join = rng.choice(("_", "-", ".", "/"))
    return rng.choice(
        (
            f"{rng.choice('$€£')}{number}.{rng.randrange(100):02}",
            f"{rng.randrange(1, 32)}/{rng.randrange(1, 13)}/{rng.randrange(1950, 2040)}",
            f"{one}.{two}@{rng.choice(words).lower()}.com",
            f"www.{one}{two}.com",
            f"/{one}/{two}{join}{number}",
            f"{one}{join}{two}.{rng.choice(('txt', 'log', 'csv', 'c', 'html'))}",
            f"*.{one[:3]}",
            f"-{one[0]} {number}",
            f"--{one}={two}",
            f'"{one} {two}"',
            f"'{one}*'",
            f"{{{one}}}",
            f"[{two}{number}]",
            f"{one} | {two} > {number}",
        )
    )


def repeat_words(rng: random.Random, text: str) -> Example:
    """Repeat words in no natural order: only a real copy mechanism gets this right."""
    words = rng.choices(text.split(" "), k=rng.randint(2, 10))
    invented = rng.choices((0, 1, len(words)), (50, 35, 15))[0]  # none, one or all of the words
    for at in rng.sample(range(len(words)), invented):
        words[at] = made_up(rng, text)
    phrase = " ".join(words)
    return rng.choice(("Repeat: {}", "Say {}", "Copy this: {}", "{} -- once more")).format(phrase), phrase


def repeat_sentence(rng: random.Random, text: str) -> Example | None:
    sentence = a_sentence(rng, text, 3, 20)
    return sentence and ("Repeat: " + sentence, sentence)


def pick_sentence(rng: random.Random, text: str) -> Example | None:
    """The first, last or second sentence of a short paragraph."""
    parts = sentences(text)[:3]
    if len(parts) < 2 or sum(map(len, parts)) > 420:
        return None
    which, place = rng.choice((("First", 0), ("First", 0), ("Last", -1), ("Second", 1)))
    return f"{which} sentence: {' '.join(parts)}", parts[place]


def look_up(rng: random.Random, text: str) -> Example:
    """Find the value of one key among two to five made-up ones."""
    keys = rng.sample(SLOTS, rng.randint(2, 5))
    values = [made_up(rng, text) for _ in keys]
    mark, end = rng.choice(((": ", "\n"), (": ", ", "), (" is ", ". "), ("=", "; "), (" - ", "\n")))
    facts = end.join(f"{key}{mark}{value}" for key, value in zip(keys, values, strict=True))
    chosen = rng.randrange(len(keys))
    key = keys[chosen] if rng.random() < 0.5 else keys[chosen].lower()
    ask = rng.choice(ASK).format(key)
    answer = values[chosen] if rng.random() < 0.7 else f"The {key} is {values[chosen]}."
    if answer != values[chosen]:
        ask = ask + " Answer in a sentence."
    return (f"{facts}\n{ask}" if rng.random() < 0.7 else f"{ask} {facts}"), answer


def fill_slots(rng: random.Random, text: str) -> Example | None:
    """Put values into a sentence with {{Named Slots}}; the rest of the sentence is copied as it is."""
    sentence = a_sentence(rng, text, 5, 14)
    if sentence is None:
        return None
    words = sentence.split(" ")
    keys = rng.sample(SLOTS, rng.choice((1, 1, 2)))
    values = [made_up(rng, text) for _ in keys]
    full = list(words)
    for key, value, at in zip(keys, values, rng.sample(range(1, len(words)), len(keys)), strict=True):
        words[at], full[at] = "{{" + key + "}}", value
    facts = ", ".join(f"{key}: {value}" for key, value in zip(keys, values, strict=True))
    if rng.random() < 0.3:  # the other way round: leave the slot as it stands, which many support answers need
        return "Repeat: " + " ".join(words), " ".join(words)
    return f"{' '.join(words)} | {facts}", " ".join(full)


def find_gap(rng: random.Random, text: str) -> Example | None:
    """Say which words of the sentence a gap in its copy stands for: reading comprehension in its barest form."""
    sentence = a_sentence(rng, text, 8, 26)
    if sentence is None:
        return None
    words = sentence.split(" ")
    low = rng.randrange(len(words) - 3)
    length = rng.randint(1, 3)
    left, right = words[max(0, low - 4) : low], words[low + length : low + length + 4]
    gap = " ".join([*left, "...", *right])
    return f"{sentence}\n{gap}?", " ".join(words[low : low + length])


def find_number(rng: random.Random, text: str) -> Example | None:
    sentence = a_sentence(rng, text, 5, 30)
    found = sentence and _NUMBER.findall(sentence)
    if not found:
        return None
    return f"Which number is named? {sentence}", found[0]


def find_name(rng: random.Random, text: str) -> Example | None:
    sentence = a_sentence(rng, text, 5, 30)
    found = sentence and _CAPITALISED.findall(sentence)
    return (f"Which name is there? {sentence}", found[0]) if found else None


def as_list(rng: random.Random, text: str) -> Example | None:
    """Number the sentences or phrases, one a line: the layout of many instructions."""
    parts = sentences(text)[: rng.randint(2, 4)]
    if len(parts) < 2 or sum(map(len, parts)) > 260:
        parts = [" ".join(rng.choices(text.split(" "), k=rng.randint(1, 3))) for _ in range(rng.randint(2, 5))]
        plain = "; ".join(parts)
    else:
        plain = " ".join(parts)
    if rng.random() < 0.6:
        return "Number: " + plain, "\n".join(f"{place + 1}. {part}" for place, part in enumerate(parts))
    return "List: " + plain, "\n".join(f"- {part}" for part in parts)
