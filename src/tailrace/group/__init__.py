"""Layer 3: actors with an owner. `Group` starts and ends them, `run` is a program made of them."""

from tailrace.group.activity import ActorState
from tailrace.group.actor import task_factory
from tailrace.group.graph import ChannelNode, Edge, Graph, StageNode
from tailrace.group.group import Group
from tailrace.group.restart import Restart
from tailrace.group.runner import run
from tailrace.group.streams import amap, collect, emit

__all__ = [
    "ActorState",
    "ChannelNode",
    "Edge",
    "Graph",
    "Group",
    "Restart",
    "StageNode",
    "amap",
    "collect",
    "emit",
    "run",
    "task_factory",
]
