"""What a group is made of, by names that are unique in it: stages, channels, who feeds whom.

A stage is known here from before it starts; by its name and its links alone it stays known after
it has ended, so that the graph keeps its shape and nothing that the stage used is kept alive.
Numbered stages (``handle-2``: one of many of a function) are forgotten when they end. Who feeds
whom is worked out when somebody asks: of most of such stages nobody does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from tailrace._core import End, Hold, kind_of, label
from tailrace.channel import Channel
from tailrace.group.graph import ChannelNode, Edge, Graph, StageNode


class Link(NamedTuple):
    """One end of one channel, as a stage holds it, in words."""

    channel: str
    capacity: float
    end: End


class Topology:
    """The names of a group, given out and remembered."""

    def __init__(self) -> None:
        self._new: dict[str, tuple[Hold, ...]] = {}  # stages whose links are not worked out yet
        self._links: dict[str, tuple[Link, ...]] = {}  # by stage
        self._sizes: dict[str, int] = {}  # how many actors a stage had when last told
        self._used: dict[str, int] = {}  # how many stages of a name there have been
        self._numbers: dict[str, int] = {}
        self._labels: WeakKeyDictionary[Channel[Any], str] = WeakKeyDictionary()
        self._linked: dict[str, int] = {}  # how many known links a channel has, by label
        self._feeders: dict[str, dict[str, None]] = {}  # live stages that send, by channel

    def __repr__(self) -> str:
        self._work_out()
        return f"<Topology of {len(self._links)} stages and {len(self._linked)} channels>"

    def name_for(self, name: str, *, given: bool) -> tuple[str, int]:
        """A free name for the next stage called `name`, and the how-manieth of those it is.

        ValueError if the name was `given` and is taken.
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
        """Know a stage, under the name that `name_for` gave for what it is `called`."""
        self._used[called] = ordinal
        self._new[stage] = holds

    def _work_out(self) -> None:
        """Link the stages that are new, in the order in which they were added."""
        added, self._new = self._new, {}
        for stage, holds in added.items():
            self._link(stage, holds)

    def _link(self, stage: str, holds: Iterable[Hold]) -> None:
        links: dict[Link, None] = {}
        for channel, end, _ in holds:
            link = Link(self._label(channel), channel.capacity, end)
            if link not in links:
                links[link] = None  # known before the next channel is given a name
                self._linked[link.channel] = self._linked.get(link.channel, 0) + 1
                if link.end == "send":
                    self._feeders.setdefault(link.channel, {})[stage] = None
        self._links[stage] = tuple(links)

    def ended(self, stage: str, actors: int, holds: Iterable[Hold], *, forget: bool) -> None:
        """The stage has ended, with so many actors; `forget` it, or keep its place."""
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
        """What the channel is called here: two of one name, or of none, stay two."""
        self._work_out()
        return self._label(channel)

    def label_if_known(self, channel: Channel[Any]) -> str:
        """The same for a channel that a stage holds; another keeps the name that it has anywhere:
        it must not take one that is given out here."""
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
            self._numbers[name] = number  # where to look for the next free one
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
        """All that is known; `live` has the number of actors of the stages that live."""
        self._work_out()
        sizes = {**self._sizes, **live}
        channels: dict[str, ChannelNode] = {}
        edges: dict[Edge, None] = {}
        for stage, links in self._links.items():
            for link in links:
                # A channel may be called as a stage is, but not in the graph.
                name = f"{link.channel} (channel)" if link.channel in self._links else link.channel
                channels.setdefault(name, ChannelNode(name, link.capacity))
                edges[Edge(stage, name) if link.end == "send" else Edge(name, stage)] = None
        stages = tuple(StageNode(stage, sizes.get(stage, 1)) for stage in self._links)
        return Graph(stages, tuple(channels.values()), tuple(edges))
