"""write_lines: what is acked is in the file, as a whole line, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import csv
import datetime
import decimal
import enum
import errno
import gzip
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace import Channel, Group, Message, Retry
from tailrace.listen import read_lines
from tailrace.store import Store, StoreError, write_lines
from tailrace.store.lines import ends, file
from tailrace.store.lines.encode import joined, split

QUICK = Retry(3, backoff=0, cap=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.txt"


async def stored(actor: Store[Any], data: Iterable[Any], element: Any = None) -> list[str]:
    """Run `actor` until it has dealt with these data: the statuses."""
    channel: Channel[Any] = (
        Channel(math.inf) if element is None else Channel[Message[element]](math.inf)
    )
    sent = [Message(each) for each in data]
    await channel.send_many(sent)
    channel.close()
    await actor(channel)
    return [message.outcome.status for message in sent if message.outcome is not None]


def reasons(messages: Iterable[Message[Any]]) -> list[str]:
    return [message.outcome.reason for message in messages if message.outcome is not None]


def content(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


async def read(path: Path, format: Any, kind: Any) -> list[Any]:
    """What `read_lines` makes of the file."""
    lines: Channel[Message[Any]] = Channel(math.inf)
    found: list[Any] = []
    async with Group() as go:
        go(read_lines(path, format=format, type=kind, progress="off"), lines)
        async for message in lines:
            found.append(message.data)
            message.ack()
    return found


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Reading:
    sensor: str
    at: datetime.datetime
    celsius: float | None = None
    ok: bool = True
    colour: Colour = Colour.RED
    level: Level = Level.LOW
    amount: decimal.Decimal = decimal.Decimal(1)
    tags: tuple[str, ...] = ()


NOON = datetime.datetime(2024, 5, 17, 12, tzinfo=datetime.UTC)


# What is written.


async def test_texts_are_lines_in_order(path: Path) -> None:
    actor = write_lines(path, format="text")
    assert await stored(actor, [f"☆ {n}" for n in range(2500)]) == ["stored"] * 2500
    assert content(path).decode() == "".join(f"☆ {n}\n" for n in range(2500))
    assert await stored(actor, ["more", ""]) == ["stored"] * 2
    assert content(path).endswith(b"\nmore\n\n")
    assert actor.statistics().rows == 2502


async def test_values_are_json_with_sorted_keys(path: Path) -> None:
    data = [{"b": {2, 1}, "a": "x\ny"}, [1.0, None], Reading("s", NOON)]
    assert await stored(write_lines(path, format="json"), data) == ["stored"] * 3
    lines = content(path).decode().splitlines()
    assert lines[:2] == ['{"a":"x\\ny","b":[1,2]}', "[1.0,null]"]
    assert json.loads(lines[2])["at"] == "2024-05-17T12:00:00+00:00"


async def test_records_have_a_header_once(path: Path) -> None:
    rows = [
        Reading('a "b", c', NOON),
        Reading("two\nlines", NOON, 1.5, False, tags=("x", "y")),
        Reading("", NOON, amount=decimal.Decimal("1.10")),
    ]
    actor = write_lines(path, format="csv")
    assert await stored(actor, rows[:2], Reading) == ["stored"] * 2
    assert await stored(actor, rows[2:], Reading) == ["stored"]
    text = content(path).decode()
    assert text.splitlines()[0] == "sensor,at,celsius,ok,colour,level,amount,tags"
    found = list(csv.DictReader(io.StringIO(text)))
    assert [record["sensor"] for record in found] == ['a "b", c', "two\nlines", ""]
    assert [record["celsius"] for record in found] == ["", "1.5", ""]
    assert [record["amount"] for record in found] == ["1", "1", "1.1"]
    assert found[1]["ok"] == "false"
    assert json.loads(found[1]["tags"]) == ["x", "y"]
    assert (found[0]["colour"], found[0]["level"]) == ("red", "1")


async def test_dicts_have_the_keys_of_the_first(path: Path) -> None:
    rows: list[Any] = [{"b": 1, "a": "x,y"}, {"a": None, "b": [2]}, {"a": 1}, {"a": 1, "c": 2}]
    actor = write_lines(path, format="csv")
    expected = ["stored", "stored", "rejected", "rejected"]
    assert await stored(actor, rows, dict[str, Any]) == expected
    assert await stored(actor, [{"a": 5, "b": 6}, {"b": 1}], dict) == ["stored", "rejected"]
    assert content(path) == b'b,a\n1,"x,y"\n[2],\n6,5\n'


class Flat(TypedDict):
    name: str
    n: int


@pytest.mark.parametrize("compressed", [False, True])
async def test_read_lines_reads_what_was_written(tmp_path: Path, compressed: bool) -> None:
    ending = ".gz" if compressed else ""
    texts = ["a", "", " b ", "☆", '"'] * 300
    records: list[Flat] = [{"name": f'"{n}", ☆', "n": n} for n in range(1500)]
    for format, kind, data in (
        ("text", str, texts),
        ("json", Flat, records),
        ("csv", Flat, records),
    ):
        path = tmp_path / f"{format}.data{ending}"
        actor = write_lines(path, format=format, gzip=compressed, max_batch=100)  # type: ignore[call-overload]
        assert set(await stored(actor, data, kind)) == {"stored"}
        assert await read(path, format, kind) == data


@given(st.lists(st.lists(st.none() | st.text(), min_size=1), min_size=1))
def test_records_come_out_of_csv_as_they_went_in(rows: list[list[str | None]]) -> None:
    text = "".join(joined(row) + "\n" for row in rows)
    found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert found == [["" if cell is None else cell for cell in row] for row in rows]


@given(st.lists(st.text(st.characters(exclude_characters="\r\n")), min_size=1, unique=True))
def test_a_header_is_read_as_it_was_written(names: list[str]) -> None:
    assert split(joined(names)) == names


@pytest.mark.parametrize(
    ("format", "bad", "expected"),
    [
        ("text", "a\nb", "rejected"),
        ("text", "a\rb", "rejected"),
        ("text", "\ud800", "rejected"),
        ("text", 5, "failed"),
        ("json", math.nan, "rejected"),
        ("json", "\ud800", "rejected"),
        ("json", object(), "failed"),
        ("csv", 5, "failed"),
    ],
)
async def test_what_the_format_cannot_hold_refuses_its_own_line_only(
    path: Path, format: Any, bad: Any, expected: str
) -> None:
    actor = write_lines(path, format=format)
    assert await stored(actor, ["a", bad, "b"]) == ["stored", expected, "stored"]
    lines = content(path).decode().splitlines()
    assert lines == {"json": ['"a"', '"b"'], "csv": ["data", "a", "b"]}.get(format, ["a", "b"])


# Rotation.


async def test_a_full_file_is_renamed_and_each_has_its_header(tmp_path: Path) -> None:
    path = tmp_path / "events.v1.csv"
    actor = write_lines(path, format="csv", rotate_bytes=60, max_batch=2)
    rows: list[Flat] = [{"name": f"name {n}", "n": n} for n in range(30)]
    assert await stored(actor, rows, Flat) == ["stored"] * 30
    files = sorted(tmp_path.iterdir())
    assert [each.name for each in files[:2]] == ["events.00000001.v1.csv", "events.00000002.v1.csv"]
    assert files[-1] == path
    assert all(20 < each.stat().st_size <= 60 for each in files)
    found = [row for each in files for row in csv.DictReader(io.StringIO(each.read_text()))]
    assert [row["n"] for row in found] == [str(n) for n in range(30)]
    assert await stored(actor, [{"name": "x" * 90, "n": 1}], Flat) == ["stored"]  # larger by itself
    assert len(list(tmp_path.iterdir())) == len(files) + 1


async def test_compressed_files_rotate_too(tmp_path: Path) -> None:
    path = tmp_path / "events.txt.gz"
    actor = write_lines(path, format="text", rotate_bytes=500, gzip=True, max_batch=10)
    texts = [f"{random.random()}" for _ in range(400)]
    assert set(await stored(actor, texts)) == {"stored"}
    files = sorted(tmp_path.iterdir())
    assert len(files) > 3
    assert all(each.stat().st_size <= 500 for each in files)
    assert "".join(gzip.decompress(content(each)).decode() for each in files).split() == texts


# The end of a file.


@pytest.mark.parametrize("size", [0, 1, 2, 7, ends.CHUNK, ends.CHUNK + 1])
@pytest.mark.parametrize("format", ["text", "csv"])
async def test_a_torn_line_is_cut_off(
    path: Path, format: Any, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = b'data\n"a\nb"\n'
    torn = b'"' + b"x\n" * size if format == "csv" else b"x" * size
    write(path, whole + torn)
    assert await stored(write_lines(path, format=format), ["new"]) == ["stored"]
    assert content(path) == whole + b"new\n"
    assert ("cutting off" in caplog.text) is bool(torn)


@pytest.mark.parametrize("cut", range(1, 40, 3))
async def test_a_torn_member_is_cut_off(path: Path, cut: int) -> None:
    whole = gzip.compress(b"a\n", mtime=0) + gzip.compress(b"b\n" * ends.CHUNK, mtime=0)
    torn = gzip.compress(bytes(range(50)), mtime=0)[:cut]
    write(path, whole + torn)
    assert await stored(write_lines(path, format="text", gzip=True), ["new"]) == ["stored"]
    assert content(path).startswith(whole)
    assert gzip.decompress(content(path)) == b"a\n" + b"b\n" * ends.CHUNK + b"new\n"


async def test_zeros_after_a_power_failure_are_cut_off(path: Path) -> None:
    for compressed, whole in ((False, b"a\n"), (True, gzip.compress(b"a\n"))):
        write(path, whole + bytes(5000))
        actor = write_lines(path, format="text", gzip=compressed)
        assert await stored(actor, ["b"]) == ["stored"]
        found = gzip.decompress(content(path)) if compressed else content(path)
        assert found == b"a\nb\n"


KILLED = """
    import asyncio, random
    from tailrace import Channel, Group, Message
    from tailrace.store import write_lines

    async def main():
        lines = Channel[Message[str]](100)
        async with Group() as go:
            go(write_lines({path!r}, format="text", gzip={gzip}, rotate_bytes={rotate}), lines)
            with lines.sending() as out:
                for n in range({first}, 10**9):
                    text = f"{{n}} {{random.Random(n).randbytes(250).hex()}}"
                    message = Message(text, on_settle=lambda outcome, n=n: print(n))
                    await out.send(message)
                    if n % 50 == 0:
                        await message.settled()

    asyncio.run(main())
