"""A conversation in the terminal with a tuned model, which knows single questions: each is answered for itself.

`talk` leads it, `Pairs` is the file of corrected pairs, `ask` and `show` are the terminal's part. A pair that is saved
goes to a JSON list in the format of a training file, in one rename, so that what was corrected today can be trained on
tomorrow.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from seqtune import streaming
from seqtune.data import tokens
from seqtune.durable import Disk
from seqtune.errors import InputError, SeqtuneError
from seqtune.generation import GENERATE_KNOBS
from seqtune.terminal import clean

if TYPE_CHECKING:
    from seqtune.api import TunedModel

HELP = """\
/save TEXT   keep the last question with TEXT as its right answer
/save        the same; the answer is there to be edited first
/undo        take the pair that was saved last out of the file again
/again       another answer to the last question, drawn at random
/help        this
/quit        end (so does Ctrl-D)
Ctrl-C       stop the answer that is being written"""

NO_TEXT = "that is no UTF-8: it was passed over"

#: How another answer is drawn.
AGAIN = {"do_sample": True, "temperature": 0.8, "num_beams": 1}

#: Answers a question piece by piece: (question, seed, knobs).
Speaker = Callable[[str, int, dict[str, Any]], Iterator[str]]


class Pairs:
    """The file of corrected pairs.

    Args:
        path: a JSON list of objects; made with the first pair.
        keys: of question and answer in an object; dots make nested objects, as in training.
    """

    def __init__(self, path: Path, keys: tuple[str, str]):
        self.path, self.keys = path, keys
        self.added: list[dict[str, Any]] = []

    def add(self, question: str, answer: str) -> int:
        """Keep a pair; returns how many the file has now.

        Raises:
            InputError: the file is no JSON list, or can't be written; it stays as it was.
        """
        pair: dict[str, Any] = {}
        for key, value in zip(self.keys, (question, answer), strict=True):
            _put(pair, key.split("."), value)
        rows = [*self._read(), pair]
        self._write(rows)
        self.added.append(pair)
        return len(rows)

    def take_back(self) -> dict[str, Any] | None:
        """Take the pair that was added last out again; None where none was, or it is no longer the file's last."""
        rows = self._read()
        if not self.added or not rows or rows[-1] != self.added[-1]:
            return None
        self._write(rows[:-1])
        return self.added.pop()

    def _read(self) -> list[dict[str, Any]]:
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{self.path}: can't be read ({error})", mend="Choose another --save-to.") from None
        if not isinstance(rows, list):
            raise InputError(f"{self.path}: no JSON list of rows", mend="Choose another --save-to.")
        return rows

    def _write(self, rows: list[dict[str, Any]]) -> None:
        disk, partial = Disk(), self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            partial.unlink(missing_ok=True)
            disk.write(partial, (json.dumps(rows, ensure_ascii=False, indent=2) + "\n").encode())
            disk.sync(partial)
            disk.rename(partial, self.path)
            disk.sync(self.path.absolute().parent)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise InputError(
                f"{self.path}: can't be written ({error.strerror})", mend="Choose another --save-to."
            ) from None


@dataclass
class Exchange:
    """A question and the tuned model's answer."""

    question: str
    answer: str


def talk(
    speakers: dict[str, Speaker],
    pairs: Pairs,
    ask: Callable[[str, str], str],
    show: Callable[[str, dict[str, Iterator[str]]], dict[str, str]],
    note: Callable[[str], None],
) -> None:
    """Ask, answer and obey until the input ends.

    Args:
        speakers: by name; the last one is the tuned model.
        pairs: where corrected pairs go.
        ask: reads a line, with a prompt and text that is there to be edited; raises EOFError at the end.
        show: shows answers as they come, given the question; returns them whole.
        note: shows a line of ours.
    """
    last: Exchange | None = None
    turn = 0
    while True:
        try:
            line = ask("you> ", "").strip()
            line.encode()
        except EOFError:
            return
        except UnicodeError:  # bytes that are no UTF-8 are read as half characters
            note(NO_TEXT)
            continue
        word, _, rest = line.partition(" ")
        if not line:
            continue
        if word in ("/quit", "/exit"):
            return
        if word == "/help":
            note(HELP)
        elif word == "/undo":
            _guarded(note, lambda: _undo(pairs))
        elif word in ("/save", "/again") and last is None:
            note("nothing was asked yet")
        elif word == "/save" and last is not None:
            answer = rest.strip()
            if not answer:
                try:
                    answer = ask("right answer> ", last.answer).strip()
                    answer.encode()
                except EOFError:
                    answer = ""
                except UnicodeError:
                    note(NO_TEXT)
                    continue
            exchange = last
            _guarded(note, lambda: _save(pairs, exchange, answer))  # noqa: B023 (called at once)
        elif word.startswith("/") and word != "/again":
            note(f"there is no {word}; /help says what there is")
        else:
            knobs: dict[str, Any] = dict(AGAIN) if word == "/again" else {}
            question = last.question if word == "/again" and last is not None else line
            turn += 1
            said = show(question, {name: speak(question, turn, knobs) for name, speak in speakers.items()})
            last = Exchange(question, said[list(speakers)[-1]])


