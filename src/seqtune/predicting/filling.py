"""From questions to a file of answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqtune import progress, questions
from seqtune.data import tokens
from seqtune.durable import Disk
from seqtune.errors import InputError, RunError
from seqtune.generation import GENERATE_KNOBS
from seqtune.predicting import writers
from seqtune.predicting.columns import Columns
from seqtune.predicting.journal import Journal

if TYPE_CHECKING:
    from seqtune.api import TunedModel

#: Rows answered before they are kept: enough to sort by length, few enough to lose.
CHUNK = 512

#: The answers to texts, in their order, from somewhere else than this process.
Elsewhere = Callable[[list[str]], Iterator[str]]

#: Seconds between two lines that say how far it is, where there is no live display.
EVERY = 60.0


class Answering:
    """Answers texts in chunks, as the model's run was evaluated; counts what had to be cut.

    Args:
        model: the tuned model.
        batch_size: rows answered together; the run's own unless given.
        knobs: of transformers' ``generate``, over those of the run.
    """

    def __init__(self, model: TunedModel, batch_size: int | None, knobs: Mapping[str, Any]):
        self.model = model
        self.batch_size = batch_size or model.settings["per_device_eval_batch_size"]
        self.knobs = {**{name: model.settings[name] for name in GENERATE_KNOBS}, **knobs}
        self.cut = 0

    def chunk(self, texts: list[str], number: int) -> list[str]:
        """The answers to chunk ``number``; the dice of its draws depend on that number alone."""
        settings = self.model.settings
        limit = settings["max_source_length"]
        framed = tokens.apply_template(settings["input_template"], texts)
        sources = tokens.encode(self.model.tokenizer, framed)
        long = [row for row, ids in enumerate(sources) if len(ids) > limit]
        self.cut += len(long)
        for row, ids in zip(
            long, tokens.encode(self.model.tokenizer, [framed[row] for row in long], limit), strict=True
        ):
            sources[row] = ids
        seed = (settings["random_state"] + number) % 2**32
        return self.model.answerer.answer(sources, batch_size=self.batch_size, random_state=seed, **self.knobs)

    def warn(self, total: int) -> None:
        """Say how many questions were cut."""
        if self.cut:
            limit = self.model.settings["max_source_length"]
            progress.warn(f"{self.cut:,} of {total:,} questions have more than the {limit:,} tokens that fit: cut off")


def answered(
    model: TunedModel, texts: Iterable[str], total: int | None, *, chunk: int = CHUNK, **options: Any
) -> Iterator[tuple[str, str]]:
    """(text, answer) for each text, in order, without holding them all.

    Args:
        model: the tuned model.
        texts: the questions.
        total: how many there are, for the progress display; None where that is not known.
        chunk: texts read ahead.
        **options: ``batch_size`` and knobs of transformers' ``generate``.
    """
    answering = Answering(model, options.pop("batch_size", None), options)
    remaining, done, number = iter(texts), 0, 0
    while ahead := list(islice(remaining, chunk)):
        with progress.part_of(done, total or 0):
            yield from zip(ahead, answering.chunk(ahead, number), strict=True)
        done, number = done + len(ahead), number + 1
    answering.warn(done)


def to_file(
    model: TunedModel,
    file: questions.File,
    columns: Columns,
    output: str,
    *,
    tell: bool = False,
    answer_key: str = "output",
    elsewhere: Elsewhere | None = None,
    overwrite: bool = True,
    **options: Any,
) -> Path:
    """Answer a file of questions into a file; whole or absent, and where it was stopped it goes on.

    Args:
        model: the tuned model.
        file: the questions, looked through.
        columns: of its rows.
        output: the file to write: .jsonl, .csv, .tsv or .parquet. ``OUTPUT.partial`` keeps answers until it is whole.
        tell: say how far it is, every minute.
        answer_key: the column of the answers.
        elsewhere: who answers, if not the model here.
        overwrite: whether a file that is there is replaced. One whose journal holds all answers always is: a kill came
            between its last rename and the end.
        **options: ``batch_size`` and knobs of transformers' ``generate``.

    Raises:
        InputError: the rows have a column of that name, or what was begun there was begun with something else.
        RunError: the place can't be written; the answers so far are kept.
    """
    if answer_key in columns.kinds:
        raise InputError(
            f'{file.source["path"]}: its rows have a column "{answer_key}" already',
            mend="Name another with --answer-key.",
        )
    schema = writers.schema_with(file.source, answer_key, output)
    answering = Answering(model, options.pop("batch_size", None), options)
    source = {name: value for name, value in file.source.items() if name != "path"}
    told = {
        **{f"input.{name}": value for name, value in source.items()},
        "input.rows": file.total,
        "input_text_key": file.key,
        **{f"model.{name}": value for name, value in model.identity.items()},
        **{name: model.settings[name] for name in ("input_template", "max_source_length", "random_state")},
        **answering.knobs,
        "precision": model.answerer.precision if elsewhere is None else "theirs",
    }
    journal = Journal(Path(f"{output}.partial"), told, CHUNK, file.total)
    try:
        if Path(output).exists() and not overwrite and journal.done < file.total:
            raise writers.already_there(output)
        if journal.done:
            progress.say(f"{output}: goes on behind {journal.done:,} of {file.total:,} rows")
        if elsewhere is None:
            _fill(journal, file, answering, tell)
        elif journal.done < file.total:
            answers = elsewhere([text for text, _ in islice(file.rows(), journal.done, None)])
            while ahead := list(islice(answers, CHUNK)):
                journal.add(ahead)
        _assemble(journal, file, columns, output, answer_key, schema)
    except BaseException:
        journal.close()
        raise
    journal.remove()
    answering.warn(file.total)
    return Path(output)


def _fill(journal: Journal, file: questions.File, answering: Answering, tell: bool) -> None:
    """Answer what has no answer yet."""
    remaining = islice(file.rows(), journal.done, None)
    begun, before = time.monotonic(), journal.done
    said = begun
    while ahead := [text for text, _ in islice(remaining, CHUNK)]:
        with progress.part_of(journal.done, file.total):
            journal.add(answering.chunk(ahead, journal.done // CHUNK))
        now = time.monotonic()
        if tell and now - said >= EVERY:
            said, rate = now, (journal.done - before) / (now - begun)
            left = (file.total - journal.done) / rate / 60
            progress.say(f"{journal.done:,} of {file.total:,} rows, {rate:.1f} rows/s, {left:.0f} minutes left")


def _assemble(
    journal: Journal, file: questions.File, columns: Columns, output: str, answer_key: str, schema: Any
) -> None:
    """Rows and answers side by side into the file that is wanted."""
    partial = Path(f"{output}.partial.whole")
    columns.see({answer_key: ""})
    try:
        with partial.open("wb") as stream:
            writer = writers.WRITERS[writers.kind_of(output)](stream, columns, schema)
            for (_, row), answer in zip(file.rows(), journal.answers(), strict=True):
                writer.write({**row, answer_key: answer})
            writer.close()
            stream.flush()
            os.fsync(stream.fileno())
        Disk().rename(partial, Path(output))
        Disk().sync(Path(output).absolute().parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        mend = "Free some space and give the same command again: it goes on."
        raise RunError(f"{output}: can't be written ({error.strerror})", mend=mend) from None
