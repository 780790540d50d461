"""Training rows read as they are needed: shuffled pieces, a shuffled buffer of them, and a place to go on from.

An epoch is a pure function of (seed, epoch): its pieces in a random order (`shards.shuffled`), cut into windows of
`shuffle_buffer` rows, the rows of each window in a random order. The place in it is two numbers, the window and the
rows behind us in it, so that going on reads one window and nothing before it. What is held is a window and the next
step.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from seqtune.data import checks, intake, shards, tokens
from seqtune.data.problems import Problem, Unreadable
from seqtune.data.shingles import question_key
from seqtune.progress import say, warn

#: Rows of the folder that are looked at beforehand: validation and hold-out rows come from them, and the lengths.
SAMPLE = 20_000

#: Settings of the data that say how a row becomes a question and an answer.
READING = ("input_text_key", "output_text_key", "on_bad_rows", "values_as_text", "mask")

identify = shards.identify


def sample(source: Mapping[str, Any], settings: Mapping[str, Any]) -> list[dict[str, Any] | Unreadable]:
    """The rows that are looked at beforehand: of whole pieces from all over the folder, `SAMPLE` rows that can be used.

    Args:
        source: the record of `shards.identify`.
        settings: of the data.

    Raises:
        InputError: no row has one of the keys; or a row can't be used and ``on_bad_rows`` is fail: named with its file.
    """
    held = [(piece, shards.read(piece)) for piece in shards.sample(source["path"], SAMPLE, settings["random_state"])]
    rows = [row for _, raw in held for row in raw]
    keys = settings["input_text_key"], settings["output_text_key"]
    checks.check_rows(rows, *keys, source["path"], settings["values_as_text"])  # where no row has a key
    bad = [{problem.row for problem in _problems(piece, raw, settings)} for piece, raw in held]
    found = [row for (_, raw), wrong in zip(held, bad, strict=True) for at, row in enumerate(raw, 1) if at not in wrong]
    said = f"{source['rows']:,} rows in {source['files']} files; {len(rows):,} of them"
    say(f"streaming: {said} are looked at beforehand, and validation and hold-out rows taken from these")
    if wrong := sum(map(len, bad)):
        warn(f"{source['path']}: {wrong:,} of these rows can't be used and are left out, as others will be")
    return found[:SAMPLE]


def plan(
    source: Mapping[str, Any],
    settings: Mapping[str, Any],
    template: str,
    limits: Mapping[str, Mapping[str, Any]],
    kept_away: Mapping[str, Dataset],
) -> dict[str, Any]:
    """What a `Stream` is made of, as JSON values.

    Args:
        source: the record of `shards.identify`.
        settings: of the data.
        template: of the inputs.
        limits: of the lengths.
        kept_away: validation and hold-out set: their questions are not trained on.
    """
    asked = {question_key(text) for rows in kept_away.values() for text in rows["input"]}
    return {
        "source": dict(source),
        "reading": {name: settings[name] for name in READING},
        "seed": settings["random_state"],
        "shuffle_buffer": settings["shuffle_buffer"],
        "template": template,
        "limits": {side: limits[side]["value"] for side in tokens.SIDES},
        "kept_away": sorted(asked),
    }


class Stream:
    """Rows of an epoch, step by step.

    Args:
        plan: of `plan`.
        tokenizer: of the base model.
    """

    def __init__(self, plan: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase):
        self.plan = plan
        self.tokenizer = tokenizer
        self.kept_away = set(plan["kept_away"])
        self.pieces = shards.pieces(plan["source"]["path"])
        self._told = False

    @property
    def rows(self) -> int:
        """Rows of the folder; those that are left out are among them."""
        return self.plan["source"]["rows"]

    def steps(
        self, epoch: int, place: list[int], rows_per_step: int
    ) -> Iterator[tuple[list[int], list[dict[str, Any]], list[int]]]:
        """The steps of an epoch from a place on.

        Args:
            epoch: counted from 0.
            place: where the last step ended; empty at the beginning.
            rows_per_step: the last step of the epoch may have fewer.

        Yields:
            Numbers of the rows in the folder, the rows (``input_ids``, ``labels``), and the place behind them.

        Raises:
            InputError: a row can't be used and ``on_bad_rows`` is fail, or a file has changed.
        """
        waiting: list[tuple[int, str, str]] = []
        window, behind = 0, 0
        for window, behind, row in self._rows(epoch, *(place or (0, 0))):
            waiting.append(row)
            if len(waiting) == rows_per_step:
                yield *self._tokenized(waiting), [window, behind]
                waiting = []
        if waiting:
            yield *self._tokenized(waiting), [window, behind]

    def _rows(self, epoch: int, window: int, behind: int) -> Iterator[tuple[int, int, tuple[int, str, str]]]:
        order = shards.shuffled(self.pieces, self.plan["seed"], epoch)
        for index, held in enumerate(shards.windows(order, self.plan["shuffle_buffer"])):
            if index < window:
                continue
            rows = [row for piece in held for row in self._usable(piece)]
            random.Random(f"{self.plan['seed']} {epoch} {index}").shuffle(rows)
            start = behind if index == window else 0
            for number, row in enumerate(rows[start:], start + 1):
                yield index, number, row

    def _usable(self, piece: shards.Piece) -> list[tuple[int, str, str]]:
        """Number, input and reference of the piece's rows that can be trained on."""
        raw, reading = shards.read(piece), self.plan["reading"]
        problems = _problems(piece, raw, reading)
        if problems and not self._told:
            self._told = True
            warn(f"{piece.path}: rows that can't be used are left out, here and in the other files")
        if len({problem.row for problem in problems}) == len(raw):
            return []
        clean = intake.clean_of(raw, problems, reading)
        return [
            (piece.first + number - 1, question, reply)
            for number, question, reply in zip(clean["row"], clean["input"], clean["reference"], strict=True)
            if question_key(question) not in self.kept_away
        ]

    def _tokenized(self, rows: list[tuple[int, str, str]]) -> tuple[list[int], list[dict[str, Any]]]:
        limits = self.plan["limits"]
        texts = tokens.apply_template(self.plan["template"], [question for _, question, _ in rows])
        sources = tokens.encode(self.tokenizer, texts, limits["source"])
        targets = tokens.encode_targets(self.tokenizer, [reply for *_, reply in rows], limits["target"])
        made = [{"input_ids": s, "labels": t} for s, t in zip(sources, targets, strict=True)]
        return [number for number, *_ in rows], made


def _problems(
    piece: shards.Piece, raw: Sequence[dict[str, Any] | Unreadable], reading: Mapping[str, Any]
) -> list[Problem]:
    """What is wrong with the rows of a piece, counted within it; raised, and counted in the file, where it must be."""
    keys = reading["input_text_key"], reading["output_text_key"]
    problems = checks.check_rows(raw, *keys, piece.path, reading["values_as_text"], whole=False)
    if problems and reading["on_bad_rows"] == "fail":
        where = f"{piece.path}, rows {piece.before + 1:,} to {piece.before + len(raw):,}"
        in_file = [replace(problem, row=piece.before + problem.row) for problem in problems]
        raise checks.bad_rows_error(where, in_file, len(raw), part=True)
    return problems
