"""The SVG: coordinates of everything in a picture, for the template to write down.

Lengths are in SVG units, which are CSS pixels at full size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from seqtune.picture import across, rows
from seqtune.picture.colours import DARK, LIGHT, colour, mixed
from seqtune.picture.graph import Box, Picture, columns, count

CHARACTER = 7.5  # width of a monospaced character at 12.5 px
SMALL_CHARACTER = 6.3  # … at 10.5 px
BOX_PADDING = 10
LINE_HEIGHT = 16
ROW_GAP = 40
BAND_PADDING = 20
BAND_GAP = 28
MARGIN = 20
GUTTER = 34  # left of a band, for its label: no line passes there
ARROW = 8  # length of a head; its line ends a little inside


def render(picture: Picture) -> str:
    """The SVG with its style in it."""
    return drawn(picture, links=False, css=style(picture)) + "\n"


def drawn(picture: Picture, links: bool, css: str | None) -> Markup:
    """The SVG; with ``links`` each box leads to its anchor. Without ``css`` its page must have the style."""
    grid, bands = rows.in_rows(picture)
    trunks = rows.trunks(picture, grid)
    sizes = {name: size(box) for name, box in picture.boxes.items()}
    x = across.middles(grid, trunks, {name: width for name, (width, _) in sizes.items()})
    half = {key: sizes[key][0] / 2 if isinstance(key, str) else 0.0 for key in x}
    shift = MARGIN + GUTTER + BAND_PADDING / 2 - min((x[key] - half[key] for key in x), default=0)
    x = {key: middle + shift for key, middle in x.items()}
    legend, legend_right = _legend(picture)
    right = max((x[key] + half[key] for key in x), default=0)
    width = round(max(right + BAND_PADDING / 2 + MARGIN, legend_right, MARGIN + GUTTER))

    top, bottom, shades, y = {}, {}, [], MARGIN + 36.0
    for label, first, last in bands:
        band_top, y = y, y + BAND_PADDING
        for number in range(first, last + 1):
            top[number] = y
            bottom[number] = y + max(sizes[name][1] for name in grid[number])
            y = bottom[number] + ROW_GAP
        y = max(y + BAND_PADDING - ROW_GAP, band_top + 9 * columns(label) + 16)
        shades.append({"label": label, "y": band_top, "height": y - band_top, "middle": (band_top + y) / 2})
        y += BAND_GAP
    height = round(y + MARGIN - (BAND_GAP if bands else 0))

    middle = {name: (top[number] + bottom[number]) / 2 for number, row in enumerate(grid) for name in row}
    edges = []
    for a, b in picture.edges:
        stops = [(x[a], middle[a] + sizes[a][1] / 2)] * 2
        for point in trunks[a, b]:
            stops += [(x[point], top[point[1]]), (x[point], bottom[point[1]])]
        stops.append((x[b], middle[b] - sizes[b][1] / 2 - ARROW + 2))
        edges.append({"start": picture.boxes[a], "end": picture.boxes[b], "path": _path(stops)})
    return Markup(
        environment()
        .get_template("dataflow.svg.j2")
        .render(
            title=f"Dataflow of {count(len(picture.boxes), 'node')} in {count(len(picture.modules), 'module')}",
            css=None if css is None else Markup(css),  # made of constants
            links=links,
            width=width,
            height=height,
            band_left=MARGIN,
            band_width=width - 2 * MARGIN,
            legend=legend,
            bands=shades,
            edges=edges,
            boxes=[_placed(box, x[name], middle[name]) for name, box in picture.boxes.items()],
            colour={module: colour(number) for number, module in enumerate(picture.modules)},
            arrow=ARROW,
        )
    )


def style(picture: Picture) -> str:
    """The style of the SVG: nothing of the dataflow is in it but the number of boxes."""
    css = environment().get_template("dataflow.css.j2")
    return css.render(light=LIGHT, dark=DARK, mixed=mixed, boxes=range(len(picture.boxes)))


def size(box: Box) -> tuple[float, float]:
    """Width and height of a box."""
    text = max(CHARACTER * max(map(columns, box.lines)), SMALL_CHARACTER * columns(box.note))
    return text + 2 * BOX_PADDING, LINE_HEIGHT * (len(box.lines) + 1) + 10.0


def environment() -> Environment:
    """Templates that escape whatever they are given, and write lengths with one digit after the point."""
    environment = Environment(
        loader=PackageLoader("seqtune.picture"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["px"] = _px
    return environment


def _px(length: float) -> str:
    return f"{length:.1f}".removesuffix(".0")


def _path(stops: Iterable[tuple[float, float]]) -> str:
    """Through the stops: curves that start and end upright in the gaps between rows, straight past the rows."""
    (x, y), *others = stops
    return f"M{_px(x)} {_px(y)}" + "".join(_parts(x, y, others))


def _parts(x: float, y: float, stops: Iterable[tuple[float, float]]) -> Iterator[str]:
    for number, (to_x, to_y) in enumerate(stops):
        if number % 2 == 0:  # past a row; at first, past nothing
            if to_y != y:
                yield f"V{_px(to_y)}"
        elif abs(to_x - x) < 0.05:
            yield f"V{_px(to_y)}"
        else:
            half = _px((y + to_y) / 2)
            yield f"C{_px(x)} {half} {_px(to_x)} {half} {_px(to_x)} {_px(to_y)}"
        x, y = to_x, to_y


def _placed(box: Box, x: float, y: float) -> dict[str, Any]:
    """What the template needs of a box whose middle is at ``x``, ``y``."""
    width, height = size(box)
    left, top = x - width / 2, y - height / 2
    texts = [*((line, "name", CHARACTER) for line in box.lines), (box.note, "note", SMALL_CHARACTER)]
    inputs = f"inputs: {', '.join(box.inputs)}" if box.inputs else ""
    return {
        "box": box,
        "x": x,
        "left": left,
        "top": top,
        "width": width,
        "height": height,
        "tooltip": "\n".join(line for line in (f"{box.name}: {box.type}", box.what, inputs) if line),
        "texts": [
            {"text": text, "kind": kind, "y": top + 19 + LINE_HEIGHT * number, "width": character * columns(text)}
            for number, (text, kind, character) in enumerate(texts)
        ],
    }


def _legend(picture: Picture) -> tuple[list[dict[str, Any]], float]:
    """Each module with its place in the line above the picture, and where that line ends."""
    entries, x = [], float(MARGIN)
    for module, boxes in picture.modules.items():
        text = f"{module} ({len(boxes)})"
        entries.append({"module": module, "text": text, "x": x, "y": MARGIN + 12})
        x += 20 + round(7.5 * columns(text)) + 24
    return entries, x
