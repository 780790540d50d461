"""Read the text corpora that the embedded base model is made from.

The folder holds four xz files: `wikipedia.txt.xz` and `books.txt.xz` (a paragraph a line), `dialogues.jsonl.xz`
({"turns": [{"speaker", "text"}]}) and `trivia.jsonl.xz` ({"question", "answer"}). Everything is kept in memory: it is
about 200 MB of text. One item in 200 is held out, by its place in the file, so that the held-out loss is measured on
text which no training step has seen.
"""

import json
import lzma
import re
from dataclasses import dataclass, field
from pathlib import Path

HELD_OUT_EVERY = 200
DEFAULT_CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"  # ../shared/corpus beside the repository

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z0-9\"'(])")


@dataclass
class Corpus:
    """Texts of one split; every field is a list whose order is the order of the files."""

    wikipedia: list[str] = field(default_factory=list)
    books: list[str] = field(default_factory=list)
    dialogues: list[list[tuple[str, str]]] = field(default_factory=list)  # turns as (speaker, text)
    trivia: list[tuple[str, str]] = field(default_factory=list)  # (question, answer)


def read_lines(path: Path):
    """Yield the non-empty lines of an xz-compressed UTF-8 text file."""
    with lzma.open(path, "rt", encoding="utf-8", newline="\n") as handle:
        for line in handle:
            line = line.rstrip("\n")
            if line.strip():
                yield line


def load(folder: Path) -> tuple[Corpus, Corpus]:
    """Read the four files of `folder` and return (training part, held-out part)."""
    train, held = Corpus(), Corpus()

    def place(name: str, items) -> None:
        for index, item in enumerate(items):
            part = held if index % HELD_OUT_EVERY == 0 else train
            getattr(part, name).append(item)

    place("wikipedia", (line for line in read_lines(folder / "wikipedia.txt.xz") if len(line) > 60))
    place("books", (line for line in read_lines(folder / "books.txt.xz") if len(line) > 60))
    place("dialogues", (_turns(json.loads(line)) for line in read_lines(folder / "dialogues.jsonl.xz")))
    place("trivia", (_pair(json.loads(line)) for line in read_lines(folder / "trivia.jsonl.xz")))
    return train, held


def _turns(row: dict) -> list[tuple[str, str]]:
    return [(turn["speaker"], turn["text"].strip()) for turn in row["turns"]]


def _pair(row: dict) -> tuple[str, str]:
    return row["question"].strip(), row["answer"].strip()


def sentences(text: str) -> list[str]:
    """Split a paragraph into sentences; rough, but errors (an abbreviation, say) do no harm here."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]
