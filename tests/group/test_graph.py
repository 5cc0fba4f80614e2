"""Group rule 8, further: names in the graph are never merged, and text never becomes markup."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import math
import re
import time
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from tailrace import Channel, Graph, Group, Receiver, Sender, collect, emit
from tailrace.group import ChannelNode, Edge, StageNode
from tailrace.group.svg import HEIGHT

pytestmark = pytest.mark.virtual_time


async def forward(inbox: Receiver[int], out: Sender[int]) -> None:
    async for value in inbox:
        await out.send(value)


async def test_two_channels_of_one_name_stay_two_in_the_graph_and_in_the_states() -> None:
    channels = [Channel[int](name="x"), Channel[int](name="x"), Channel[int](), Channel[int]()]
    async with Group() as go:
        for number, channel in enumerate(channels):
            go(collect, channel, name=f"c{number}")  # type: ignore[arg-type]  # it gives a list
        await asyncio.sleep(1)
        names = ["x", "x (2)", "Channel[int]", "Channel[int] (2)"]
        assert [channel.name for channel in go.graph().channels] == names
        assert [actor.state for actor in go.actors()] == [f"receiving from {n}" for n in names]
        go.cancel()


async def test_two_channels_of_no_name_in_one_stage_stay_two() -> None:
    a, b = Channel[int](), Channel[int]()
    async with Group() as go:
        go(forward, a, b)
        names = ["Channel[int]", "Channel[int] (2)"]
        assert [channel.name for channel in go.graph().channels] == names
        go.cancel()


async def test_the_warning_of_a_stop_names_those_that_feed_this_channel_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def one(inbox: Receiver[int]) -> None:
        await inbox.recv()

    mine, theirs = Channel[int](name="x"), Channel[int](name="x")
    with caplog.at_level(logging.WARNING, "tailrace"):
        async with Group() as go:
            go(emit(range(9)), mine, name="mine")
            go(emit(range(9)), theirs, name="theirs")
            go(one, mine)
            await asyncio.sleep(1)
            assert [record.getMessage() for record in caplog.records] == [
                "`one` returned while its inbox `x` was open; stopped `mine`"
            ]
            assert len(await collect(theirs)) == 9


async def test_the_warning_of_a_stop_names_who_feeds_a_channel_still(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def some(inbox: Receiver[int]) -> None:
        for _ in range(4):
            await inbox.recv()

    shared = Channel[int](name="x")
    with caplog.at_level(logging.WARNING, "tailrace"):
        async with Group() as go:
            go(emit([1]), shared, name="brief")
            go(emit(range(9)), shared, name="long")
            go.graph()  # its links are worked out before the first feeder ends
            go(some, shared)
    assert [record.getMessage() for record in caplog.records] == [
        "`some` returned while its inbox `x` was open; stopped `long`"
    ]


async def test_a_channel_called_as_a_stage_is_makes_no_cycle() -> None:
    a = Channel[int](1, name="emit")
    async with Group() as go:
        go(emit([1]), a)
        graph = go.graph()
        assert not graph.cycles
        assert graph.edges == (Edge("emit", "emit (channel)"),)


async def test_a_stage_stays_in_the_graph_after_it_has_ended_with_its_number_of_actors() -> None:
    a, b = Channel[int](1, name="a"), Channel[int](1, name="b")
    async with Group() as go:
        go(emit([1]), a)
        go(forward, a, b, actors=3)
        before = go.graph()
        assert await collect(b) == [1]
        assert go.graph() == before
    assert go.graph() == before


async def test_numbered_stages_and_the_channels_only_they_had_are_forgotten() -> None:
    async with Group() as go:
        for _ in range(5):
            go(emit([1]), Channel[int](1, name="a"))
            await asyncio.sleep(1)
        assert [stage.name for stage in go.graph().stages] == ["emit"]
        assert [channel.name for channel in go.graph().channels] == ["a"]


NASTY = '<b>"&`#35;\n]) --> ☆'


def nasty_graph() -> Graph:
    return Graph(
        (StageNode(NASTY, 2), StageNode("end", 1)),
        (ChannelNode("c" + NASTY, math.inf),),
        (Edge(NASTY, "c" + NASTY), Edge("c" + NASTY, "end")),
    )


def test_mermaid_keeps_any_name_inside_its_quotes() -> None:
    lines = nasty_graph().mermaid().splitlines()
    assert lines[1] == '    n0["#lt;b#gt;#quot;#amp;#96;#35;35; ]) --#gt; ☆ × 2"]'
    assert lines[3] == '    n2(["c#lt;b#gt;#quot;#amp;#96;#35;35; ]) --#gt; ☆ (∞)"])'
    assert lines[4:] == ["    n0 --> n2", "    n2 --> n1"]


def elements(graph: Graph, kind: str) -> list[ET.Element]:
    return ET.fromstring(graph.svg()).findall(f"{{http://www.w3.org/2000/svg}}{kind}")


def test_svg_has_a_box_and_a_text_for_each_node_and_a_path_for_each_edge() -> None:
    graph = nasty_graph()
    assert [text.text for text in elements(graph, "text")] == [
        f"{NASTY} × 2", "end", f"c{NASTY} (∞)"
    ]  # fmt: skip
    assert [box.get("class") for box in elements(graph, "rect")] == ["stage", "stage", "channel"]
    assert len(elements(graph, "path")) == 2
    assert len(elements(Graph((), (), ()), "rect")) == 0


def test_svg_draws_what_flows_on_to_the_right_and_what_flows_back_dashed() -> None:
    graph = Graph(
        (StageNode("crawl", 1), StageNode("store", 1)),
        (ChannelNode("todo", 0), ChannelNode("done", 0)),
        (
            Edge("todo", "crawl"),
            Edge("crawl", "todo"),
            Edge("crawl", "done"),
            Edge("done", "store"),
        ),
    )
    left = {
        text.text: float(box.get("x", ""))
        for text, box in zip(elements(graph, "text"), elements(graph, "rect"), strict=True)
    }
    assert left["crawl"] < left["done"] < left["store"]
    back = [path.get("class") == "back" for path in elements(graph, "path")]
    assert back == [left[edge.target] <= left[edge.source] for edge in graph.edges]
    assert sum(back) == 1
    (below,) = (
        float(path.get("d", "").split("C")[1].split()[1])
        for path in elements(graph, "path")
        if path.get("class") == "back"
    )
    assert below > max(float(box.get("y", "")) + HEIGHT for box in elements(graph, "rect"))


@pytest.mark.parametrize("value", [StageNode("a", 1), ChannelNode("a", 0), Edge("a", "b")])
def test_a_graph_and_its_parts_cannot_be_changed(value: Any) -> None:
    assert hash(Graph((), (), ())) == hash(Graph((), (), ()))
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, getattr(value, field.name))


def test_svg_gives_an_edge_that_skips_a_column_a_way_of_its_own() -> None:
    chain = ["a", "x", "b", "y", "c"]
    edges = [Edge(*pair) for pair in itertools.pairwise(chain)]
    graph = Graph(
        tuple(StageNode(name, 1) for name in "abc"),
        tuple(ChannelNode(name, 0) for name in "xy"),
        (*edges, Edge("x", "c")),
    )
    b_box = elements(graph, "rect")[1]
    top = float(b_box.get("y", ""))
    *_, skipping = (path.get("d", "") for path in elements(graph, "path"))
    passes_at = float(skipping.split("H")[0].split()[-1])
    assert not top <= passes_at <= top + float(b_box.get("height", ""))


def chain(stages: int, *back: Edge) -> Graph:
    edges = [
        edge
        for n in range(stages - 1)
        for edge in (Edge(f"s{n}", f"c{n}"), Edge(f"c{n}", f"s{n + 1}"))
    ]
    return Graph(
        tuple(StageNode(f"s{n}", 1) for n in range(stages)),
        tuple(ChannelNode(f"c{n}", 0) for n in range(stages - 1)),
        (*edges, *back),
    )


def test_svg_draws_all_inside_the_picture_and_each_edge_from_box_to_box() -> None:
    graph = chain(3, Edge("s0", "c1"), Edge("s2", "c0"), Edge("c1", "s0"))
    picture = ET.fromstring(graph.svg())
    across, down = (float(picture.get(side, "")) for side in ("width", "height"))
    boxes = {}
    for text, box in zip(elements(graph, "text"), elements(graph, "rect"), strict=True):
        x, y, width, height = (float(box.get(side, "")) for side in ("x", "y", "width", "height"))
        assert 0 <= x < x + width <= across
        assert 0 <= y < y + height <= down
        assert (text.get("x"), text.get("y")) == (f"{x + width / 2:g}", f"{y + height / 2:g}")
        boxes[text.text] = (x, y, x + width, y + height)
    for edge, path in zip(graph.edges, elements(graph, "path"), strict=True):
        points = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d", ""))]
        for name, (x, y) in ((edge.source, points[:2]), (edge.target, points[-2:])):
            left, top, right, bottom = boxes[name]
            assert left - 1 <= x <= right + 1
            assert top - 1 <= y <= bottom + 1
        if path.get("class") == "back":
            assert 0 <= min(points[::2]) <= max(points[::2]) <= across
            assert 0 <= min(points[1::2]) <= max(points[1::2]) <= down


def test_svg_leads_no_edge_that_flows_on_back_to_the_left() -> None:
    graph = chain(3, Edge("s0", "c1"), Edge("s0", "s2"))
    for path in elements(graph, "path"):
        steps = re.findall("([MCH])([^MCH]*)", path.get("d", ""))
        numbers = [(letter, [float(n) for n in given.split()]) for letter, given in steps]
        across = [x for letter, given in numbers for x in (given if letter == "H" else given[::2])]
        assert len(across) >= 4
        assert across == sorted(across)


@pytest.mark.parametrize("shape", ["chain", "ring", "hub"])
def test_a_graph_of_thousands_of_stages_is_drawn_in_a_moment(shape: str) -> None:
    n = 2000
    graph = chain(n) if shape == "chain" else chain(n, Edge(f"s{n - 1}", "c0"))
    if shape == "hub":
        there = (Edge("hub", f"s{i}") for i in range(n))
        back = (Edge(f"s{i}", "hub") for i in range(n))
        graph = Graph(graph.stages, (ChannelNode("hub", 0),), (*there, *back))
    started = time.process_time()
    assert len(graph.layers()) == {"chain": 2 * n - 1, "ring": 2 * n - 2, "hub": 2}[shape]
    assert len(graph.cycles) == {"chain": 0, "ring": 2 * n - 2, "hub": n + 1}[shape]
    assert graph.mermaid().count("\n") > 2 * n
    assert graph.svg().endswith("</svg>")
    assert graph.upstream([f"s{n - 1}"])
    assert time.process_time() - started < 10


def test_layers_stand_as_if_the_edges_that_lead_furthest_back_were_not_there() -> None:
    graph = Graph(
        tuple(StageNode(name, 1) for name in ("seed", "crawl", "parse", "keep")),
        tuple(ChannelNode(name, 0) for name in ("todo", "pages", "found")),
        tuple(
            Edge(*pair)
            for pair in (
                ("seed", "todo"), ("todo", "crawl"), ("crawl", "pages"), ("pages", "parse"),
                ("parse", "todo"), ("parse", "found"), ("found", "keep"), ("crawl", "todo"),
            )
        ),
    )  # fmt: skip
    assert graph.cycles == {"todo", "crawl", "pages", "parse"}
    arrows = [line.split()[1] for line in graph.mermaid().splitlines()[-len(graph.edges) :]]
    within = [{edge.source, edge.target} <= graph.cycles for edge in graph.edges]
    assert arrows == ["-.->" if each else "-->" for each in within]
    assert graph.layers() == [
        ["seed", "crawl"], ["pages"], ["parse"], ["todo", "found"], ["keep"]
    ]  # fmt: skip
