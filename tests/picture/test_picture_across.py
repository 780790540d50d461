from itertools import pairwise

import pytest

from seqtune.picture import across, drawing, graph, rows


def prepared(flow):
    read = graph.read(flow)
    grid, _ = rows.in_rows(read)
    widths = {name: drawing.size(box)[0] for name, box in read.boxes.items()}
    return *across.layered(grid, rows.trunks(read, grid)), widths


def test_crossings_are_counted():
    layers = [["a", "b", "c"], ["d", "e"]]
    assert across.crossings(layers, [("a", "d"), ("b", "e")]) == 0
    assert across.crossings(layers, [("a", "e"), ("b", "d")]) == 1
    assert across.crossings(layers, [("a", "e"), ("b", "e"), ("b", "d"), ("c", "d")]) == 3
    assert across.crossings(layers, [("a", "e"), ("a", "d")]) == 0


@pytest.mark.parametrize(
    ("layers", "steps"),
    [
        ([["a", "b"], ["c", "d"]], [("a", "d"), ("b", "c")]),
        ([["a", "b", "c"], ["d", "e", "f"], ["g"]], [("a", "f"), ("b", "e"), ("c", "d"), ("d", "g"), ("f", "g")]),
        ([["a"], ["b", ("a", 1), "c"], ["d", "e"]], [("a", "b"), ("a", ("a", 1)), (("a", 1), "d"), ("b", "e")]),
    ],
)
def test_an_order_without_crossings_is_found(layers, steps):
    found = across.ordered(layers, steps)
    assert across.crossings(found, steps) == 0
    assert [sorted(layer, key=str) for layer in found] == [sorted(layer, key=str) for layer in layers]


def test_a_big_graph_is_ordered_with_far_fewer_crossings(big):
    layers, steps, _ = prepared(big)
    assert across.crossings(across.ordered(layers, steps), steps) < 0.5 * across.crossings(layers, steps)


def test_the_order_is_left_alone_that_can_not_be_better():
    layers = [["b", "a"], ["d", "c"]]
    assert across.ordered(layers, [("b", "d"), ("a", "c")]) == layers


def test_straightening_bends_less_and_keeps_order_and_distance(big):
    layers, steps, widths = prepared(big)
    layers = across.ordered(layers, steps)
    before = across.aligned(layers, steps, widths)
    after = across.straightened(layers, steps, widths, before)
    for layer in layers:
        for left, right in pairwise(layer):
            assert after[right] - after[left] >= across.distance(left, right, widths) - 1e-6
    assert all(after[key] == before[key] for key in widths)

    def straight(place):
        return sum(abs(place[a] - place[b]) < 0.5 for a, b in steps)

    assert straight(after) > straight(before)


def test_an_order_is_never_made_worse(big):
    layers, steps, _ = prepared(big)
    best = across.ordered(layers, steps)
    for rounds in range(4):
        assert across.crossings(across.ordered(best, steps, rounds), steps) <= across.crossings(best, steps)
