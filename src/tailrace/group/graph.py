"""The graph of a group, as data and as text: stages, channels, and which way values flow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter

from tailrace.group.svg import draw


@dataclass(frozen=True, slots=True)
class StageNode:
    """One `go` call: its name and how many actors it has."""

    name: str
    actors: int


@dataclass(frozen=True, slots=True)
class ChannelNode:
    """One channel: its name and its capacity."""

    name: str
    capacity: float

    @property
    def bound(self) -> str:
        """The capacity as text."""
        return "∞" if self.capacity == math.inf else str(self.capacity)


@dataclass(frozen=True, slots=True)
class Edge:
    """Values flow from `source` to `target`. Both are names; one is a stage, one a channel."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Stages and channels with the edges between them. ``str()`` gives Mermaid text.

    `cycles` names the stages and channels that feed themselves. These channels never close by
    ownership.
    """

    stages: tuple[StageNode, ...]
    channels: tuple[ChannelNode, ...]
    edges: tuple[Edge, ...]

    @property
    def cycles(self) -> frozenset[str]:
        """The names of stages and channels that are on a cycle."""
        after, before = self._after(), self._before()
        names: set[str] = set()
        for number in _returning(self._order(), self.edges):  # each cycle has such an edge
            source = self.edges[number].source
            if source not in names:
                names |= _reach(after, [source]) & _reach(before, [source])
        return frozenset(names)

    def downstream(self, names: Iterable[str]) -> set[str]:
        """The names of all that values from `names` can reach."""
        return _reach(self._after(), names)

    def upstream(self, names: Iterable[str]) -> set[str]:
        """The names of all whose values can reach `names`."""
        return _reach(self._before(), names)

    def _after(self) -> dict[str, list[str]]:
        return _by_first((edge.source, edge.target) for edge in self.edges)

    def _before(self) -> dict[str, list[str]]:
        return _by_first((edge.target, edge.source) for edge in self.edges)

    def _order(self) -> dict[str, int]:
        nodes: tuple[StageNode | ChannelNode, ...] = (*self.stages, *self.channels)
        return {node.name: index for index, node in enumerate(nodes)}

    def layers(self) -> list[list[str]]:
        """The names in order of flow. Names in one layer do not depend on each other.

        Edges that lead back, on a cycle, are ignored.
        """
        order = self._order()
        returning = _returning(order, self.edges)
        sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(order, ()))
        for number, edge in enumerate(self.edges):
            if number not in returning:
                sorter.add(edge.target, edge.source)
        sorter.prepare()
        layers: list[list[str]] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=order.__getitem__)
            layers.append(ready)
            sorter.done(*ready)
        return layers

    def mermaid(self) -> str:
        """The graph in Mermaid's flowchart language."""
        ids = {name: f"n{index}" for name, index in self._order().items()}
        stages, channels = self._texts()
        lines = ["flowchart LR"]
        lines += [f'    {ids[name]}["{_escape(text)}"]' for name, text in stages.items()]
        lines += [f'    {ids[name]}(["{_escape(text)}"])' for name, text in channels.items()]
        cycles = self.cycles
        for edge in self.edges:
            returning = edge.source in cycles and edge.target in cycles
            arrow = "-.->" if returning else "-->"
            lines.append(f"    {ids[edge.source]} {arrow} {ids[edge.target]}")
        return "\n".join(lines)

    def svg(self) -> str:
        """The graph as an SVG document, without references to other files."""
        edges = [(edge.source, edge.target) for edge in self.edges]
        return draw(*self._texts(), edges, self.layers())

    def _texts(self) -> tuple[dict[str, str], dict[str, str]]:
        """The texts in a picture: by name of a stage, and by name of a channel."""
        stages = {s.name: s.name + (f" × {s.actors}" if s.actors > 1 else "") for s in self.stages}
        channels = {c.name: c.name + (f" ({c.bound})" if c.capacity else "") for c in self.channels}
        return stages, channels

    def __str__(self) -> str:
        return self.mermaid()


def _by_first(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for first, second in pairs:
        found.setdefault(first, []).append(second)
    return found


def _reach(after: Mapping[str, list[str]], start: Iterable[str]) -> set[str]:
    reached: set[str] = set()
    pending = list(start)
    while pending:
        for name in after.get(pending.pop(), ()):
            if name not in reached:
                reached.add(name)
                pending.append(name)
    return reached


def _successors(names: Iterable[str], edges: tuple[Edge, ...]) -> dict[str, list[tuple[str, int]]]:
    """By name: the targets of its edges, with the numbers of the edges."""
    successors: dict[str, list[tuple[str, int]]] = {name: [] for name in names}
    for number, edge in enumerate(edges):
        successors.setdefault(edge.source, []).append((edge.target, number))
        successors.setdefault(edge.target, [])
    return successors


def _returning(order: Mapping[str, int], edges: tuple[Edge, ...]) -> set[int]:
    """The numbers of edges without which there is no cycle.

    A depth-first search follows each edge once. When an edge closes a cycle, the edge of the cycle
    that leads furthest back is left out, and the search goes on from the source of that edge.
    """
    successors = _successors(order, edges)
    returning: set[int] = set()
    seen: set[str] = set()
    for root in order:
        if root in seen:
            continue
        seen.add(root)
        path = [root]
        place = {root: 0}
        rests = [iter(successors[root])]
        while path:
            for target, number in rests[-1]:
                if number in returning:
                    continue
                if target not in seen:
                    seen.add(target)
                    place[target] = len(path)
                    path.append(target)
                    rests.append(iter(successors[target]))
                    break
                while target in place and number not in returning:
                    cycle = path[place[target] :]
                    last = _last_edge(cycle, successors, returning, order)
                    returning.add(last)
                    back = place[edges[last].source] + 1
                    # Unless that edge is a shortcut: then this is still a cycle.
                    if last != number and edges[last].target == (path[back:] or [""])[0]:
                        for name in path[back:]:
                            seen.discard(name)
                            del place[name]
                        del path[back:], rests[back:]
                        break
                else:
                    continue
                break
            else:
                del place[path.pop()]
                rests.pop()
    return returning


def _last_edge(
    cycle: list[str],
    successors: Mapping[str, list[tuple[str, int]]],
    returning: set[int],
    order: Mapping[str, int],
) -> int:
    """The edge in `cycle` that leads furthest back, in order of declaration."""
    within = set(cycle)
    edges = (
        (order[source] - order[target], -number)
        for source in cycle
        for target, number in successors[source]
        if target in within and number not in returning
    )
    return -max(edges)[1]


def _escape(text: str) -> str:
    """Escape text for a quoted label: Mermaid's entities begin with ``#``, so that comes first."""
    text = text.replace("#", "#35;")
    for letter, entity in ("&", "amp"), ('"', "quot"), ("<", "lt"), (">", "gt"), ("`", "96"):
        text = text.replace(letter, f"#{entity};")
    return " ".join(text.split())  # in one line
