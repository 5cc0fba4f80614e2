"""Hypothesis drives two channels and a sequential model of them with the same operations, and
compares every result, error and counter.

The loop runs on virtual time and only when a rule says so. Between two runs a rule may hand a
value to a parked task and cancel that task before it has resumed: the model knows three instants
of a parked operation, its claim by a peer, a cancellation, and its resumption.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tailrace import ChannelStatistics
from tailrace.errors import Closed, WouldBlock
from tailrace.testing import VirtualClockLoop

from .actors import spawn
from .channel_model import TIMED_OUT, Case, End, Model, Party, Result, World

PATIENCE = 10.0
CAUSE = ValueError("the cause")


class Value:
    """A value that knows whether a channel told it that it was discarded."""

    def __init__(self, name: int, discarded: list[Any]) -> None:
        self.name = name
        self.told = discarded

    def __repr__(self) -> str:
        return f"v{self.name}"

    def __discarded__(self, why: str) -> None:
        self.told.append(self)


which = st.sampled_from([0, 0, 0, 1])
index = st.integers(0, 30)
shape = st.tuples(
    st.sampled_from([0, 0, 0, 1, 2, 3, float("inf")]),
    st.sampled_from(["block", "block", "drop_newest", "drop_oldest"]),
)
cases = st.lists(st.sampled_from(["recv 0", "recv 1", "send 0", "send 1"]), min_size=1, max_size=4)
instant = st.lists(
    st.sampled_from(["recv 0", "recv 0", "recv 1", "send 0", "send 0", "send 1", 0, 0, 0, 1, 2, 3]),
    min_size=3,
    max_size=10,
)
SIDES = [
    ["recv", "recv", "recv_many", "recv 0, send 1"],
    ["send", "send_many", "send 1, send 0"],
]
crowd = st.sampled_from(SIDES).flatmap(
    lambda kinds: st.lists(st.sampled_from(kinds), min_size=2, max_size=5)
)
how = st.sampled_from(["task", "actor", "deadline"])


class Machine(RuleBasedStateMachine):
    def __init__(self, core: Any, spend_budget: Callable[[], None]) -> None:
        super().__init__()
        self.core = core
        self.spend_budget = spend_budget
        self.loop = VirtualClockLoop()
        self.reported: list[Any] = []
        self.loop.set_exception_handler(lambda loop, context: self.reported.append(context))
        self.world = World()
        self.discarded: list[Any] = []
        self.parties: list[Party] = []
        self.made = 0
        self.driven = 0

    @initialize(shapes=st.tuples(shape, shape))
    def make(self, shapes: Any) -> None:
        shapes = [(c, o if (c, o) != (0, "drop_oldest") else "block") for c, o in shapes]
        self.models = [Model(self.world, *each) for each in shapes]
        self.channels = [self.core.Channel(c, overflow=o) for c, o in shapes]

    # Helpers.

    def value(self) -> Any:
        self.made += 1
        return None if self.made % 7 == 0 else Value(self.made, self.discarded)

    def inside(self, call: Callable[[], Any]) -> Any:
        """Call something as a callback of the loop would, without letting the loop turn."""
        self.keep_budget()
        asyncio._set_running_loop(self.loop)
        try:
            return call()
        finally:
            asyncio._set_running_loop(None)

    def keep_budget(self) -> None:
        """The model yields at no operation: keep the channels from doing so in the middle."""
        if self.driven % 8 == 0:  # far fewer than a budget of operations ago
            self.spend_budget()
        self.driven += 1

    def turn(self) -> None:
        async def turns() -> None:
            for _ in range(25):
                await asyncio.sleep(0)

        self.keep_budget()
        self.loop.run_until_complete(turns())
        self.world.drain()

    def settled(self) -> None:
        if self.world.ready:
            self.turn()

    def make_cases(self, names: list[str]) -> tuple[list[Case], list[Any]]:
        model, real = [], []
        for name in names:
            kind, at = name.split()
            case = Case(self.models[int(at)], kind == "send", self.value())
            channel = self.channels[int(at)]
            model.append(case)
            real.append(channel.send(case.value) if case.sends else channel.recv())
        return model, real

    def start(self, party: Party, operation: Any, how: str = "task") -> None:
        self.settled()
        party.operation = operation
        self.parties.append(party)
        coroutine = self.perform(party, how)

        def create() -> None:
            if how == "actor":
                party.real = spawn(self.core, coroutine, "actor")
            else:
                party.real = asyncio.create_task(coroutine)

        self.inside(create)
        self.world.step(party)
        self.turn()

    async def perform(self, party: Party, how: str) -> None:
        try:
            if how == "deadline":
                async with asyncio.timeout(None) as party.deadline:
                    value = await party.operation
            else:
                value = await party.operation
            party.outcome.append(("value", plain(value)))
        except asyncio.CancelledError:
            party.outcome.append(("cancelled",))
            raise
        except TimeoutError:
            party.outcome.append(("timeout",))
        except Closed as closed:
            party.outcome.append(("closed", closed.__cause__))

    def parked(self, at: int, *, deadline: bool = False) -> Party | None:
        parked = [
            party
            for party in self.parties
            if party.result is None
            and not party.thread
            and not party.hit
            and (party.deadline is not None or not deadline)
        ]
        # Those who were served and have not resumed come first: there it is decided.
        parked.sort(key=lambda party: party.park is None or party.park.claim is None)
        return parked[at % len(parked)] if parked else None

    def threads(self) -> list[Party]:
        return [party for party in self.parties if party.thread and party.result is None]

    # Rules: operations that may park.

    @rule(at=which, how=how)
    def recv(self, at: int, how: str) -> None:
        party = Party("one", [Case(self.models[at], sends=False)])
        self.start(party, self.channels[at].recv(), how)

    @rule(at=which, how=how)
    def send(self, at: int, how: str) -> None:
        value = self.value()
        party = Party("one", [Case(self.models[at], sends=True, value=value)])
        self.start(party, self.channels[at].send(value), how)

    @rule(at=which, most=st.integers(1, 4), how=how)
    def recv_many(self, at: int, most: int, how: str) -> None:
        party = Party("recv_many", [Case(self.models[at], sends=False)], most=most)
        self.start(party, self.channels[at].recv_many(most), how)

    @rule(at=which, n=st.integers(0, 5), how=how, form=st.sampled_from([list, iter, tuple]))
    def send_many(self, at: int, n: int, how: str, form: Any) -> None:
        values = [self.value() for _ in range(n)]
        party = Party("send_many", [Case(self.models[at], sends=True)], values=values)
        self.start(party, self.channels[at].send_many(form(values)), how)

    @rule(names=cases, how=how, timeout=st.sampled_from([None, 5]))
    def select(self, names: list[str], how: str, timeout: float | None) -> None:
        model, real = self.make_cases(names)
        party = Party("select", model, times_out=timeout is not None)
        self.start(party, self.core.select(*real, timeout=timeout, priority=True), how)

    @rule(at=which, kinds=crowd, how=how)
    def several(self, at: int, kinds: list[str], how: str) -> None:
        for kind in kinds:
            if kind == "recv":
                self.recv(at, how)
            elif kind == "send":
                self.send(at, how)
            elif kind == "recv_many":
                self.recv_many(at, 3, how)
            elif kind == "send_many":
                self.send_many(at, 3, how, list)
            else:
                self.select(kind.split(", "), how, None)

    # Rules: what happens between two turns of the loop.

    def now(self, name: str) -> None:
        """Do one operation at once, in the model and really; and compare what comes of it."""
        kind, at = name.split()
        channel, sends = self.channels[int(at)], kind == "send"
        case = Case(self.models[int(at)], sends, self.value())
        party = Party("one", [case])
        try:
            got = self.world.attempt(party, 0, case)
            wanted: Result = ("would block",) if got is None else ("value", *got)
        except End:
            assert party.result is not None
            wanted = party.result
        happened: Result
        try:
            happened = "value", self.inside(lambda: self.at_once(channel, case))
        except WouldBlock:
            happened = ("would block",)
        except Closed as closed:
            happened = ("closed", closed.__cause__)
        assert happened == wanted

    def at_once(self, channel: Any, case: Case) -> Any:
        if self.made % 2:
            return channel.send_nowait(case.value) if case.sends else channel.recv_nowait()
        chosen = channel.send(case.value) if case.sends else channel.recv()
        _, value = self.core.select_nowait(None, chosen)
        if isinstance(value, Closed):
            raise value
        return value

    @rule(name=st.sampled_from(["recv 0", "recv 1", "send 0", "send 1"]))
    def nowait(self, name: str) -> None:
        self.now(name)

    @rule(names=instant)
    def several_at_once(self, names: list[Any]) -> None:
        """Several things in one instant, and only then does anybody resume."""
        for name in names:
            if isinstance(name, int):
                self.cancel(name)
            else:
                self.now(name)
        self.turn()

    @rule(at=index)
    def cancel(self, at: int) -> None:
        party = self.parked(at)
        if party is not None:
            self.inside(party.real.cancel)
            self.world.cancel(party, "cancelled")

    @rule(at=index, name=st.sampled_from([None, "recv 0", "recv 1", "send 0", "send 1"]))
    def expire(self, at: int, name: str | None) -> None:
        """A timeout, which strikes right after its task may have been served."""
        self.settled()
        party = self.parked(at, deadline=True)
        if party is not None and party.deadline is not None:
            deadline = party.deadline
            self.inside(lambda: deadline.reschedule(self.loop.time() - 1))
            if name is not None:
                self.now(name)
            self.world.cancel(party, "timeout")
            self.turn()

    @rule(at=which, cause=st.sampled_from([None, CAUSE]), really=st.integers(0, 7))
    def close(self, at: int, cause: Exception | None, really: int) -> None:
        if really == 0:
            if self.threads():
                self.settled()
            self.inside(lambda: self.channels[at].close(cause))
            self.models[at].close(cause)

    @rule()
    def turn_the_loop(self) -> None:
        self.turn()

    @precondition(lambda self: not self.threads())
    @rule()
    def let_time_pass(self) -> None:
        self.settled()
        self.loop.run_until_complete(asyncio.sleep(6))
        for party in self.parties:
            if party.times_out and party.park is not None:
                self.world.claim((party.park, 0), TIMED_OUT)
        self.turn()

    # Rules: threads.

    @precondition(lambda self: len(self.threads()) < 3)
    @rule(at=which, sends=st.booleans(), timeout=st.sampled_from([None, 0.001]))
    def thread(self, at: int, sends: bool, timeout: float | None) -> None:
        self.settled()
        channel, value = self.channels[at], self.value()
        party = Party("one", [Case(self.models[at], sends, value)], thread=True)

        def work() -> None:
            try:
                if sends:
                    party.outcome.append(("value", channel.sync.send(value, timeout)))
                else:
                    party.outcome.append(("value", channel.sync.recv(timeout)))
            except TimeoutError:
                party.outcome.append(("timeout",))
            except Closed as closed:
                party.outcome.append(("closed", closed.__cause__))

        self.parties.append(party)
        self.world.step(party)
        self.keep_budget()
        party.real = threading.Thread(target=work, daemon=True)
        party.real.start()
        if party.result is None and timeout is not None:
            assert party.park is not None
            party.park.claim = TIMED_OUT
            party.result = ("timeout",)
        if party.result is not None:
            party.real.join(PATIENCE)
        else:  # it must be parked before the next rule
            until(lambda: channel.statistics() == self.expected(at))
        self.turn()

    # What must hold.

    def expected(self, at: int) -> Any:
        model = self.models[at]
        return ChannelStatistics(
            buffered=len(model.buffer) + len(model.returned),
            capacity=model.capacity,
            sent=model.sent,
            received=model.received,
            dropped=model.dropped,
            waiting_senders=model.waiting(model.senders),
            waiting_receivers=model.waiting(model.receivers),
            closed=model.closed,
        )

    @invariant()
    def the_results_are_the_models(self) -> None:
        for party in self.parties:
            if party.thread and party.result is not None:
                party.real.join(PATIENCE)
                assert party.outcome == [party.result]
        if self.world.ready:
            return
        for party in self.parties:
            assert party.outcome == ([] if party.result is None else [party.result])
            if party.kind == "send_many":
                assert party.operation.sent == party.sent
            if not party.thread:
                assert party.real.done() == (party.result is not None)
                assert party.real.done() is False or (
                    party.real.cancelled() == (party.result == ("cancelled",))
                )
        assert self.discarded == [value for value in self.world.discarded if value is not None]
        assert self.reported == []

    @invariant()
    def the_counters_are_the_models(self) -> None:
        for at, (channel, model) in enumerate(zip(self.channels, self.models, strict=True)):
            statistics = channel.statistics()
            assert statistics == self.expected(at)
            assert statistics.sent == statistics.received + statistics.buffered + statistics.dropped
            assert len(channel) == len(model.buffer) + len(model.returned)

    def teardown(self) -> None:
        try:
            for channel in getattr(self, "channels", []):
                channel.close()
            self.turn()
            for party in self.parties:
                if party.thread:
                    party.real.join(PATIENCE)
                    assert not party.real.is_alive()
                else:
                    party.real.cancel()
            self.turn()
            assert not asyncio.all_tasks(self.loop)
        finally:
            self.loop.close()


def plain(value: Any) -> Any:
    """What a select says of a closed channel, comparable."""
    if isinstance(value, tuple) and isinstance(value[1], Closed):
        return value[0], "closed"
    return value


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0001)


@pytest.mark.timeout(110)
def test_the_channel_is_its_sequential_model(core: Any, spend_budget: Any) -> None:
    run_state_machine_as_test(
        lambda: Machine(core, spend_budget),
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


SCENARIOS = {"native": 2000, "python": 700}  # that one changes seldom, and takes its time


@pytest.mark.timeout(110)
@pytest.mark.parametrize("chunk", range(2))
def test_the_channel_is_its_sequential_model_in_the_instant_of_a_hand_off(
    core: Any, spend_budget: Any, chunk: int
) -> None:
    """The same machine, aimed: tasks park, and are served and cancelled in one instant.

    Hypothesis seldom comes there by itself; in return, what it finds it also shrinks.
    """
    for n in range(SCENARIOS[core.__name__.rpartition(".")[2]] // 2):
        seed = f"{chunk}/{n}"
        steps: list[str] = []
        try:
            aimed(Machine(core, spend_budget), random.Random(seed), steps)
        except BaseException as error:
            error.add_note(f"scenario {seed!r}: {'; '.join(steps)}")
            raise


def aimed(machine: Machine, dice: random.Random, steps: list[str]) -> None:
    def do(rule: Callable[..., None], *args: Any) -> None:
        steps.append(f"{rule.__name__}{args}")
        rule(machine, *args)
        machine.the_counters_are_the_models()
        machine.the_results_are_the_models()

    def shapes() -> tuple[float, str]:
        return dice.choice([0, 0, 0, 1, 2]), dice.choice(["block"] * 4 + ["drop_oldest"])

    do(Machine.make, (shapes(), shapes()))
    try:
        for _ in range(2):
            at, how = dice.choice([0, 0, 1]), dice.choice(["task", "actor", "deadline"])
            kinds = dice.choice(SIDES)
            do(Machine.several, at, dice.choices(kinds, k=dice.randint(2, 5)), how)
            served = f"{'send' if 'recv' in kinds else 'recv'} {at}"
            instant = dice.choices([served, 0, 1], [4, 3, 1], k=dice.randint(2, 7))
            if dice.random() < 0.15:
                do(Machine.thread, at, dice.random() < 0.5, None)
            if dice.random() < 0.2:
                do(Machine.expire, 0, served)
            for step in instant:
                do(Machine.cancel, step) if isinstance(step, int) else do(Machine.nowait, step)
            if dice.random() < 0.2:
                do(Machine.close, at, None, 0)
        do(Machine.turn_the_loop)
    finally:
        machine.teardown()
