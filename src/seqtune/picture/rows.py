"""Which box stands in which row. Every edge goes down; a module's rows lie together, in a band."""

from __future__ import annotations

from collections import defaultdict

from seqtune.picture.graph import Picture

WIDEST_ROW = 6  # boxes side by side

#: A point where an edge passes a row on its way: the box it comes from, and the row. Edges from one box share them.
Point = tuple[str, int]


def in_rows(picture: Picture) -> tuple[list[list[str]], list[tuple[str, int, int]]]:
    """Names by row from the top, and bands as (label, first row, last row)."""
    boxes, needed_by = picture.boxes, defaultdict(list)
    for start, end in picture.edges:
        needed_by[start].append(end)
    rows: list[list[str]] = []
    bands = []
    for group in _bands(picture):
        row: dict[str, int] = {}
        used: dict[int, int] = defaultdict(int)
        waiting = [box.name for module in group for box in picture.modules[module]]
        while waiting:  # by generations: all whose needs in this band are placed
            ready = [name for name in waiting if not any(other in waiting for other in boxes[name].needs)]
            for name in ready:
                row[name] = max((row[other] + 1 for other in boxes[name].needs if other in row), default=0)
                while used[row[name]] >= WIDEST_ROW:
                    row[name] += 1
                used[row[name]] += 1
            waiting = [name for name in waiting if name not in ready]
        for name in reversed(list(row)):  # nearer to what needs it, where that shortens more lines than it lengthens
            below = [row[other] for other in needed_by[name] if other in row]
            if len(below) > len(boxes[name].needs):
                for better in range(min(below) - 1, row[name], -1):
                    if used[better] < WIDEST_ROW:
                        used[row[name]] -= 1
                        used[better] += 1
                        row[name] = better
                        break
        first = len(rows)
        for number in sorted(set(row.values())):
            rows.append([name for name in row if row[name] == number])
        bands.append((" · ".join(group), first, len(rows) - 1))
    return rows, bands


def trunks(picture: Picture, rows: list[list[str]]) -> dict[tuple[str, str], list[Point]]:
    """Where each edge passes the rows between its ends."""
    row_of = {name: number for number, row in enumerate(rows) for name in row}
    return {(a, b): [(a, number) for number in range(row_of[a] + 1, row_of[b])] for a, b in picture.edges}


def _bands(picture: Picture) -> list[list[str]]:
    """Modules in an order in which each comes after those it needs; modules in a circle stand together."""
    modules = list(picture.modules)
    above: dict[str, set[str]] = {module: set() for module in modules}
    for start, end in picture.edges:
        above[picture.boxes[end].module].add(picture.boxes[start].module)
    for module in modules:
        above[module].discard(module)
    for middle in modules:
        for module in modules:
            if middle in above[module]:
                above[module] |= above[middle]
    circles = {m: [o for o in modules if o == m or (o in above[m] and m in above[o])] for m in modules}
    order = sorted(modules, key=lambda module: (len(above[module] - set(circles[module])), modules.index(module)))
    return [list(group) for group in dict.fromkeys(tuple(circles[module]) for module in order)]
