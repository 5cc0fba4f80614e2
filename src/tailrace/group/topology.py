"""The topology of a group: the names of its stages and channels, and which feed which.

A stage is added before it starts. After its end its name and its links stay, so that the graph
keeps its shape; the objects that the stage used are not kept alive. Numbered stages (``handle-2``:
one of many with the same function) are forgotten when they end. Links are worked out when they are
first needed, which for most of such stages is never.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from tailrace._core import End, Hold, kind_of, label
from tailrace.channel import Channel
from tailrace.group.graph import ChannelNode, Edge, Graph, StageNode


class Link(NamedTuple):
    """An end of a channel that a stage holds: the channel by its label."""

    channel: str
    capacity: float
    end: End


class Topology:
    """The names and links of a group's stages and channels."""

    def __init__(self) -> None:
        self._new: dict[str, tuple[Hold, ...]] = {}  # by stage, if its links are not worked out yet
        self._links: dict[str, tuple[Link, ...]] = {}  # by stage
        self._sizes: dict[str, int] = {}  # by stage that has ended: how many actors it had
        self._used: dict[str, int] = {}  # by name: the ordinal of its last stage
        self._numbers: dict[str, int] = {}  # by name: the number of its last channel
        self._labels: WeakKeyDictionary[Channel[Any], str] = WeakKeyDictionary()
        self._linked: dict[str, int] = {}  # by label of a channel: its links
        self._feeders: dict[str, dict[str, None]] = {}  # by label: the live stages that send

    def __repr__(self) -> str:
        self._work_out()
        return f"<Topology of {len(self._links)} stages and {len(self._linked)} channels>"

    def name_for(self, name: str, *, given: bool) -> tuple[str, int]:
        """A free name for a new stage called `name`, and its ordinal among those.

        ValueError if the name was `given` by the user and is taken.
        """
        if given and self._knows(name):
            raise ValueError(f"this group has a stage named {name!r} already; choose another name")
        ordinal = self._used.get(name, 0) + 1
        while self._knows(unique := name if ordinal == 1 else f"{name}-{ordinal}"):
            ordinal += 1
        return unique, ordinal

    def _knows(self, stage: str) -> bool:
        return stage in self._new or stage in self._links

    def add(self, stage: str, called: str, ordinal: int, holds: tuple[Hold, ...]) -> None:
        """Add a stage, under the name and ordinal that `name_for` gave for the name `called`."""
        self._used[called] = ordinal
        self._new[stage] = holds

    def _work_out(self) -> None:
        """Work out the links of new stages, in the order in which they were added."""
        added, self._new = self._new, {}
        for stage, holds in added.items():
            self._link(stage, holds)

    def _link(self, stage: str, holds: Iterable[Hold]) -> None:
        links: dict[Link, None] = {}
        for channel, end, _ in holds:
            link = Link(self._label(channel), channel.capacity, end)
            if link not in links:
                links[link] = None  # before the next channel gets a name
                self._linked[link.channel] = self._linked.get(link.channel, 0) + 1
                if link.end == "send":
                    self._feeders.setdefault(link.channel, {})[stage] = None
        self._links[stage] = tuple(links)

    def ended(self, stage: str, actors: int, holds: Iterable[Hold], *, forget: bool) -> None:
        """A stage with so many actors has ended: `forget` it, or keep it for the graph."""
        if self._new.pop(stage, None) is not None:
            if forget:
                return
            self._link(stage, holds)
        for link in self._links[stage]:
            if link.end == "send":
                feeders = self._feeders[link.channel]
                del feeders[stage]
                if not feeders:
                    del self._feeders[link.channel]
        if not forget:
            self._sizes[stage] = actors
            return
        gone: set[str] = set()
        for link in self._links.pop(stage):
            self._linked[link.channel] -= 1
            if not self._linked[link.channel]:
                del self._linked[link.channel]
                gone.add(link.channel)
        for channel, _, _ in holds:
            if self._labels.get(channel) in gone:
                del self._labels[channel]

    def label(self, channel: Channel[Any]) -> str:
        """The name of a channel in this group: unique, also for channels of one name or of none."""
        self._work_out()
        return self._label(channel)

    def label_if_known(self, channel: Channel[Any]) -> str:
        """The name of a channel in this group if a stage holds it, else its general one.

        A channel that no stage holds must not use up a name of this group.
        """
        self._work_out()
        return self._labels.get(channel) or label(channel)

    def _label(self, channel: Channel[Any]) -> str:
        known = self._labels.get(channel)
        if known is None:
            name = known = channel.name or kind_of(channel)
            number = self._numbers.get(name, 1)
            while known in self._linked:
                number += 1
                known = f"{name} ({number})"
            self._numbers[name] = number  # where the search for the next free one begins
            self._labels[channel] = known
        return known

    def feeding(self, channel: Channel[Any]) -> set[str]:
        """The live stages whose values can reach `channel`."""
        found: set[str] = set()
        pending = [self.label(channel)]
        while pending:
            for stage in self._feeders.get(pending.pop(), ()):
                if stage not in found:
                    found.add(stage)
                    pending += [
                        link.channel for link in self._links[stage] if link.end == "receive"
                    ]
        return found

    def graph(self, live: Mapping[str, int]) -> Graph:
        """The whole graph. `live` has the number of actors of the live stages."""
        self._work_out()
        sizes = {**self._sizes, **live}
        channels: dict[str, ChannelNode] = {}
        edges: dict[Edge, None] = {}
        for stage, links in self._links.items():
            for link in links:
                # A channel may have the name of a stage, but not in the graph.
                name = f"{link.channel} (channel)" if link.channel in self._links else link.channel
                channels.setdefault(name, ChannelNode(name, link.capacity))
                edges[Edge(stage, name) if link.end == "send" else Edge(name, stage)] = None
        stages = tuple(StageNode(stage, sizes.get(stage, 1)) for stage in self._links)
        return Graph(stages, tuple(channels.values()), tuple(edges))
