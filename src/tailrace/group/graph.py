"""The topology of a group: stages, channels, and which way values flow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from tailrace.group.svg import draw


@dataclass(frozen=True, slots=True)
class StageNode:
    """One `go` call: its name and how many actors it has."""

    name: str
    actors: int


@dataclass(frozen=True, slots=True)
class ChannelNode:
    """One channel: its name and how many values it holds at most."""

    name: str
    capacity: float

    @property
    def bound(self) -> str:
        """The capacity as text."""
        return "∞" if self.capacity == math.inf else str(self.capacity)


@dataclass(frozen=True, slots=True)
class Edge:
    """Values flow from `source` to `target`: a stage and a channel, by name."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Stages and channels with the edges between them; ``str()`` is its Mermaid text.

    `cycles` names the stages and channels that feed themselves: those never close by ownership.
    """

    stages: tuple[StageNode, ...]
    channels: tuple[ChannelNode, ...]
    edges: tuple[Edge, ...]

    @property
    def cycles(self) -> frozenset[str]:
        """The names on some cycle."""
        return frozenset(name for name in self._names() if name in self.downstream([name]))

    def downstream(self, names: Iterable[str]) -> set[str]:
        """Everything that values from `names` can reach."""
        return _reach([(edge.source, edge.target) for edge in self.edges], names)

    def upstream(self, names: Iterable[str]) -> set[str]:
        """Everything whose values can reach `names`."""
        return _reach([(edge.target, edge.source) for edge in self.edges], names)

    def _names(self) -> list[str]:
        return [stage.name for stage in self.stages] + [channel.name for channel in self.channels]

    def layers(self) -> list[list[str]]:
        """Names in order of flow, those side by side that do not depend on each other.

        What is on a cycle stands as if its returning edges were not there.
        """
        order = {name: index for index, name in enumerate(self._names())}
        kept = list(self.edges)
        while True:
            sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(order, ()))
            for edge in kept:
                sorter.add(edge.target, edge.source)
            try:
                sorter.prepare()
            except CycleError as error:
                cycle: list[str] = error.args[1]
                kept.remove(_last_edge(kept, cycle, order))
                continue
            break
        layers: list[list[str]] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=order.__getitem__)
            layers.append(ready)
            sorter.done(*ready)
        return layers

    def mermaid(self) -> str:
        """The graph in Mermaid's flowchart language, which many renderers draw."""
        ids = {name: f"n{index}" for index, name in enumerate(self._names())}
        lines = ["flowchart LR"]
        for stage in self.stages:
            times = f" × {stage.actors}" if stage.actors > 1 else ""
            lines.append(f'    {ids[stage.name]}["{_escape(stage.name)}{times}"]')
        for channel in self.channels:
            bound = f" ({channel.bound})" if channel.capacity else ""
            lines.append(f'    {ids[channel.name]}(["{_escape(channel.name)}{bound}"])')
        cycles = self.cycles
        for edge in self.edges:
            returning = edge.source in cycles and edge.target in cycles
            arrow = "-.->" if returning else "-->"
            lines.append(f"    {ids[edge.source]} {arrow} {ids[edge.target]}")
        return "\n".join(lines)

    def svg(self) -> str:
        """The graph as an SVG picture, complete in itself."""
        return draw(self)

    def __str__(self) -> str:
        return self.mermaid()


def _reach(steps: list[tuple[str, str]], start: Iterable[str]) -> set[str]:
    reached: set[str] = set()
    pending = set(start)
    while pending:
        pending = {after for before, after in steps if before in pending} - reached
        reached |= pending
    return reached


def _last_edge(edges: list[Edge], cycle: list[str], order: dict[str, int]) -> Edge:
    """Of the edges on `cycle`, the one that leads furthest back in order of declaration."""
    on_cycle = [edge for edge in edges if edge.source in cycle and edge.target in cycle]
    return max(on_cycle, key=lambda edge: order[edge.source] - order[edge.target])


def _escape(text: str) -> str:
    """For a quoted label: in Mermaid's own entities, whose sign is itself one to be escaped."""
    text = text.replace("#", "#35;")
    for letter, entity in ("&", "amp"), ('"', "quot"), ("<", "lt"), (">", "gt"), ("`", "96"):
        text = text.replace(letter, f"#{entity};")
    return " ".join(text.split())  # in one line
