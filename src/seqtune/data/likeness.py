"""Which texts are near-duplicates of which: found by MinHash (rensa), confirmed piece by piece.

Two texts are near-duplicates if the pieces that both have (`shingles`) are at least a given share, the *threshold*, of
those that either has (Jaccard's index). MinHash draws a signature for each text; texts that agree in one whole band of
it are candidates, and only candidates are compared. A pair exactly at the threshold is missed with a probability of at
most `MISSED` (at 0.7: of sixty thousand pairs one), a more similar one more rarely still. What is found is found for
certain, but for texts of more than `shingles.MOST` pieces, of which a sample is compared (standard error 0.03).

Nothing depends on the order of the texts. Everything is arrays: a million texts take seconds and some hundred MB.

Shape suffixes: R texts, P pairs, B bands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue] (it has no type stubs)

from seqtune.data.shingles import MOST, shingles_of

#: Length of a signature.
PERMUTATIONS = 160
SEED = 42
#: The largest probability of missing a pair at the threshold.
MISSED = 1e-3
#: Pairs compared, at most, for a text on average (small sets have more to spend) …
COMPARED, COMPARED_AT_LEAST = 40, 20_000_000
#: … and pairs met in a band, most of which are known to be in one group already.
MET, MET_AT_LEAST = 20, 5_000_000
#: So many numbers of two signatures are compared before their pieces are (a byte each), and how far the share that
#: agrees may be below the threshold: more than four standard errors.
GLIMPSE, BELOW = 96, 0.2
#: Pieces compared at a time.
CHUNK = 1_000_000

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Index:
    """Texts, ready to be searched; see `index_of`.

    Args:
        values: uint32, the pieces of all texts.
        starts: int64 [R], where those of a text begin.
        counts: int64 [R], how many it has.
        bounds: uint64 [R], below which value they are all there.
        bands: uint32 [B, R], a number for each band of each text's signature.
        glimpses: uint8 [R, GLIMPSE], the beginning of each text's signature.
        threshold: share of common pieces from which two texts are near-duplicates.
    """

    values: NDArray[np.uint32]
    starts: Indices
    counts: Indices
    bounds: NDArray[np.uint64]
    bands: NDArray[np.uint32]
    glimpses: NDArray[np.uint8]
    threshold: float

    def __len__(self) -> int:
        return len(self.counts)


def rows_of_band(threshold: float) -> int:
    """Numbers of a signature in a band: the most (fewest false candidates) that miss no more than `MISSED`."""
    fits = [rows for rows in range(1, 11) if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED]
    return max(fits, default=1)


def index_of(keys: Iterable[Sequence[str]], order: Indices, threshold: float) -> Index:
    """An index of different texts, at least one.

    Args:
        keys: batches of texts as `question_key` makes them.
        order: int64 [R], in which place of the index each text is to stand; should not depend on that of the file.
        threshold: as in `Index`.
    """
    rows, texts = rows_of_band(threshold), len(order)
    # Whole arrays from the start, filled batch by batch: many small ones would not be given back when they are joined.
    values = np.empty(texts * MOST, dtype=np.uint32)  # only what is filled takes memory
    starts, counts = np.empty(texts, dtype=np.int64), np.empty(texts, dtype=np.int64)
    bounds = np.empty(texts, dtype=np.uint64)
    bands = np.empty((PERMUTATIONS // rows, texts), dtype=np.uint32)
    glimpses = np.empty((texts, GLIMPSE), dtype=np.uint8)
    done = used = 0
    for batch in keys:
        found = shingles_of(batch)
        signature = RMinHash.digest_matrix_from_flat_token_hashes(found.values, found.ends, PERMUTATIONS, SEED)
        signature_RN = np.array(signature.to_rows(), dtype=np.uint64).reshape(-1, PERMUTATIONS)
        place = order[done : done + len(signature_RN)]
        bands[:, place] = _bands(signature_RN, rows)
        glimpses[place] = signature_RN[:, :GLIMPSE].astype(np.uint8)
        few, bounds[place] = found.sampled()
        sizes = np.diff(few.ends).astype(np.int64)
        counts[place], starts[place] = sizes, used + np.cumsum(sizes) - sizes
        if used + len(few.values) > len(values):  # a sample may be larger than `MOST`
            values = np.concatenate([values, np.empty(len(values) + len(few.values), dtype=np.uint32)])
        values[used : used + len(few.values)] = few.values
        done, used = done + len(place), used + len(few.values)
    return Index(values[:used], starts, counts, bounds, bands, glimpses, threshold)


def groups(index: Index, advance: Callable[[int, int], None] = lambda done, total: None) -> tuple[Indices, bool]:
    """Near-duplicates of near-duplicates put together: for each text the smallest place in its group (int64 [R]).

    Args:
        index: the texts.
        advance: told how many bands of how many are done.

    Returns:
        The groups, and whether all candidates were compared (False: in large crowds some may be left apart).
    """
    label = np.arange(len(index))

    def apart(left: Indices, right: Indices) -> NDArray[np.bool_]:
        return label[left] != label[right]

    def unfinished(members: Indices, starts: Indices) -> NDArray[np.bool_]:
        of = label[members]
        return np.minimum.reduceat(of, starts) != np.maximum.reduceat(of, starts)

    def joined(left: Indices, right: Indices) -> None:
        while len(left):
            low, high = np.minimum(label[left], label[right]), np.maximum(label[left], label[right])
            np.minimum.at(label, high, low)
            while not np.array_equal(label, further := label[label]):
                label[:] = further
            still = label[left] != label[right]
            left, right = left[still], right[still]

    whole = _search(index, apart, unfinished, joined, advance)
    return label, whole


def nearest_side(
    index: Index, first: NDArray[np.bool_], advance: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Indices, bool]:
    """For each text of the first side a near-duplicate on the other side (its place, or -1; int64 [R]).

    Args:
        index: the texts of both sides; a text may be on one side only.
        first: bool [R], which texts are on the first side.
        advance: as for `groups`.
    """
    other = np.full(len(index), -1, dtype=np.int64)

    def sought(left: Indices, right: Indices) -> NDArray[np.bool_]:
        return (first[left] != first[right]) & (np.where(first[left], other[left], other[right]) < 0)

    def unfinished(members: Indices, starts: Indices) -> NDArray[np.bool_]:
        seeking, sought_for = first[members] & (other[members] < 0), ~first[members]
        return np.logical_or.reduceat(seeking, starts) & np.logical_or.reduceat(sought_for, starts)

    def noted(left: Indices, right: Indices) -> None:
        mine, its = np.where(first[left], left, right), np.where(first[left], right, left)
        other[mine] = its

    whole = _search(index, sought, unfinished, noted, advance)
    return other, whole


def are_alike(index: Index, left_P: Indices, right_P: Indices) -> NDArray[np.bool_]:
    """Whether the texts of each pair are near-duplicates (bool [P])."""
    alike = np.zeros(len(left_P), dtype=np.bool_)
    glimpsed = [
        (
            index.glimpses[left_P[at : at + CHUNK // GLIMPSE]] == index.glimpses[right_P[at : at + CHUNK // GLIMPSE]]
        ).mean(axis=1, dtype=np.float32)
        for at in range(0, len(left_P), CHUNK // GLIMPSE)
    ]
    possible = np.flatnonzero(np.concatenate([*glimpsed, np.zeros(0)]) >= index.threshold - BELOW)
    sizes = index.counts[left_P], index.counts[right_P]
    ends = np.cumsum((sizes[0] + sizes[1])[possible])
    cuts = np.searchsorted(ends, np.arange(CHUNK, ends[-1] if len(ends) else 0, CHUNK))
    for part in np.split(possible, cuts):
        if len(part):
            alike[part] = _jaccard(index, left_P[part], right_P[part]) >= index.threshold
    return alike


def _jaccard(index: Index, left_P: Indices, right_P: Indices) -> NDArray[np.float64]:
    bounds = np.minimum(index.bounds[left_P], index.bounds[right_P])
    pieces = []
    for side in (left_P, right_P):
        counts = index.counts[side]
        pair = np.repeat(np.arange(len(side)), counts)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
        values = index.values[np.repeat(index.starts[side], counts) + within].astype(np.uint64)
        kept = values < bounds[pair]
        pieces.append((pair[kept].astype(np.uint64) << np.uint64(32)) | values[kept])
    both = np.sort(np.concatenate(pieces))
    total = np.bincount((both >> np.uint64(32)).astype(np.int64), minlength=len(left_P))
    twice = both[1:][both[1:] == both[:-1]]  # each side has a piece once
    common = np.bincount((twice >> np.uint64(32)).astype(np.int64), minlength=len(left_P))
    return common / np.maximum(total - common, 1)


def _bands(signature_RN: NDArray[np.uint64], rows: int) -> NDArray[np.uint32]:
    bands = PERMUTATIONS // rows
    mixed = np.zeros((bands, len(signature_RN)), dtype=np.uint64)
    for row in range(rows):
        mixed = (mixed * np.uint64(0x9E3779B97F4A7C15)) ^ signature_RN[:, row : rows * bands : rows].T
        mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def _search(
    index: Index,
    wanted: Callable[[Indices, Indices], NDArray[np.bool_]],
    unfinished: Callable[[Indices, Indices], NDArray[np.bool_]],
    found: Callable[[Indices, Indices], None],
    advance: Callable[[int, int], None],
) -> bool:
    """Call ``found`` with the near-duplicates among the candidates that are ``wanted``; whether all were compared.

    ``unfinished`` says of crowds (members one after the other, and where each begins) in which there may still be any.
    """
    bands = len(index.bands)
    left = max(COMPARED_AT_LEAST, COMPARED * len(index))
    whole = True
    for number in range(bands):
        band, following = index.bands[number], index.bands[(number + 1) % bands]
        # Sorted by the next band too: in a crowd, those most alike then stand side by side.
        order = np.argsort((band.astype(np.uint64) << np.uint64(32)) | following, kind="stable")
        crowd = band[order]
        at = np.arange(len(order))
        starts = np.flatnonzero(np.concatenate([[True], crowd[1:] != crowd[:-1]]))
        crowds = np.diff(np.append(starts, len(order)))
        compare, meet = left // (bands - number), max(MET_AT_LEAST, MET * len(index))
        for offset in range(1, len(order)):
            at = at[at + offset < len(order)]
            if offset & (offset - 1) == 0:  # a power of two: now and then
                at = at[np.repeat(unfinished(order, starts), crowds)[at]]
            at = at[crowd[at] == crowd[at + offset]]
            one, two = order[at], order[at + offset]
            asked = wanted(one, two)
            one, two = one[asked], two[asked]
            compare, meet, left = compare - len(one), meet - len(at), left - len(one)
            if compare < 0 or meet < 0:
                whole = False
                break
            if not len(at):
                break
            alike = are_alike(index, one, two)
            found(one[alike], two[alike])
        advance(number + 1, bands)
    return whole
