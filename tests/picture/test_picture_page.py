import base64
import hashlib
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from drawn_flows import HOSTILE, INPUTS, JUDGING, NODES, READING, SVG, TRAINING, Page, build, drawn_nodes, module
from hamilton import driver

from seqtune import picture


def test_html_has_a_row_for_every_node_and_a_link_from_every_box(small):
    page = Page(picture.html(small))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert sorted(ids) == sorted(NODES)
    links = {(attributes["href"] or "").removeprefix("#") for tag, attributes in page.tags if tag == "a"}
    assert links == NODES
    text = picture.html(small)
    assert "6 nodes in 3 modules, 7 edges, 5 inputs" in text
    assert all(f"<code>{name}</code>" in text for name in INPUTS | NODES)


def test_pages_load_and_run_nothing(small):
    text = picture.html(small)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("src", "style") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    for drawn in (text, picture.svg(small)):
        without_namespace = drawn.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?:|//\w|url\(|@import|javascript:", without_namespace)


def test_policy_allows_the_style_of_the_page_alone(small):
    page = Page(picture.html(small))
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_hostile_text_stays_text():
    from hamilton.function_modifiers import tag

    def victim(a_knob: int = 1) -> int:
        return a_knob

    victim.__doc__ = HOSTILE
    made = module("evil", "")
    victim.__module__ = made.__name__
    made.victim = tag(owner="x")(victim)  # pyright: ignore
    flow = driver.Builder().with_modules(made).build()
    node = flow.graph.nodes["victim"]
    node._name = 'vic<script>alert(2)</script>"tim'
    flow.graph.nodes = {node.name: node}
    node._tags["module"] = "made.<b>evil</b>"
    node._type = type("T<img src=x onerror=alert(3)>", (), {})

    root = ET.fromstring(picture.svg(flow))
    assert drawn_nodes(root) == ['vic<script>alert(2)</script>"tim']
    assert not list(root.iter(f"{SVG}script"))
    (title,) = [element.text or "" for element in root.iter(f"{SVG}title")]
    assert "</title></text><script>alert(1)</script>" in title
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", title)
    page = Page(picture.html(flow))
    assert not {"script", "img", "b"} & {tag for tag, _ in page.tags}
    assert "{{ 7 * 7 }}" in picture.html(flow)
    label = next(line for line in picture.mermaid(flow).splitlines() if line.startswith("    n0["))
    assert label.count('"') == 2
    assert re.sub("<br/>", "", label).count("<") == 0
    picture.html(flow).encode("utf-8")


@pytest.mark.parametrize(
    "source", ["", "def alone() -> int: ...", "def a() -> int: ...\ndef b() -> int: ...\ndef c(a: int) -> int: ..."]
)
def test_graphs_of_none_one_and_several_parts(source):
    flow = build(only=source)
    nodes = source.count("def ")
    assert len(drawn_nodes(ET.fromstring(picture.svg(flow)))) == nodes
    assert picture.mermaid(flow).count("    n") == nodes
    assert Page(picture.html(flow)).tags


def test_the_same_graph_gives_the_same_picture_in_any_process():
    script = (
        "import sys, types, hashlib\nfrom hamilton import driver\nfrom seqtune import picture\n"
        "made = types.ModuleType('made')\nsys.modules['made'] = made\n"
        "exec(compile(sys.argv[1], 'made', 'exec'), made.__dict__)\n"
        "flow = driver.Builder().with_modules(made).build()\n"
        "print(hashlib.sha256((picture.html(flow) + picture.mermaid(flow)).encode()).hexdigest())\n"
    )
    digests = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "HAMILTON_TELEMETRY_ENABLED": "false"}
        command = [sys.executable, "-c", script, READING + TRAINING + JUDGING]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        digests.add(done.stdout.strip().splitlines()[-1])
    assert len(digests) == 1
