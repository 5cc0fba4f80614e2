"""A sequential model of channels, against which the state machine compares the cores.

It is slow and simple on purpose: lists instead of queues with tombstones, one party at a time. A
parked party is *claimed* by a peer (or by a close, a timeout, a cancellation), and resumes later,
in the order of claims; what happens in between, a cancellation above all, is decided in `resume`.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import deque
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Result: TypeAlias = tuple[Any, ...]
"""How an operation ended: ``("value", v)``, ``("closed", cause)``, ``("cancelled",)``, …"""

TAKEN, LOOK, CANCEL, TIMED_OUT = "taken", "look again", "cancel", "timed out"


class End(Exception):
    """A channel is closed (and, for a receive, drained)."""


@dataclass(eq=False)
class Case:
    channel: Model
    sends: bool
    value: Any = None


@dataclass(eq=False)
class Party:
    """One operation, select, recv_many or send_many, and who performs it."""

    kind: str
    cases: list[Case]
    most: int = 1
    values: list[Any] = field(default_factory=list)
    thread: bool = False
    times_out: bool = False  # a select with a timeout
    sent: int = 0
    park: Park | None = None
    hit: str = ""  # cancelled by "cancelled" or "timeout", and that is not settled yet
    result: Result | None = None
    # What really happens.
    real: Any = None
    operation: Any = None
    deadline: asyncio.Timeout | None = None
    outcome: list[Result] = field(default_factory=list)


@dataclass(eq=False)
class Park:
    """One sleep of a party: what it stands in line with. Claimed at most once."""

    party: Party
    claim: Any = None
    case: int = 0
    ticket: int = 0
    value: Any = None


Line: TypeAlias = "list[tuple[Park, int]]"


class Model:
    """A channel, sequentially. `world` is told whom it wakes."""

    def __init__(self, world: World, capacity: float, overflow: str) -> None:
        self.world = world
        self.capacity = capacity
        self.overflow = overflow
        self.buffer: list[Any] = []
        self.returned: list[tuple[int, int, Any]] = []
        self.senders: Line = []
        self.receivers: Line = []
        self.closed = False
        self.cause: Exception | None = None
        self.tickets = self.sent = self.received = self.dropped = 0

    @staticmethod
    def first(line: Line) -> tuple[Park, int] | None:
        while line:
            park, case = line.pop(0)
            if park.claim is None:
                return park, case
        return None

    @staticmethod
    def waiting(line: Line) -> int:
        return sum(park.claim is None for park, _ in line)

    @property
    def full(self) -> bool:
        return len(self.buffer) + len(self.returned) >= self.capacity

    def send(self, value: Any) -> bool:
        if self.closed:
            raise End
        peer = self.first(self.receivers)
        if peer is not None:
            self.tickets += 1
            self.received += 1
            self.world.claim(peer, "value", self.tickets, value)
        elif not self.full:
            self.buffer.append(value)
        elif self.overflow == "block":
            return False
        else:
            self.dropped += 1
            if self.overflow == "drop_oldest" and self.buffer:
                self.buffer.append(value)
                value = self.buffer.pop(0)
            self.world.discarded.append(value)
        self.sent += 1
        return True

    def recv(self) -> tuple[Any] | None:
        if self.returned or self.buffer:
            value = self.returned.pop(0)[2] if self.returned else self.buffer.pop(0)
            peer = None if self.full else self.first(self.senders)
            if peer is not None:
                self.buffer.append(self.taken(peer))
        else:
            peer = self.first(self.senders)
            if peer is None:
                if self.closed:
                    raise End
                return None
            value = self.taken(peer)
        self.received += 1
        return (value,)

    def taken(self, peer: tuple[Park, int]) -> Any:
        park, case = peer
        value = park.party.cases[case].value
        self.world.claim(peer, TAKEN)
        self.sent += 1
        return value

    def give_back(self, ticket: int, value: Any) -> None:
        peer = self.first(self.receivers)
        if peer is not None:
            self.world.claim(peer, "value", ticket, value)
        else:
            self.received -= 1
            bisect.insort(self.returned, (ticket, id(value), value))

    def older(self, ticket: int, most: int) -> list[Any]:
        values = []
        while self.returned and self.returned[0][0] < ticket and len(values) < most:
            values.append(self.returned.pop(0)[2])
            self.received += 1
        return values

    def close(self, cause: Exception | None) -> None:
        if self.closed:
            return
        self.closed, self.cause = True, cause
        for line in (self.receivers, self.senders):
            while (peer := self.first(line)) is not None:
                self.world.claim(peer, LOOK)


class World:
    """Both channels and all parties: who is to be resumed, in which order."""

    def __init__(self) -> None:
        self.ready: deque[Park] = deque()
        self.again: deque[Party] = deque()  # cancellations put off by a send that had happened
        self.discarded: list[Any] = []

    def claim(self, peer: tuple[Park, int], claim: str, ticket: int = 0, value: Any = None) -> None:
        park, park.case = peer
        park.claim, park.ticket, park.value = claim, ticket, value
        if park.party.thread:  # on its way already, and nothing can stop it
            self.resume(park)
        else:
            self.ready.append(park)

    def cancel(self, party: Party, how: str) -> None:
        park = party.park
        if party.result is not None or park is None:
            return
        party.hit = how
        if park.claim is None:
            self.claim((park, 0), CANCEL)

    def drain(self) -> None:
        while self.ready or self.again:
            while self.ready:
                self.resume(self.ready.popleft())
            for _ in range(len(self.again)):
                party = self.again.popleft()
                self.cancel(party, party.hit)

    def resume(self, park: Park) -> None:
        party = park.party
        case = party.cases[park.case]
        party.park = None
        hit = party.hit if park.claim != CANCEL else ""
        if park.claim == CANCEL or (hit and park.claim in (LOOK, TIMED_OUT)):
            party.result = (party.hit,)
        elif park.claim == LOOK:
            self.step(party)
        elif park.claim == TIMED_OUT:
            party.result = ("value", (None, None))
        elif park.claim == TAKEN:
            if party.kind == "send_many":
                party.sent += 1
                if hit:
                    self.again.append(party)
                self.step(party)
            else:
                self.happened(party, park.case, None)
        elif hit:
            case.channel.give_back(park.ticket, park.value)
            party.result = (hit,)
        elif party.kind == "recv_many":
            older = case.channel.older(park.ticket, party.most - 1)
            self.take_more(party, [*older, park.value])
        else:
            self.happened(party, park.case, park.value)

    def step(self, party: Party) -> None:
        """Run `party` until it ends or parks."""
        try:
            if party.kind == "send_many":
                case = party.cases[0]
                while party.sent < len(party.values):
                    case.value = party.values[party.sent]
                    if self.attempt(party, 0, case) is None:
                        return self.sleep(party)
                    party.sent += 1
                party.result = ("value", None)
                return None
            for index, case in enumerate(party.cases):
                got = self.attempt(party, index, case)
                if got is not None:
                    return self.happened(party, index, *got)
        except End:
            return None
        return self.sleep(party)

    def attempt(self, party: Party, index: int, case: Case) -> tuple[Any] | None:
        channel = case.channel
        try:
            if not case.sends:
                return channel.recv()
            return (None,) if channel.send(case.value) else None
        except End:
            if party.kind == "select" and not case.sends and channel.cause is None:
                party.result = ("value", (index, "closed"))
            else:
                party.result = ("closed", channel.cause)
            raise

    def sleep(self, party: Party) -> None:
        party.park = park = Park(party)
        for index, case in enumerate(party.cases):
            line = case.channel.senders if case.sends else case.channel.receivers
            line.append((park, index))

    def happened(self, party: Party, index: int, value: Any) -> None:
        if party.kind == "recv_many":
            self.take_more(party, [value])
        else:
            party.result = ("value", (index, value) if party.kind == "select" else value)

    def take_more(self, party: Party, values: list[Any]) -> None:
        channel = party.cases[0].channel
        try:
            while len(values) < party.most:
                got = channel.recv()
                if got is None:
                    break
                values += got
        except End:
            pass
        party.result = ("value", values)
