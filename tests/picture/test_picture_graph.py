import xml.etree.ElementTree as ET

import pytest
from drawn_flows import EDGES, INPUTS, NODES, build

from seqtune.picture import graph


def test_small_graph_is_what_was_written(small):
    read = graph.read(small)
    assert set(read.boxes) == NODES
    assert set(read.edges) == EDGES
    assert read.inputs == INPUTS
    assert {name: [box.name for box in boxes] for name, boxes in read.modules.items()} == {
        "reading": ["rows", "train_set", "hold_out_set"],
        "training": ["adapter"],
        "judging": ["answers_of_the_base_and_the_tuned_model", "report"],
    }
    rows = read.boxes["rows"]
    assert (rows.type, rows.what, rows.inputs) == ("list[dict[str, str]]", "The rows of the file.", ["key", "path"])
    assert rows.note == "list[dict[str, str]] · 2 inputs"
    assert read.boxes["report"].what == ""
    assert read.boxes["report"].note == "str"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "int"),
        (type(None), "None"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (int | None, "int | None"),
        (ET.Element, "Element"),
        (list[ET.Element], "list[Element]"),
    ],
)
def test_types_read_as_written(kind, text):
    assert graph.type_text(kind) == text


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("train_set", ["train_set"]),
        ("finetuned_model_on_validation_set", ["finetuned_model_", "on_validation_set"]),
        ("anamewithoutanyunderscoreatall", ["anamewithoutanyunderscoreatall"]),
    ],
)
def test_long_names_take_two_lines(name, lines):
    assert graph.Box(name, "int", "", "m", [], []).lines == lines


def test_parts_of_a_result_name_the_whole():
    flow = build(
        splits="""
from hamilton.function_modifiers import config, extract_fields, parameterize, value
from hamilton.function_modifiers import pipe_input, step

@extract_fields({"train_set": list, "hold_out_set": list})
def data_splits(rows: list) -> dict:
    '''Two sets.

    More.'''

@extract_fields({"first": int})
def silent(rows: list) -> dict: ...

@config.when_not(start="other")
@extract_fields({"chosen": int})
def choices__base(rows: list) -> dict:
    '''What there is.'''

@parameterize(one={"k": value(1)}, two={"k": value(2)})
def numbers(k: int) -> int:
    '''The number {k}.'''

def _more(x: int) -> int: ...

@pipe_input(step(_more).named("between"))
def end(one: int) -> int:
    '''The end.'''
"""
    )
    what = {name: box.what for name, box in graph.read(flow).boxes.items()}
    assert what["data_splits"] == "Two sets."
    assert what["train_set"] == what["hold_out_set"] == "Part of data_splits: Two sets."
    assert (what["silent"], what["first"]) == ("", "Part of silent.")
    assert what["chosen"] == "Part of choices: What there is."
    assert (what["one"], what["two"]) == ("The number 1.", "The number 2.")
    assert what["end"] == "The end."
