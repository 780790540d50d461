import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from drawn_flows import SVG, boxes_of, build, drawn_edges, drawn_nodes, edges_of, points_of

from seqtune import picture

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("flow", ["small", "big"])
def test_svg_shows_every_node_and_every_edge_once(flow, request):
    flow = request.getfixturevalue(flow)
    root = ET.fromstring(picture.svg(flow))
    nodes = [node.name for node in flow.list_available_variables() if not node.is_external_input]
    assert sorted(drawn_nodes(root)) == sorted(nodes)
    assert sorted(drawn_edges(root)) == sorted(edges_of(flow))


@pytest.mark.parametrize("flow", ["small", "big"])
def test_boxes_do_not_overlap_and_edges_go_down_past_them(flow, request):
    root = ET.fromstring(picture.svg(request.getfixturevalue(flow)))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = boxes_of(root)
    for name, (left, top, right, bottom) in boxes.items():
        assert 0 < left < right < width
        assert 0 < top < bottom < height
        for other, (x0, y0, x1, y1) in boxes.items():
            assert other == name or right < x0 or x1 < left or bottom < y0 or y1 < top
    for path in root.iter(f"{SVG}path"):
        if "data-from" not in path.attrib:
            continue
        points = points_of(path.attrib["d"])
        start, end = boxes[path.attrib["data-from"]], boxes[path.attrib["data-to"]]
        assert points[0][1] == pytest.approx(start[3], abs=0.11)
        assert points[-1][1] == pytest.approx(end[1] - 6, abs=0.11)
        assert all(above[1] < below[1] for above, below in pairwise(points))
        for x, y in points[1:-1]:
            assert not any(left < x < right and top <= y <= bottom for left, top, right, bottom in boxes.values())


def test_big_graph_stays_readable(big):
    root = ET.fromstring(picture.svg(big))
    assert float(root.attrib["width"]) < 1600
    sizes = [float(size) for size in re.findall(r"font(?:-size)?:([\d.]+)px", picture.svg(big))]
    assert min(sizes) >= 10


def test_text_fits_its_box(small):
    root = ET.fromstring(picture.svg(small))
    for node in root.iter(f"{SVG}g"):
        if "data-node" in node.attrib:
            width = float(node.find(f"{SVG}rect").attrib["width"])
            assert all(float(text.attrib["textLength"]) < width for text in node.iter(f"{SVG}text"))
            name = "".join(text.text or "" for text in node.iter(f"{SVG}text") if text.attrib["class"] == "name")
            assert name == node.attrib["data-node"]


def test_tooltips_say_what_a_node_is_and_takes(small):
    root = ET.fromstring(picture.svg(small))
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert "rows: list[dict[str, str]]\nThe rows of the file.\ninputs: key, path" in titles
    assert not any("More about them" in title for title in titles)


def test_legend_names_the_modules(small):
    root = ET.fromstring(picture.svg(small))
    legend = [text.text for text in root.iter(f"{SVG}text") if text.attrib["class"] == "legend"]
    assert legend == ["reading (3)", "training (1)", "judging (2)"]
    assert "prefers-color-scheme:dark" in picture.svg(small)


def test_modules_that_need_each_other_share_a_band():
    flow = build(
        first="def a(k: int) -> int: ...\ndef c(b: int) -> int: ...",
        own="def b(a: int) -> int: ...",
        last="def d(c: int, b: int) -> int: ...",
    )
    root = ET.fromstring(picture.svg(flow))
    assert [text.text for text in root.iter(f"{SVG}text") if text.attrib["class"] == "label"] == ["first · own", "last"]
    assert sorted(drawn_edges(root)) == [("a", "b"), ("b", "c"), ("b", "d"), ("c", "d")]


def test_modules_come_in_order_of_need_whatever_the_order_given():
    flow = build(late="def b(a: int) -> int: ...", early="def a(k: int) -> int: ...")
    root = ET.fromstring(picture.svg(flow))
    assert [text.text for text in root.iter(f"{SVG}text") if text.attrib["class"] == "label"] == ["early", "late"]
    boxes = boxes_of(root)
    assert boxes["a"][3] < boxes["b"][1]


def test_the_picture_in_the_docs_is_of_the_dataflow_as_it_is():
    from seqtune.driver import build_driver

    saved = (DOCS / "dataflow.svg").read_text(encoding="utf-8")
    if saved != picture.svg(build_driver()):
        pytest.fail(
            "docs/dataflow.svg is not the dataflow as it is now\n  "
            "mend: python -m seqtune show --format svg --output docs/dataflow.svg",
            pytrace=False,
        )


def test_the_picture_in_the_docs_stands_alone():
    saved = (DOCS / "dataflow.svg").read_text(encoding="utf-8")
    root = ET.fromstring(saved)
    assert root.attrib["viewBox"] == f"0 0 {root.attrib['width']} {root.attrib['height']}"
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert tags == {"svg", "style", "g", "title", "rect", "text", "path"}
    assert not any(name.endswith("href") or name.startswith("on") for element in root.iter() for name in element.attrib)
    assert "prefers-color-scheme:dark" in saved
