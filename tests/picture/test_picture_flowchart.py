import re

from drawn_flows import EDGES, NODES

from seqtune import picture


def test_mermaid_has_each_node_in_its_modules_subgraph(small):
    lines = picture.mermaid(small).splitlines()
    assert lines[0] == "flowchart TD"
    starts = [i for i, line in enumerate(lines) if line.startswith("  subgraph ")]
    ends = [i for i, line in enumerate(lines) if line == "  end"]
    assert len(starts) == len(ends) == 3
    assert all(a < b for a, b in zip(starts, ends, strict=True))
    assert all(b < a for a, b in zip(starts[1:], ends, strict=False))
    ids = {}
    for line in lines:
        if found := re.fullmatch(r'    (n\d+)\["(\w+)<br/>(.+)"\]', line):
            ids[found[1]] = found[2]
    assert sorted(ids.values()) == sorted(NODES)
    edges = [found.groups() for line in lines if (found := re.fullmatch(r"  (n\d+) --> (n\d+)", line))]
    assert sorted((ids[a], ids[b]) for a, b in edges) == sorted(EDGES)
    assert "<br/>list[dict[str, str]] · 2 inputs" in picture.mermaid(small)