def _save(pairs: Pairs, exchange: Exchange, answer: str) -> str:
    if not answer:
        return "nothing was saved"
    return f"saved to {pairs.path}, which has {pairs.add(exchange.question, answer)} now"


def _undo(pairs: Pairs) -> str:
    pair = pairs.take_back()
    return "nothing was saved that could be taken back" if pair is None else f"taken out of {pairs.path} again"


def _guarded(note: Callable[[str], None], do: Callable[[], str]) -> None:
    """Say what came of it; an error ends no conversation."""
    try:
        note(do())
    except SeqtuneError as error:
        note(str(error))


def _put(row: dict[str, Any], path: list[str], value: str) -> None:
    for name in path[:-1]:
        row = row.setdefault(name, {})
    row[path[-1]] = value


def speaker(model: TunedModel) -> Speaker:
    """What answers with a model, in the template of its run."""
    settings = model.settings

    def speak(question: str, seed: int, knobs: dict[str, Any]) -> Iterator[str]:
        framed = tokens.apply_template(settings["input_template"], [question])
        (source,), limit = tokens.encode(model.tokenizer, framed), settings["max_source_length"]
        if len(source) > limit:
            note(f"the question has {len(source):,} tokens, of which {limit:,} fit: cut off")
            (source,) = tokens.encode(model.tokenizer, framed, limit)
        own = {name: settings[name] for name in GENERATE_KNOBS}
        return streaming.pieces(
            model.answerer, source, random_state=settings["random_state"] + seed, **{**own, **knobs}
        )

    return speak


def ask(prompt: str, prefilled: str) -> str:
    """A line from a person, who can edit it; without a terminal the next line of standard input."""
    if not sys.stdin.isatty():
        if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors == "strict":
            sys.stdin.reconfigure(errors="surrogateescape")  # or what is behind a wrong byte would be lost with it
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")
    try:
        import readline
    except ImportError:  # Windows: no editing
        return input(prompt)
    readline.set_startup_hook(lambda: readline.insert_text(prefilled))
    try:
        return input(prompt)
    finally:
        readline.set_startup_hook()


def show(question: str, answers: dict[str, Iterator[str]]) -> dict[str, str]:
    """Print answers as they come: one behind its name, several side by side; without a terminal one below the other.

    Ctrl-C stops them; what was written until then is the answer.
    """
    console = Console(highlight=False)
    said = dict.fromkeys(answers, "")
    with stoppable():
        if len(answers) > 1 and console.is_terminal:
            _show_beside(console, answers, said)
        else:
            _show_below(console, answers, said)
    return said


def _show_beside(console: Console, answers: dict[str, Iterator[str]], said: dict[str, str]) -> None:
    width = console.width - len("^C ")  # which the terminal writes behind it, and must not break a line for
    with Live(_beside(said, width), console=console, refresh_per_second=12) as live:
        running = dict(answers)
        while running:
            for name in list(running):
                piece = next(running[name], None)
                if piece is None:
                    del running[name]
                else:
                    said[name] += piece
            live.update(_beside(said, width))


def _show_below(console: Console, answers: dict[str, Iterator[str]], said: dict[str, str]) -> None:
    for name, pieces in answers.items():
        console.print(Text(f"{clean(name)}> ", "bold cyan"), end="")
        try:
            for piece in pieces:
                said[name] += piece
                console.print(Text(clean(piece)), end="", soft_wrap=True)
        finally:
            console.print(Text("" if said[name] else "(nothing)"))


@contextmanager
def stoppable() -> Iterator[None]:
    """A block that Ctrl-C ends, and nothing else with it."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        note("stopped; Ctrl-D ends the conversation")
    finally:
        signal.signal(signal.SIGINT, before)


def note(text: str) -> None:
    """Print a line of ours, apart from what the models say."""
    Console(highlight=False).print(Text(clean(text), "dim"), soft_wrap=True)


def _beside(said: dict[str, str], width: int) -> Table:
    table = Table(box=SIMPLE, width=width, show_edge=False, padding=(0, 1))
    for name in said:
        table.add_column(Text(clean(name)), ratio=1, overflow="fold", header_style="bold cyan")
    table.add_row(*(Text(clean(text) or "…") for text in said.values()))
    return table