"""


@pytest.mark.parametrize("compressed", [False, True])
async def test_no_acked_line_is_lost_by_kills(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "events.txt"
    acked: set[int] = set()
    first = 0
    for _ in range(4):
        code = KILLED.format(path=str(path), gzip=compressed, rotate=60_000, first=first)
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        seen = [int(process.stdout.readline()) for _ in range(300)]
        process.send_signal(signal.SIGKILL)
        seen += [int(line) for line in process.stdout.read().split("\n")[:-1]]
        process.wait()
        process.stdout.close()
        acked |= set(seen)
        first = max(seen) + 10_000
    assert await stored(write_lines(path, format="text", gzip=compressed), ["end"]) == ["stored"]
    files = sorted(tmp_path.iterdir())
    assert len(files) > 4
    lines = [
        line
        for each in files
        for line in (gzip.decompress(content(each)) if compressed else content(each)).splitlines()
    ]
    assert lines.pop() == b"end"
    numbers = [int(line.split()[0]) for line in lines]
    assert all(len(line) == len(line.split()[0]) + 501 for line in lines)
    assert acked <= set(numbers)
    assert numbers == sorted(set(numbers))


# What others do to the file.


async def running(actor: Store[Any], group: asyncio.TaskGroup) -> Channel[Message[Any]]:
    channel = Channel[Message[Any]](math.inf)
    group.create_task(actor(channel))
    return channel


async def put(channel: Channel[Message[Any]], *data: Any) -> list[str]:
    sent = [Message(each) for each in data]
    await channel.send_many(sent)
    return [(await message.settled(10)).status for message in sent]


async def test_a_file_that_is_removed_moved_or_replaced_is_noticed(
    path: Path, tmp_path: Path
) -> None:
    async with asyncio.TaskGroup() as group:
        channel = await running(write_lines(path, format="text"), group)
        assert await put(channel, "a") == ["stored"]
        path.unlink()
        assert await put(channel, "b") == ["stored"]
        assert content(path) == b"b\n"
        path.rename(tmp_path / "moved")
        assert await put(channel, "c") == ["stored"]
        assert (content(path), content(tmp_path / "moved")) == (b"c\n", b"b\n")
        write(tmp_path / "backup", b"old\ntorn")
        (tmp_path / "backup").rename(path)
        assert await put(channel, "d") == ["stored"]
        assert content(path) == b"old\nd\n"
        write(path, b"")  # truncated
        assert await put(channel, "e") == ["stored"]
        with path.open("ab") as other:
            other.write(b"theirs\nhalf")
        assert await put(channel, "f") == ["stored"]
        channel.close()
    assert content(path) == b"e\ntheirs\nf\n"


@pytest.mark.parametrize("how", ["removed", "replaced", "cut"])
async def test_a_file_that_goes_while_it_is_written_is_written_again(
    path: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = file.sync
    calls = 0

    def sync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            if how == "removed":
                path.unlink()
            elif how == "replaced":
                write(tmp_path / "other", b"other\n")
                (tmp_path / "other").rename(path)
            else:
                os.truncate(path, 0)
        real(descriptor)

    monkeypatch.setattr(file, "sync", sync)
    actor = write_lines(path, format="text", max_batch=1)
    assert await stored(actor, ["a", "b"]) == ["stored", "stored"]
    assert content(path) == (b"other\nb\n" if how == "replaced" else b"b\n")
    assert calls == 3


async def test_two_writers_of_one_file_are_refused(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    async with asyncio.TaskGroup() as group:
        channel = await running(write_lines(path, format="text", rotate_bytes=10), group)
        for _ in range(3):
            assert await put(channel, "some text") == ["stored"]
            for name in (path, link):
                with pytest.raises(StoreError, match="another writer has"):
                    await write_lines(name, format="text")(Channel[Message[str]](1))
        channel.close()
    assert await stored(write_lines(link, format="text"), ["b"]) == ["stored"]
    assert content(path) == b"some text\nb\n"


class FullDisk:
    """`os.write` on a disk with so many bytes left."""

    def __init__(self, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = left
        self._write = os.write
        monkeypatch.setattr(file.os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(descriptor, bytes(data[: self.left]))
        self.left -= written
        return written


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_full_disk_is_an_outage_and_leaves_no_half_line(
    path: Path, compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(1_000_000, monkeypatch)
    actor = write_lines(path, format="text", gzip=compressed, retry=Retry(None, backoff=0.001))
    async with asyncio.TaskGroup() as group:
        channel = await running(actor, group)
        assert await put(channel, "before") == ["stored"]
        before = content(path)
        disk.left = 10
        message = Message("x" * 40 + str(random.random()))
        await channel.send(message)
        while actor.statistics().retries < 3:
            await asyncio.sleep(0.001)
            disk.left = disk.left or 5  # a little comes free, and is not enough
        assert message.outcome is None
        disk.left = 1_000_000
        assert (await message.settled(10)).status == "stored"
        channel.close()
    found = gzip.decompress(content(path)) if compressed else content(path)
    assert found.decode() == f"before\n{message.data}\n"
    assert content(path).startswith(before)


async def test_a_disk_that_stays_full_fails_the_message_and_nothing_of_it_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(1_000_000, monkeypatch)
    async with asyncio.TaskGroup() as group:
        channel = await running(write_lines(path, format="text", retry=QUICK), group)
        assert await put(channel, "before") == ["stored"]
        disk.left = 3
        assert await put(channel, "lost") == ["failed"]
        channel.close()
    assert content(path) == b"before\n"


async def test_a_failed_fsync_is_no_ack(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error of fsync the pages may be gone: the lines are written again."""
    real, failures = file.sync, 2

    def sync(descriptor: int) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            os.truncate(path, max(0, path.stat().st_size - 1))  # the kernel has dropped a page
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(file, "sync", sync)
    assert await stored(
        write_lines(path, format="text", retry=Retry(5, backoff=0)), ["a", "b"]
    ) == [
        "stored",
        "stored",
    ]
    assert content(path) == b"a\nb\n"


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"path": ""}, "path must be"),
        ({"path": "a\0"}, "path must be"),
        ({"format": "xml"}, "'text', 'json' or 'csv', not 'xml'"),
        ({"rotate_bytes": 0}, "rotate_bytes must be at least 1"),
        ({"rotate_bytes": 1.5}, "rotate_bytes must be a whole number"),
        ({"gzip": 1}, "gzip must be True or False"),
        ({"max_batch": 0}, "max_batch"),
        ({"retry": 3}, "retry must be a Retry"),
        ({"format": "text", "type": int}, "lines of text are of str, not int"),
        ({"format": "csv", "type": complex}, "no column for complex"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises((TypeError, ValueError), match=why):
        write_lines(**{"path": "x", "format": "text"} | arguments)


@pytest.mark.parametrize(
    ("before", "arguments", "element", "why"),
    [
        (gzip.compress(b"a\n", mtime=0), {"format": "text"}, str, "is compressed: say gzip=True"),
        (b"a\n", {"format": "text", "gzip": True}, str, "is not compressed: say gzip=False"),
        (b"name,m\n", {"format": "csv"}, Flat, "has the header 'name,m', but .* 'name,n'"),
        (None, {"format": "text"}, int, "lines of text are of str, not int"),
    ],
)
async def test_a_file_or_type_that_does_not_fit_ends_the_store(
    path: Path, before: bytes | None, arguments: Any, element: Any, why: str
) -> None:
    if before is not None:
        write(path, before)
    with pytest.raises(StoreError, match=why):
        await write_lines(path, **arguments)(Channel[Message[element]](1))
    assert before is None or content(path) == before


@pytest.mark.parametrize("name", ["missing/events.txt", ".", "/dev/null"])
async def test_a_path_that_is_none_ends_the_store(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match=r"cannot write|no regular file"):
        await write_lines(tmp_path / name, format="text")(Channel[Message[str]](1))


async def test_names_are_on_the_disk_before_an_ack(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power failure would undo: nothing that was acked. Told by the order of the calls."""
    done: list[str] = []
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        done.append(f"fsync {'folder' if name == path.parent.name else name}")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    channel = Channel[Message[str]](math.inf)
    for n in range(2):
        await channel.send(Message("x" * 9, on_settle=lambda outcome, n=n: done.append(f"ack {n}")))  # type: ignore[misc]
    channel.close()
    await write_lines(path, format="text", rotate_bytes=10, max_batch=1)(channel)
    one = ["fsync folder", "fsync events.txt"]
    assert done == [*one, "ack 0", "fsync folder", *one, "ack 1"]
