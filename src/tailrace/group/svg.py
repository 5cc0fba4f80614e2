"""An SVG picture of a graph. Layers are columns from left to right, stages boxes, channels pills.

An edge that skips a column has a row of its own there, so that it passes behind no box. An edge
that leads back runs below the boxes, dashed. All text from outside is escaped.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final, TypeAlias

Step: TypeAlias = tuple[str, str]  # an edge: from where to where
Slot: TypeAlias = str | tuple[Step, int]  # a node, or where an edge passes through a column

LETTER: Final = 8.0  # pixels, in the monospaced font below
HEIGHT: Final = 32.0
GAP: Final = 20.0
STYLE: Final = (
    "text{font:13px ui-monospace,Consolas,'DejaVu Sans Mono',monospace;text-anchor:middle;"
    "dominant-baseline:central;fill:#1a2733}.stage{fill:#dcebf7;stroke:#3d6f94}"
    ".channel{fill:#fff;stroke:#7a8a99}path{fill:none;stroke:#51606e;stroke-width:1.3}"
    ".back{stroke-dasharray:5 4}#to path{fill:#51606e;stroke:none}"
)
ARROW: Final = (
    '<defs><marker id="to" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
)


def draw(
    stages: Mapping[str, str],
    channels: Mapping[str, str],
    edges: Sequence[Step],
    layers: Iterable[Iterable[str]],
) -> str:
    """The SVG document. `stages` and `channels` map names to texts; edges and layers are names."""
    texts = {**stages, **channels}
    columns: list[list[Slot]] = [list(layer) for layer in layers]
    place = {name: at for at, column in enumerate(columns) for name in column}
    chains: list[list[Slot]] = []
    for edge in edges:
        source, target = edge
        through = range(place[source] + 1, place[target])
        chains.append([source, *((edge, at) for at in through), target])
        for at in through:
            columns[at].append((edge, at))
    feeders: dict[Slot, list[Slot]] = {}
    for chain in chains:
        for before, slot in itertools.pairwise(chain):
            feeders.setdefault(slot, []).append(before)
    tallest = max(map(len, columns), default=0) * (HEIGHT + GAP)
    boxes: dict[Slot, tuple[float, float, float]] = {}  # left, middle, right
    x = GAP
    for column in columns:
        column.sort(key=lambda slot: _middle(feeders.get(slot, ()), boxes))
        widths = {slot: _width(texts[slot]) if isinstance(slot, str) else 0.0 for slot in column}
        widest = max(widths.values())
        for row, slot in enumerate(column):
            inset = (widest - widths[slot]) / 2 if widths[slot] else 0.0
            middle = GAP / 2 + tallest * (row + 0.5) / len(column)
            boxes[slot] = x + inset, middle, x + widest - inset
        x += widest + 2 * GAP
    paths = [_path([boxes[slot] for slot in chain], tallest) for chain in chains]
    width, height = max(x - GAP, 2 * GAP), tallest + GAP
    if any("back" in path for path in paths):
        height += GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="stages and channels">'
        f"<style>{STYLE}</style>"
    )
    nodes = [_node(text, name in stages, *boxes[name]) for name, text in texts.items()]
    return "\n".join([head, ARROW, *paths, *nodes, "</svg>"])


def _middle(before: Iterable[Slot], boxes: dict[Slot, tuple[float, float, float]]) -> float:
    """The mean height of the slots that lead to a slot. Sorted by it, few lines cross."""
    heights = [boxes[feeder][1] for feeder in before if feeder in boxes]
    return sum(heights) / len(heights) if heights else 0.0


def _path(points: list[tuple[float, float, float]], bottom: float) -> str:
    """A line through all points. Each is a left edge, a middle and a right edge."""
    (left, y, right), *rest = points
    if rest[0][0] > right:
        path = f"M{right:g} {y:g}"
        for to_left, to_y, to_right in rest:
            bend = (to_left - right) / 2
            path += f"C{right + bend:g} {y:g} {to_left - bend:g} {to_y:g} {to_left:g} {to_y:g}"
            y, right = to_y, to_right
            if rest[-1] != (to_left, to_y, to_right):
                path += f"H{to_right:g}"
        return f'<path d="{path}" marker-end="url(#to)"/>'
    to_left, to_y, to_right = rest[-1]
    start, end, below = (left + right) / 2, (to_left + to_right) / 2, bottom + 2 * GAP
    path = f"M{start:g} {y + HEIGHT / 2:g}C{start:g} {below:g} {end:g} {below:g} {end:g} "
    return f'<path class="back" d="{path}{to_y + HEIGHT / 2:g}" marker-end="url(#to)"/>'


def _node(text: str, stage: bool, left: float, middle: float, right: float) -> str:
    kind, corner = ("stage", 4) if stage else ("channel", HEIGHT / 2)
    return (
        f'<rect class="{kind}" x="{left:g}" y="{middle - HEIGHT / 2:g}" width="{right - left:g}" '
        f'height="{HEIGHT:g}" rx="{corner:g}"/>'
        f'<text x="{(left + right) / 2:g}" y="{middle:g}">{escape(text)}</text>'
    )


def _width(text: str) -> float:
    """The width of a box for a text. East Asian letters take two columns."""
    letters = sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
    return letters * LETTER + 24
