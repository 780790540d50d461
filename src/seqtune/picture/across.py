"""Where a box stands in its row: first the order, so that few lines cross, then the place.

A simple form of Sugiyama's method (Sugiyama, Tagawa, Toda 1981, "Methods for visual understanding of hierarchical
system structures"). A layer holds the keys of a row's boxes (names) and of the edges that pass it (`rows.Point`); a
step is a line between two neighbouring layers.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate, pairwise

from seqtune.picture.rows import Point

COLUMN_GAP = 16  # SVG units between boxes
TRUNK_GAP = 8  # … beside a line
SMALL_BEND = 40  # a larger one is meant
CENTRE = 0.02  # how much every box is drawn to the middle of the picture; a line to a neighbour has 1 or more

Key = str | Point
Layers = list[list[Key]]
Steps = list[tuple[Key, Key]]


def middles(
    rows: list[list[str]], trunks: Mapping[tuple[str, str], list[Point]], widths: Mapping[str, float]
) -> dict[Key, float]:
    """The horizontal middle of every box (by name) and every point of a trunk (by (start, row))."""
    layers, steps = layered(rows, trunks)
    return dict(_middles(tuple(map(tuple, layers)), tuple(steps), tuple(widths.items())))


@functools.lru_cache(maxsize=4)  # the trials of a sweep draw the same picture again and again
def _middles(
    layers: tuple[tuple[Key, ...], ...], steps: tuple[tuple[Key, Key], ...], widths: tuple[tuple[str, float], ...]
) -> Mapping[Key, float]:
    ordered_layers, wide = ordered([list(layer) for layer in layers], list(steps)), dict(widths)
    return straightened(ordered_layers, list(steps), wide, aligned(ordered_layers, list(steps), wide))


def layered(rows: list[list[str]], trunks: Mapping[tuple[str, str], list[Point]]) -> tuple[Layers, Steps]:
    """The rows with the points of the trunks at their right, and the lines between neighbouring rows, each once."""
    layers: Layers = [list(row) for row in rows]
    for point in dict.fromkeys(point for points in trunks.values() for point in points):
        layers[point[1]].append(point)
    return layers, list(dict.fromkeys(step for (a, b), points in trunks.items() for step in pairwise([a, *points, b])))


def ordered(layers: Layers, steps: Steps, rounds: int = 16) -> Layers:
    """The layers reordered to cross few lines.

    By turns from the top and from the bottom, each layer is sorted by the mean place of its neighbours in the layer
    before, then neighbours change places where that crosses fewer lines. The rounds don't only get better: the best
    counts.
    """
    ends: tuple[dict[Key, list[Key]], ...] = defaultdict(list), defaultdict(list)
    for a, b in steps:
        ends[0][b].append(a)
        ends[1][a].append(b)
    best, layers = layers, [list(layer) for layer in layers]
    place = {key: number for layer in layers for number, key in enumerate(layer)}
    fewest = crossings(layers, steps)

    def gain(left: Key, right: Key) -> int:
        pairs = ((place[a], place[b]) for near in ends for a in near[left] for b in near[right])
        return sum((a > b) - (a < b) for a, b in pairs)

    for turn in range(rounds):
        near = ends[turn % 2]
        for layer in layers if turn % 2 == 0 else reversed(layers):
            mean = {k: sum(place[o] for o in near[k]) / len(near[k]) if near[k] else place[k] for k in layer}
            layer.sort(key=mean.__getitem__)
            place.update({key: number for number, key in enumerate(layer)})
        better = True
        while better:
            better = False
            for layer in layers:
                for i in range(len(layer) - 1):
                    if gain(layer[i], layer[i + 1]) > 0:
                        layer[i], layer[i + 1] = layer[i + 1], layer[i]
                        place[layer[i]], place[layer[i + 1]] = i, i + 1
                        better = True
        if (found := crossings(layers, steps)) < fewest:
            fewest, best = found, [list(layer) for layer in layers]
    return best


def crossings(layers: Layers, steps: Steps) -> int:
    """How many pairs of lines between neighbouring layers cross."""
    place = {key: (number, position) for number, layer in enumerate(layers) for position, key in enumerate(layer)}
    gaps = defaultdict(list)
    for a, b in steps:
        gaps[place[a][0]].append((place[a][1], place[b][1]))
    return sum((a - c) * (b - d) < 0 for lines in gaps.values() for i, (a, b) in enumerate(lines) for c, d in lines[:i])


def aligned(layers: Layers, steps: Steps, widths: Mapping[str, float]) -> dict[Key, float]:
    """Horizontal middles: each near the mean of its neighbours above and below, trunks straight above all.

    Rows are fitted in turn; within a row the closest places in the given order and without overlap are found by
    isotonic regression (pool adjacent violators). Sums are `math.fsum`'s: `sum` rounds differently from Python 3.12 on,
    and the picture must be the same everywhere.
    """
    near: dict[Key, list[tuple[Key, float]]] = defaultdict(list)
    for a, b in steps:
        weight = (1.0, 2.0, 8.0)[isinstance(a, tuple) + isinstance(b, tuple)]
        near[a].append((b, weight))
        near[b].append((a, weight))
    offsets = [list(accumulate((distance(*two, widths) for two in pairwise(layer)), initial=0.0)) for layer in layers]
    across: dict[Key, float] = {key: 0.0 for layer in layers for key in layer}
    whole = list(zip(layers, offsets, strict=True))
    for turn in range(160):
        straight = turn >= 40  # later turns weigh a line by its length rather than its square: one bend, not a slant
        for layer, apart in whole if turn % 2 == 0 else reversed(whole):
            pools: list[tuple[float, float, int]] = []
            for key, offset in zip(layer, apart, strict=False):
                here, pulls, strengths = across[key], [], [CENTRE]
                for other, strength in near[key]:
                    there = across[other]
                    strength = strength * 10.0 / max(abs(there - here), 3.0) if straight else strength
                    pulls.append(there * strength)
                    strengths.append(strength)
                weight = math.fsum(strengths)
                pools.append((math.fsum(pulls) / weight - offset, weight, 1))
                while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
                    (x, v, m), (y, w, n) = pools[-2:]
                    pools[-2:] = [((x * v + y * w) / (v + w), v + w, m + n)]
            fitted = [x for x, _, size in pools for _ in range(size)]
            across.update({key: x + offset for key, x, offset in zip(layer, fitted, apart, strict=False)})
    return across


def straightened(
    layers: Layers, steps: Steps, widths: Mapping[str, float], across: Mapping[Key, float]
) -> dict[Key, float]:
    """The same with fewer small bends: a line goes straight on as long as it has room; boxes stay where they are."""
    across = dict(across)
    ends: tuple[dict[Key, Key], ...] = {b: a for a, b in steps}, {a: b for a, b in steps if isinstance(b, tuple)}
    for turn in range(12):
        for layer in layers if turn % 2 == 0 else reversed(layers):
            for left, key, right in zip([None, *layer], layer, [*layer[1:], None], strict=False):
                if isinstance(key, tuple) and key in (other := ends[turn % 2]):
                    low = across[left] + distance(left, key, widths) if left else -math.inf
                    high = across[right] - distance(key, right, widths) if right else math.inf
                    wish = max(low, min(high, across[other[key]]))
                    across[key] = wish if abs(wish - across[key]) < SMALL_BEND else across[key]
    return across


def distance(left: Key, right: Key, widths: Mapping[str, float]) -> float:
    """How far apart the middles of two neighbours in a layer must be."""
    gap = COLUMN_GAP if isinstance(left, str) and isinstance(right, str) else TRUNK_GAP
    return gap + math.fsum(widths[key] / 2 for key in (left, right) if isinstance(key, str))
