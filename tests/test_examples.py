"""The programs of `examples/talk`: each runs, and does what the talk says it does.

Those without a socket run as scripts, on the virtual clock and with dice of a known seed; a test
throws the same dice to know what must be printed. The HTTP ones answer real requests on the
loopback.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import random
import re
import runpy
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

import tailrace
from tailrace import Group, testing

ROOT = Path(__file__).parent.parent
TALK = ROOT / "examples" / "talk"

Play = Callable[..., list[str]]
seeds = pytest.mark.parametrize("seed", range(5))


@pytest.fixture(autouse=True)
def dice_of_others() -> Iterator[None]:
    """The examples throw the dice of `random` itself: leave them as they were."""
    state = random.getstate()
    yield
    random.setstate(state)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Play:
    """Run an example as a script, in virtual time; the lines that it printed."""

    def play(name: str, seed: int = 0) -> list[str]:
        virtually = functools.partial(testing.run, seed=seed)
        monkeypatch.setattr(asyncio, "run", virtually)
        monkeypatch.setattr(tailrace, "run", virtually)
        random.seed(seed)
        runpy.run_path(str(TALK / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return play


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"talk_{name}", TALK / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_lists_every_program_once() -> None:
    readme = (TALK / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \d+ \| \[(\w+)\.py\]\(\1\.py\) \|", readme, re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in TALK.glob("*.py"))
    assert len(listed) == len(set(listed))


# Go in five minutes


def test_variables_keep_their_names_whether_typed_or_not(play: Play) -> None:
    assert play("variables") == ["Jón Þór Birgisson, or 'Jónsi' for short"]


def test_at_minus_forty_it_is_cold_on_either_scale(play: Play) -> None:
    assert play("temperatures") == ["It's cold!"]


def test_the_type_checker_rejects_a_comparison_of_two_scales(tmp_path: Path) -> None:
    source = (TALK / "temperatures.py").read_text(encoding="utf-8")
    unmarked = tmp_path / "unmarked.py"
    unmarked.write_text(re.sub(r"  # type: ignore.*", "", source), encoding="utf-8")
    files = str(TALK / "temperatures.py"), str(unmarked)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *files],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    (error,) = (line for line in checked.stdout.splitlines() if ": error: " in line)
    assert error.startswith("unmarked.py:")
    assert "Non-overlapping equality check" in error


@seeds
def test_babies_cannot_run_robots_cannot_fail_and_developers_may_trip(
    play: Play, seed: int
) -> None:
    trips = random.Random(seed).random() < 0.5
    assert play("race", seed) == [
        "Runner 0 didn't finish: tripped over shoelaces" if trips else "Runner 0 finished, hooray!",
        "Runner 1 didn't finish: babies can't run",
        "Runner 2 finished, hooray!",
    ]


def test_what_is_produced_is_consumed_and_then_both_end(play: Play) -> None:
    assert play("channels") == ["1", "2", "3"]


def test_who_asks_on_a_channel_of_channels_hears_his_own_answer(play: Play) -> None:
    assert sorted(play("channel_of_channels")) == [
        "the square of 1 is 1",
        "the square of 2 is 4",
        "the square of 3 is 9",
    ]


# Collect data from multiple backends

ANSWERS = ["server-1/dubstep", "server-2/dubstep", "wub-wub-wub"]


def throw(dice: random.Random, backends: int) -> list[int]:
    """How many milliseconds each takes."""
    return [dice.randrange(100) for _ in range(backends)]


@seeds
def test_one_after_the_other_takes_the_sum_of_all(play: Play, seed: int) -> None:
    delays = throw(random.Random(seed), 3)
    assert play("query_naive", seed) == [str(ANSWERS), f"{sum(delays)} ms"]


@seeds
def test_at_once_takes_as_long_as_the_slowest(play: Play, seed: int) -> None:
    dice = random.Random(seed)
    by_hand, by_library = throw(dice, 3), throw(dice, 3)
    arrivals = [ANSWERS[i] for i in sorted(range(3), key=by_hand.__getitem__)]
    assert play("query_concurrent", seed) == [
        str(arrivals),
        f"{max(by_hand)} ms",
        str(ANSWERS),
        f"{max(by_library)} ms",
    ]


@seeds
def test_replicated_it_takes_as_long_as_the_slowest_of_the_fastest(play: Play, seed: int) -> None:
    dice = random.Random(seed)
    expected: list[str] = []
    for _ in ("by hand", "by the library"):
        foo, bar, skrillex = throw(dice, 3), throw(dice, 2), throw(dice, 5)
        winners = [
            f"foo{foo.index(min(foo)) + 1}/dubstep",
            f"bar{bar.index(min(bar)) + 1}/dubstep",
            "wub-wub-wub",
        ]
        expected += [str(winners), f"{max(min(foo), min(bar), min(skrillex))} ms"]
    assert play("query_replicas", seed) == expected


# Pipelined data processing


def heard(seed: int) -> list[str]:
    """What `listen` hears in its second."""
    dice, now, messages = random.Random(seed), 0.0, list[str]()
    while (now := now + dice.randrange(250) / 1000) < 1:
        messages.append("foo" if dice.randrange(10) < 6 else "bar")
    return messages


@seeds
def test_the_pipeline_stores_all_that_it_heard_enriched_and_in_order(play: Play, seed: int) -> None:
    assert play("pipeline", seed) == [f"☆ {message} ☆" for message in heard(seed)]


@seeds
@pytest.mark.parametrize("program", ["pipeline_filter", "pipeline_concurrent"])
def test_the_pipeline_with_a_filter_drops_every_bar(play: Play, program: str, seed: int) -> None:
    assert play(program, seed) == ["☆ foo ☆"] * heard(seed).count("foo")


@pytest.mark.virtual_time
async def test_three_actors_enrich_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("pipeline_concurrent")
    busy: list[str] = []
    random.seed(next(seed for seed in range(100) if heard(seed).count("foo") >= 5))

    async def slow(inbox: tailrace.Receiver[str], out: tailrace.Sender[str]) -> None:
        async for msg in inbox:
            busy.append(msg)
            await asyncio.sleep(10)
            await out.send(msg)

    monkeypatch.setattr(module, "enrich", slow)
    async with Group() as go:
        await module.main(go)
        assert asyncio.get_running_loop().time() == 1
        assert busy == ["foo"] * 3  # a fourth waits for one of them, and the listener with it


# Every message is an HTTP request


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def listening(port: int) -> None:
    """Until somebody takes connections there."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            await writer.wait_closed()
            return


