"""Draw the pictures of the documents: each docs/pictures/*.txt becomes an SVG beside it.

A text has a line for each thing: `title TEXT`, `area NAME COLUMN ROW WIDTH HEIGHT TEXT`, `box NAME COLUMN ROW TEXT`,
`arrow FROM TO TEXT` and `rise FROM TO TEXT`; a bar divides the lines of a text, and an arrow goes straight or round one
corner. Places are cells of a grid. The SVG follows the reader's light or dark scheme.
"""

import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

__all__ = ["draw"]

CELL_WIDTH: Final = 244
CELL_HEIGHT: Final = 110
BOX_WIDTH: Final = 164
BOX_HEIGHT: Final = 62
MARGIN: Final = 20
TITLE_HEIGHT: Final = 34
LINE_HEIGHT: Final = 15
STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #1b2733; text-anchor: middle; }
.title { font-weight: 600; font-size: 16px; text-anchor: start; }
.first { font-weight: 600; }
.small { font-size: 11px; fill: #51606f; }
.left { text-anchor: start; }
.box { fill: #ffffff; stroke: #3b6ea5; stroke-width: 1.5; }
.area { fill: #eef3f8; stroke: #c3d0dc; }
.arrow { fill: none; stroke: #51606f; stroke-width: 1.5; marker-end: url(#tip); }
#tip path { fill: #51606f; }
.ground { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4ebf2; }
  .small { fill: #a9b7c4; }
  .box { fill: #1d2a36; stroke: #6fa3d8; }
  .area { fill: #141e27; stroke: #33475a; }
  .arrow { stroke: #a9b7c4; }
  #tip path { fill: #a9b7c4; }
  .ground { fill: #0e161d; }
}
"""


@dataclass(frozen=True, slots=True)
class Box:
    """A box by its centre, in pixels."""

    x: float
    y: float
    lines: list[str]


def draw(text: str) -> str:
    """Return the SVG of a picture.

    Raises:
        ValueError: a line is none of the four kinds, or an arrow leads to no box.
    """
    boxes: dict[str, Box] = {}
    areas, arrows, title = [], [], ""
    right = bottom = 0.0
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if not line.strip() or kind == "#":
            continue
        if kind == "title":
            title = rest
        elif kind == "area":
            _, column, row, width, height, label = rest.split(" ", 5)
            areas.append(_area(float(column), float(row), float(width), float(height), label))
            right, bottom = max(right, float(column) + float(width)), max(bottom, float(row) + float(height))
        elif kind == "box":
            name, column, row, label = rest.split(" ", 3)
            boxes[name] = Box(*_centre(float(column), float(row)), label.split("|"))
            right, bottom = max(right, float(column) + 1), max(bottom, float(row) + 1)
        elif kind in {"arrow", "rise"}:
            start, end, *label = rest.split(" ", 2)
            arrows.append(_arrow(boxes[start], boxes[end], "".join(label), rises=kind == "rise"))
        else:
            raise ValueError(f"{line!r} is no title, area, box or arrow")
    width, height = 2 * MARGIN + right * CELL_WIDTH, 2 * MARGIN + TITLE_HEIGHT + bottom * CELL_HEIGHT
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
            f' height="{height:g}" role="img" aria-label="{escape(title)}">'
        ),
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0 8 4 0 8z"/></marker></defs>'
        ),
        f'<rect class="ground" width="{width:g}" height="{height:g}"/>',
        f'<text class="title" x="{MARGIN}" y="{MARGIN + 12}">{escape(title)}</text>',
        *areas,
        *arrows,
        *map(_box, boxes.values()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _centre(column: float, row: float) -> tuple[float, float]:
    return MARGIN + (column + 0.5) * CELL_WIDTH, MARGIN + TITLE_HEIGHT + (row + 0.5) * CELL_HEIGHT


def _area(column: float, row: float, width: float, height: float, label: str) -> str:
    x, y = MARGIN + column * CELL_WIDTH + 4, MARGIN + TITLE_HEIGHT + row * CELL_HEIGHT + 4
    return (
        f'<rect class="area" x="{x:g}" y="{y:g}" width="{width * CELL_WIDTH - 8:g}"'
        f' height="{height * CELL_HEIGHT - 8:g}" rx="8"/>'
        f'<text class="small left" x="{x + 10:g}" y="{y + 16:g}">{escape(label)}</text>'
    )


def _box(box: Box) -> str:
    top = box.y - (len(box.lines) - 1) * LINE_HEIGHT / 2 + 4
    lines = "".join(
        f'<text class="{"small" if number else "first"}" x="{box.x:g}" y="{top + number * LINE_HEIGHT:g}">'
        f"{escape(line.strip())}</text>"
        for number, line in enumerate(box.lines)
    )
    return (
        f'<rect class="box" x="{box.x - BOX_WIDTH / 2:g}" y="{box.y - BOX_HEIGHT / 2:g}" width="{BOX_WIDTH}"'
        f' height="{BOX_HEIGHT}" rx="6"/>{lines}'
    )


def _arrow(start: Box, end: Box, label: str, *, rises: bool) -> str:
    """Draw from side to side, or from top to bottom; with both apart, along first, or up and down first if it rises."""
    across, down = end.x - start.x, end.y - start.y
    if abs(down) < 1:
        side = BOX_WIDTH / 2 if across > 0 else -BOX_WIDTH / 2
        points = [(start.x + side, start.y), (end.x - side, end.y)]
    elif abs(across) < 1:
        side = BOX_HEIGHT / 2 if down > 0 else -BOX_HEIGHT / 2
        points = [(start.x, start.y + side), (end.x, end.y - side)]
    else:
        side, rise = (
            (BOX_WIDTH / 2 if across > 0 else -BOX_WIDTH / 2),
            (BOX_HEIGHT / 2 if down > 0 else -BOX_HEIGHT / 2),
        )
        points = [(start.x + side, start.y), (end.x, start.y), (end.x, end.y - rise)]
        if rises:
            points = [(start.x, start.y + rise), (start.x, end.y), (end.x - side, end.y)]
    path = " ".join(f"{x:g} {y:g}" for x, y in points)
    (x1, y1), (x2, y2) = points[0], points[1]
    is_upright = abs(x1 - x2) < 1
    lines = label.split("|") if label else []
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    if is_upright:
        style, x, y = "small left", x + 7, y - (len(lines) - 1) * LINE_HEIGHT / 2 + 4
    else:
        style, y = "small", y - 6 - (len(lines) - 1) * LINE_HEIGHT
    texts = "".join(
        f'<text class="{style}" x="{x:g}" y="{y + number * LINE_HEIGHT:g}">{escape(line.strip())}</text>'
        for number, line in enumerate(lines)
    )
    return f'<path class="arrow" d="M{path}"/>{texts}'


if __name__ == "__main__":
    for source in sorted((Path(__file__).parents[1] / "docs" / "pictures").glob("*.txt")):
        source.with_suffix(".svg").write_text(draw(source.read_text(encoding="utf-8")), encoding="utf-8")
        sys.stdout.write(f"{source.with_suffix('.svg').name}\n")
