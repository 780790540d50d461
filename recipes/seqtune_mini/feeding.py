"""Batches, made by other processes ahead of the training where there are cores for it.

A batch depends on the seed, its number and the progress only, so that it is the same whoever makes it.
"""

import multiprocessing
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mixture
from corpus import Corpus
from packing import Batch, encode, pack

CHUNK = 256  # examples tokenized at once
_SHARED: list = []  # what the processes have from their parent: tokenizer, corpus, recipe, rows, seed


def make(number: int, progress: float) -> Batch:
    """The batch of that number, with the mixture of that moment (0 to 1) of the training."""
    tokenizer, corpus, recipe, rows, seed = _SHARED
    rng = random.Random(f"{seed}/{number}")

    def examples() -> Iterator[tuple[list[int], list[int]]]:
        while True:
            yield from encode(tokenizer, [mixture.example(rng, corpus, progress, recipe)[1:] for _ in range(CHUNK)])

    return pack(examples(), rows)


@contextmanager
def batches(
    tokenizer, corpus: Corpus, recipe: mixture.Recipe, rows: int, seed: int, workers: int
) -> Iterator[Callable[[int, Callable[[int], float]], Iterator[Batch]]]:
    """Inside the block: a function (first number, progress of a number) -> the batches from there on, without end.

    With no workers each batch is made when it is asked for. Workers are forks, to be made before CUDA is first used.
    """
    _SHARED[:] = tokenizer, corpus, recipe, rows, seed
    if not workers:
        yield lambda first, progress: (make(number, progress(number)) for number in _count(first))
        return
    with multiprocessing.get_context("fork").Pool(workers) as pool:

        def ahead(first: int, progress: Callable[[int], float]) -> Iterator[Batch]:
            waiting: deque = deque()
            for number in _count(first):
                waiting.append(pool.apply_async(make, (number, progress(number))))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().get()

        yield ahead


def _count(first: int) -> Iterator[int]:
    while True:
        yield first
        first += 1
