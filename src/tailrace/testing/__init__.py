"""Layer 4: the testing kit. Virtual time, exact deadlocks, and stand-ins for stages.

`run` and the pytest marker ``virtual_time`` (`tailrace.testing.plugin`) run a test on a clock
that jumps. `wait_all_parked` returns when nothing can run any more. `pipeline` runs a program's
own ``main`` with stand-ins for the stages that touch the world outside.
"""

from __future__ import annotations

from tailrace.testing.clock import VirtualClockLoop, run, wait_all_parked
from tailrace.testing.pipeline import Pipeline, pipeline
from tailrace.testing.standins import Sink, Source, sink, source

__all__ = [
    "Pipeline",
    "Sink",
    "Source",
    "VirtualClockLoop",
    "pipeline",
    "run",
    "sink",
    "source",
    "wait_all_parked",
]