async def ask(client: httpx.AsyncClient, data: str) -> tuple[int, str]:
    answer = await client.get("/incoming", params={"data": data})
    return answer.status_code, answer.text


async def exchange(main: Callable[..., None], *args: str) -> None:
    """Run an HTTP pipeline on a free port, and ask it as the talk does, and fifty times at once."""
    port = free_port()
    async with Group() as go:
        main(go, f"127.0.0.1:{port}", *args)
        await listening(port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert await ask(client, "foo") == (200, "OK: ☆ foo ☆")
            assert await ask(client, "bar") == (200, "aborted: bar")
            form = await client.post("/incoming", data={"data": "posted"})
            assert (form.status_code, form.text) == (200, "OK: ☆ posted ☆")
            many = [f"event {i}" if i % 5 else "bar" for i in range(50)]
            answers = await asyncio.gather(*(ask(client, data) for data in many))
            for data, answer in zip(many, answers, strict=True):
                assert answer == (200, "aborted: bar" if data == "bar" else f"OK: ☆ {data} ☆")
        go.drain()


STORED = sorted(["☆ foo ☆", "☆ posted ☆", *(f"☆ event {i} ☆" for i in range(50) if i % 5)])


async def test_each_request_is_answered_with_what_became_of_its_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    await exchange(load("pipeline_http").main)
    listening_on, *stored = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"listening on 127\.0\.0\.1:\d+", listening_on)
    assert sorted(stored) == STORED


async def test_each_request_that_was_told_ok_is_in_the_database(tmp_path: Path) -> None:
    database = tmp_path / "events.db"
    await exchange(load("pipeline_durable").main, str(database))
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT * FROM events").fetchall()
    connection.close()
    assert sorted(next(cell for cell in row if "☆" in str(cell)) for row in rows) == STORED
