"""Small dataflows to draw, and readers of what was drawn."""

import re
import sys
import uuid
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from types import ModuleType

from hamilton import driver

SVG = "{http://www.w3.org/2000/svg}"
READING = '''
def rows(path: str, key: str = "question") -> list[dict[str, str]]:
    """The rows of the file.

    More about them.
    """

def train_set(rows: list[dict[str, str]], train_size: float = 0.8) -> list:
    """What is trained on."""

def hold_out_set(rows: list[dict[str, str]], train_size: float = 0.8) -> list:
    """What is kept back."""

def _helper(x: int) -> int:
    """Not a node."""
'''
TRAINING = '''
def adapter(train_set: list, learning_rate: float = 1e-3, seed: int | None = None) -> dict[str, float]:
    """The trained adapter."""
'''
JUDGING = '''
def answers_of_the_base_and_the_tuned_model(adapter: dict[str, float], hold_out_set: list) -> list[str]:
    """Answers."""

def report(answers_of_the_base_and_the_tuned_model: list[str], rows: list[dict[str, str]]) -> str: ...
'''
EDGES = {
    ("rows", "train_set"),
    ("rows", "hold_out_set"),
    ("train_set", "adapter"),
    ("adapter", "answers_of_the_base_and_the_tuned_model"),
    ("hold_out_set", "answers_of_the_base_and_the_tuned_model"),
    ("answers_of_the_base_and_the_tuned_model", "report"),
    ("rows", "report"),
}
NODES = {end for edge in EDGES for end in edge}
INPUTS = {"path", "key", "train_size", "learning_rate", "seed"}
HOSTILE = "</title></text><script>alert(1)</script> & \" ' ]]> {{ 7 * 7 }} --> \x1b[31m \x00 \ud800"


def module(name: str, source: str) -> ModuleType:
    made = ModuleType(f"made_{uuid.uuid4().hex}.{name}")
    sys.modules[made.__name__] = made
    exec(compile(source, made.__name__, "exec"), made.__dict__)
    return made


def build(**sources: str) -> driver.Driver:
    return driver.Builder().with_modules(*(module(name, source) for name, source in sources.items())).build()


def small_flow() -> driver.Driver:
    return build(reading=READING, training=TRAINING, judging=JUDGING)


def big_flow() -> driver.Driver:
    """45 nodes in 5 modules, of which some take from far above, and 12 that need nothing stand side by side."""
    sources: dict[str, str] = {}
    for number in range(45):
        needs = {number - step for step in (1, 3, 7, 20) if number - step >= 0 and number % (step + 1) == 0}
        needs |= {number - 2} if number > 12 else set()
        arguments = ", ".join(f"a_node_of_the_flow_{need}: int" for need in sorted(needs))
        source = f"def a_node_of_the_flow_{number}({arguments}) -> int:\n    ...\n"
        sources[f"part{number // 9}"] = sources.get(f"part{number // 9}", "") + source
    return build(**sources)


def edges_of(flow: driver.Driver) -> set[tuple[str, str]]:
    nodes = {n.name: n for n in flow.list_available_variables() if not n.is_external_input}
    return {
        (need, name)
        for name, node in nodes.items()
        for need in node.required_dependencies | node.optional_dependencies
        if need in nodes
    }


def drawn_nodes(root: ET.Element) -> list[str]:
    return [element.attrib["data-node"] for element in root.iter() if "data-node" in element.attrib]


def drawn_edges(root: ET.Element) -> list[tuple[str, str]]:
    return [(e.attrib["data-from"], e.attrib["data-to"]) for e in root.iter() if "data-from" in e.attrib]


def boxes_of(root: ET.Element) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right, bottom."""
    found = {}
    for element in root.iter(f"{SVG}g"):
        if "data-node" in element.attrib:
            x, y, w, h = (float(element.find(f"{SVG}rect").attrib[key]) for key in ("x", "y", "width", "height"))
            found[element.attrib["data-node"]] = (x, y, x + w, y + h)
    return found


def points_of(path: str) -> list[tuple[float, float]]:
    """The points through which a drawn edge passes: its start, the ends of its curves and of its straight parts."""
    points = []
    for letter, numbers in re.findall(r"([MCV])([^MCV]*)", path):
        values = [float(number) for number in numbers.split()]
        points.append((points[-1][0], values[0]) if letter == "V" else (values[-2], values[-1]))
    return points


class Page(HTMLParser):
    """What a browser would find: tags with attributes, ids, links and the text of rows."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.style, self.open = "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        if self.open == "style":
            self.style += data
