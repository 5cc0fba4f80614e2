"""`read_lines`: each line is one message, comes to one end, and is not forgotten by a kill."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tailrace.actors import each
from tailrace.channel import Channel, Receiver
from tailrace.errors import TailraceError
from tailrace.group import Group
from tailrace.listen.lines import ReadLines, read_lines
from tailrace.listen.lines import files as lines_files
from tailrace.listen.lines.files import Line, LineFile
from tailrace.message import Message
from tailrace.store import store_sqlite


class Sink:
    """Settles what it receives as `settle` says, and keeps data, ids and headers."""

    def __init__(self, settle: Callable[[Message[Any]], object] = Message.ack) -> None:
        self.settle = settle
        self.data: list[Any] = []
        self.ids: list[str] = []
        self.headers: list[dict[str, str]] = []

    async def __call__(self, inbox: Receiver[Message[Any]]) -> None:
        async for message in inbox:
            self.data.append(message.data)
            self.ids.append(message.id)
            self.headers.append(dict(message.headers))
            self.settle(message)
            del message


async def read(source: ReadLines[Any], sink: Sink | None = None) -> Sink:
    sink = sink or Sink()
    channel = Channel[Message[Any]](name="lines")
    async with Group() as go:
        go(source, channel)
        go(sink, channel)
    return sink


def fail_some(message: Message[Any]) -> None:
    if "bad" in message.data:
        message.fail("refused")
    else:
        message.ack()


# --- lines ----------------------------------------------------------------------------------------


async def test_each_line_is_a_message_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "in.log"
    path.write_bytes(b"foo\r\n\nb\xc3\xa4r")
    source = read_lines(path, progress="off")
    sink = await read(source)
    assert sink.data == ["foo", "", "bär"]
    assert sink.ids == [f"{path}#1:{offset}" for offset in (0, 5, 6)]
    assert sink.headers == [{"file": str(path), "line": str(n)} for n in (1, 2, 3)]
    assert source.counts == {"stored": 3, "open": 0}


@dataclass
class Row:
    id: int
    name: str


async def test_json_lines_and_csv_are_read_as_a_type(tmp_path: Path) -> None:
    jsonl = tmp_path / "in.jsonl"
    jsonl.write_text('{"id": 1, "name": "a"}\n\n{"id": 2, "name": "b"}\n', encoding="utf-8")
    assert (await read(read_lines(jsonl, format="json", type=Row, progress="off"))).data == [
        Row(1, "a"),
        Row(2, "b"),
    ]
    table = tmp_path / "in.csv"
    table.write_text('\ufeffid,name\r\n1,"a, ""b""\nc"\r\n\r\n2,d\r\n', encoding="utf-8")
    sink = await read(read_lines(table, format="csv", type=Row, progress="off"))
    assert sink.data == [Row(1, 'a, "b"\nc'), Row(2, "d")]
    assert [headers["line"] for headers in sink.headers] == ["2", "5"]
    assert (await read(read_lines(table, format="csv", progress="off"))).data[1] == {
        "id": "2",
        "name": "d",
    }


@pytest.mark.parametrize(
    ("format", "content", "why"),
    [
        ("text", b"good\n\xff\ngood\n", "utf-8"),
        ("text", b"good\n" + b"x" * 200 + b"\ngood\n", "longer than max_line=100"),
        ("json", b'{}\n{"a"\n{}', "truncated"),
        ("json", b"{}\n[1]\n{}", "Expected `object`"),
        ("csv", b"a,b\n1,2\n1,2,3\n1,2\n", "it has 3 fields, the header 2"),
        ("csv", b'a,b\n1,2\n1,"2"x\n1,2\n', "no record of CSV"),
    ],
)
async def test_a_line_that_cannot_be_read_is_rejected_alone_and_named(
    format: Any, content: bytes, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "in"
    path.write_bytes(content)
    source = read_lines(path, format=format, max_line=100, progress="off")
    sink = await read(source)
    assert len(sink.data) == 2
    assert source.counts == {"stored": 2, "rejected": 1, "open": 0}
    assert why in caplog.text
    assert f"(line {3 if format == 'csv' else 2})" in caplog.text


def test_every_record_of_csv_on_standard_input_is_read() -> None:
    program = """
        import asyncio
        from tailrace import Channel, Group, Message, Receiver
        from tailrace.listen import read_lines
        async def show(inbox: Receiver[Message[dict[str, str]]]) -> None:
            async for message in inbox:
                print(message.data)
                message.ack()
        async def main():
            lines = Channel[Message[dict[str, str]]]()
            async with Group() as go:
                go(read_lines("-", format="csv", progress="off"), lines)
                go(show, lines)
        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        input="a,b\n1,2\n3,4\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["{'a': '1', 'b': '2'}", "{'a': '3', 'b': '4'}"]


async def test_each_file_that_is_followed_has_the_header_of_its_own(tmp_path: Path) -> None:
    one, other, later = (tmp_path / f"{name}.csv" for name in ("a", "b", "c"))
    one.write_text("a,b\n1,2\n", encoding="utf-8")
    other.write_text("c\n3\n", encoding="utf-8")
    later.write_text("", encoding="utf-8")
    came = Channel[dict[str, str]](10)

    async def tell(inbox: Receiver[Message[dict[str, str]]]) -> None:
        async for message in inbox:
            await came.send(message.data)
            message.ack()

    lines = Channel[Message[dict[str, str]]]()
    async with asyncio.timeout(30), Group() as go:
        go(read_lines(tmp_path / "*.csv", format="csv", follow=True), lines)
        go(tell, lines)
        assert [await came.recv() for _ in range(2)] == [{"a": "1", "b": "2"}, {"c": "3"}]
        for path, text in ((one, "4,5\n"), (later, "d\n6\n")):
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        found = [await came.recv() for _ in range(2)]  # of the files in either order
        assert sorted(found, key=len) == [{"d": "6"}, {"a": "4", "b": "5"}]
        go.drain()


async def test_what_the_types_own_code_raises_rejects_the_line(tmp_path: Path) -> None:
    @dataclass
    class Odd:
        a: int

        def __post_init__(self) -> None:
            if self.a == 2:
                raise LookupError("two")

    path = tmp_path / "in"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n', encoding="utf-8")
    source = read_lines(path, format="json", type=Odd, progress="off")
    assert [row.a for row in (await read(source)).data] == [1, 3]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("quoted", [False, True])
def test_chunks_of_any_size_make_the_same_lines(
    chunk: int, quoted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_files, "CHUNK", chunk)
    path = tmp_path / "in"
    content = b'a\n\n"b\nc",d\n' + b"e" * 30 + b'\n"' + b"f\n" * 20 + b"g\nlast"
    path.write_bytes(content)

    def lines() -> list[Line]:
        file = LineFile(str(path), max_line=20, table=quoted)
        found: list[Line] = []
        while (some := file.read()) is not None:
            found += some
        found += file.rest()
        file.close()
        return found if file.header is None else [file.header, *found]

    found = lines()
    monkeypatch.setattr(lines_files, "CHUNK", 1024)
    assert found == lines()
    ends = [0, *(line.end for line in found)]
    assert ends[-1] == len(content)
    for start, line in zip(ends, found, strict=False):
        assert line.offset == start
        assert line.data is None or content[start : line.end].removesuffix(b"\n") == line.data
    assert [line.data for line in found][:3] == (
        [b"a", b"", b'"b\nc",d'] if quoted else [b"a", b"", b'"b']
    )


async def test_archives_globs_and_standard_input_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("1\n2\n", encoding="utf-8")
    (tmp_path / "b.log").write_bytes(gzip.compress(b"3\n4"))
    (tmp_path / "c.txt").write_text("5\n", encoding="utf-8")
    assert (await read(read_lines(tmp_path / "*.log", progress="off"))).data == list("1234")
    program = """
        import asyncio
        from tailrace import Channel, Group, Message, Receiver
        from tailrace.listen import read_lines
        async def show(inbox: Receiver[Message[int]]) -> None:
            async for message in inbox:
                print(message.id, message.data + 1)
                message.ack()
        async def main():
            lines = Channel[Message[int]]()
            async with Group() as go:
                go(read_lines("-", type=int), lines)
                go(show, lines)
        asyncio.run(main())
    """
    done = subprocess.run(  # noqa: ASYNC221 (nothing else runs)
        [sys.executable, "-c", textwrap.dedent(program)],
        input="1\n22\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["-#1:0 2", "-#1:2 23"]


async def test_no_more_lines_are_unsettled_than_may_be(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_text("x\n" * 1000, encoding="utf-8")
    held: list[Message[Any]] = []
    most = 0

    def hold(message: Message[Any]) -> None:
        nonlocal most
        held.append(message)
        most = max(most, len(held))
        if len(held) == 10:
            asyncio.get_running_loop().call_soon(release)

    def release() -> None:
        while held:
            held.pop(random.randrange(len(held))).ack()

    source = read_lines(path, in_flight=10, progress="off")
    await read(source, Sink(hold))
    assert source.counts == {"stored": 1000, "open": 0}
    assert most == 10


# --- checkpoints ----------------------------------------------------------------------------------


async def test_the_next_run_goes_on_and_repeats_what_failed(tmp_path: Path) -> None:
    path, kept = tmp_path / "in", tmp_path / "kept"
    path.write_text("a\nbad\nc\n", encoding="utf-8")
    first = await read(read_lines(path, checkpoint=kept, progress="off"), Sink(fail_some))
    with path.open("a", encoding="utf-8") as file:
        file.write("d\n")
    source = read_lines(path, checkpoint=kept, progress="off")
    second = await read(source)
    assert second.data == ["bad", "d"]
    assert second.ids[0] == first.ids[1]
    assert source.counts == {"stored": 4, "open": 0}
    assert (await read(read_lines(path, checkpoint=kept, progress="off"))).data == []


async def test_a_repeated_line_is_stored_once_though_a_stage_adds_the_time(tmp_path: Path) -> None:
    path, kept, database = tmp_path / "in", tmp_path / "kept", tmp_path / "t.db"
    path.write_text("a\nb\n", encoding="utf-8")
    times = iter(range(100))

    def stamped(line: str) -> dict[str, Any]:
        return {"line": line, "at": next(times)}

    async def run(checkpoint: Path) -> dict[str, int]:
        source = read_lines(path, checkpoint=checkpoint, progress="off")
        lines = Channel[Message[str]]()
        rows = Channel[Message[dict[str, Any]]]()
        async with Group() as go:
            go(source, lines)
            go(each(stamped), lines, rows)
            go(store_sqlite(database), rows)
        return dict(source.counts)

    assert await run(kept) == {"stored": 2, "open": 0}
    kept.unlink()  # as after a kill before the first checkpoint
    assert await run(kept) == {"stored": 2, "open": 0}
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (2,)


async def test_an_import_of_which_too_much_fails_stops_and_goes_on_later(tmp_path: Path) -> None:
    path, kept = tmp_path / "in", tmp_path / "kept"
    path.write_text("".join(f"bad {n}\n" for n in range(100)), encoding="utf-8")
    with pytest.raises(ExceptionGroup) as stopped:
        await read(read_lines(path, checkpoint=kept, in_flight=5, progress="off"), Sink(fail_some))
    assert isinstance(stopped.value.exceptions[0], TailraceError)
    assert "in_flight" in str(stopped.value.exceptions[0])
    source = read_lines(path, checkpoint=kept, progress="off")
    sink = await read(source)
    assert sorted(sink.data) == sorted(f"bad {n}" for n in range(100))
    assert source.counts == {"stored": 100, "open": 0}


async def test_an_import_that_stopped_goes_on_with_the_same_options(tmp_path: Path) -> None:
    path, kept = tmp_path / "in", tmp_path / "kept"
    path.write_text("".join(f"bad {n}\n" for n in range(20)), encoding="utf-8")

    def again() -> ReadLines[Any]:
        return read_lines(path, checkpoint=kept, in_flight=5, progress="off")

    with pytest.raises(ExceptionGroup):
        await read(again(), Sink(fail_some))
    source = again()
    assert len((await read(source)).data) == 20
    assert source.counts == {"stored": 20, "open": 0}


async def test_a_repeated_line_that_is_rejected_moves_nothing_back(tmp_path: Path) -> None:
    path, kept = tmp_path / "in", tmp_path / "kept"
    path.write_text("bad\n1\n2\n", encoding="utf-8")
    await read(read_lines(path, checkpoint=kept, progress="off"), Sink(fail_some))
    source = read_lines(path, type=int, checkpoint=kept, progress="off")
    assert (await read(source)).data == []
    assert source.counts == {"stored": 2, "rejected": 1, "open": 0}
    assert (await read(read_lines(path, checkpoint=kept, progress="off"))).data == []


async def test_another_file_under_the_name_is_a_new_generation(tmp_path: Path) -> None:
    path, kept = tmp_path / "in", tmp_path / "kept"
    path.write_text("same\nold\n", encoding="utf-8")
    await read(read_lines(path, checkpoint=kept, progress="off"))
    with path.open("a", encoding="utf-8") as file:
        file.write("written before it was renamed\n")
    path.rename(tmp_path / "in.1")
    path.write_text("same\nnew\n", encoding="utf-8")
    sink = await read(read_lines(path, checkpoint=kept, progress="off"))
    assert sink.data == ["written before it was renamed", "same", "new"]
    assert sink.ids == [f"{path}#1:9", f"{path}#2:0", f"{path}#2:5"]
    assert (await read(read_lines(path, checkpoint=kept, progress="off"))).data == []


async def test_a_file_that_is_gone_with_lines_that_failed_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, kept = tmp_path / "in", tmp_path / "kept"
    path.write_text("bad\n", encoding="utf-8")
    await read(read_lines(path, checkpoint=kept, progress="off"), Sink(fail_some))
    path.unlink()
    path.write_text("other\n", encoding="utf-8")
    assert (await read(read_lines(path, checkpoint=kept, progress="off"))).data == ["other"]
    assert "is gone, with 1 lines that failed or were lost" in caplog.text


async def test_a_new_generation_is_kept_before_its_first_line_is_sent(tmp_path: Path) -> None:
    path, kept = tmp_path / "in", tmp_path / "kept"
    path.write_text("a\n", encoding="utf-8")
    seen: list[Any] = []

    def look(message: Message[Any]) -> None:
        seen.append(json.loads(kept.read_text(encoding="utf-8"))["files"][0]["generation"])
        message.ack()

    await read(read_lines(path, checkpoint=kept, progress="off"), Sink(look))
    assert seen == [1]


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("a\n", encoding="utf-8")
    kept = tmp_path / "kept"
    for content in (
        "",
        "{}",
        "[]",
        '{"version": 9}',
        '{"version": 1, "files": [{}], "counts": {}}',
    ):
        kept.write_text(content, encoding="utf-8")
        with pytest.raises(ExceptionGroup) as failed:
            asyncio.run(read_all(read_lines(tmp_path / "in", checkpoint=kept, progress="off")))
        assert "is no checkpoint of read_lines" in str(failed.value.exceptions[0])
        assert kept.read_text(encoding="utf-8") == content  # nothing is overwritten


async def read_all(source: ReadLines[Any]) -> None:
    await read(source)


KILLED = """
import asyncio, os, random, sqlite3, sys
from tailrace import Channel, Group, Message, Receiver
from tailrace.listen import read_lines

path, kept, table, seed = sys.argv[1:]
random.seed(int(seed))
database = sqlite3.connect(table, isolation_level=None)
database.execute("CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY, data TEXT)")
left = random.randrange(1, 400)

async def store(inbox: Receiver[Message[str]]) -> None:
    global left
    async for message in inbox:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)
        if random.random() < 0.02:
            message.fail("now and then")
        else:
            database.execute("INSERT OR IGNORE INTO rows VALUES (?, ?)", (message.id, message.data))
            message.ack()

async def main():
    import tailrace.listen.lines.source as source
    source.SAVE_EVERY = 0.0
    lines = Channel[Message[str]](5)
    reader = read_lines(path, checkpoint=kept, in_flight=50, progress="off")
    async with Group() as go:
        go(reader, lines)
        go(store, lines, actors=3)
    print(reader.counts["stored"], reader.counts["open"])

asyncio.run(main())
"""


def test_an_import_that_is_killed_again_and_again_stores_each_line_once(tmp_path: Path) -> None:
    path, kept, table = tmp_path / "in", tmp_path / "kept", tmp_path / "t.db"
    lines = [f"line {n}" for n in range(1500)]
    path.write_text("\n".join(lines), encoding="utf-8")
    arguments = [str(path), str(kept), str(table)]
    killed = 0
    for seed in range(60):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, *arguments, str(seed)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode == -9:
            killed += 1
        else:
            assert done.returncode == 0, done.stderr
            if done.stdout.split()[1] == "0":
                break
    else:
        pytest.fail("the import never ended")
    with contextlib.closing(sqlite3.connect(table)) as database:
        rows = database.execute("SELECT data FROM rows").fetchall()
    assert Counter(data for (data,) in rows) == Counter(lines)
    assert done.stdout.split() == ["1500", "0"]
    assert killed >= 3


# --- following ------------------------------------------------------------------------------------


async def test_what_is_written_is_followed_through_rotation_until_the_drain(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_text("1\n", encoding="utf-8")
    came = Channel[str](10)

    async def tell(inbox: Receiver[Message[str]]) -> None:
        async for message in inbox:
            await came.send(message.data)
            message.ack()

    lines = Channel[Message[str]]()
    source = read_lines(path, follow=True)
    async with asyncio.timeout(30), Group() as go:
        go(source, lines)
        go(tell, lines)
        assert await came.recv() == "1"
        log = path.open("a", encoding="utf-8")
        log.write("2\n3")
        log.flush()
        assert await came.recv() == "2"
        path.rename(tmp_path / "in.1")
        log.write(" whole\n4\n")  # the writer has not noticed yet
        log.close()
        path.write_text("5\n", encoding="utf-8")
        assert [await came.recv() for _ in range(3)] == ["3 whole", "4", "5"]
        path.unlink()
        path.write_text("1\n", encoding="utf-8")  # the first line of another file is the same
        assert await came.recv() == "1"
        go.drain()
    assert source.counts == {"stored": 6, "open": 0}


async def test_a_file_to_follow_may_come_later(tmp_path: Path) -> None:
    path = tmp_path / "in"
    lines = Channel[Message[str]]()
    async with asyncio.timeout(30), Group() as go:
        go(read_lines(path, follow=True), lines)
        path.write_text("a\n", encoding="utf-8")
        with lines.receiving() as inbox:
            message = await inbox.recv()
            assert message.data == "a"
            message.ack()
            go.drain()


# --- arguments ------------------------------------------------------------------------------------


async def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as failed:
        await read(read_lines(tmp_path / "none*", progress="off"))
    assert "there is no file" in str(failed.value.exceptions[0])


@pytest.mark.parametrize(
    "options",
    [
        {"path": "-", "follow": True},
        {"path": "-", "checkpoint": "kept"},
        {"format": "xml"},
        {"in_flight": 0},
        {"in_flight": 1.5},
        {"max_line": 0},
        {"progress": "loud"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match="read_lines: "):
        read_lines(options.pop("path", "in"), **options)


async def test_a_source_of_lines_is_for_one_actor(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("a\n", encoding="utf-8")
    channel = Channel[Message[str]]()
    with pytest.raises(ExceptionGroup) as failed:
        async with Group() as go:
            go(read_lines(tmp_path / "in", progress="off"), channel, actors=2)
            go(Sink(), channel)
    assert "for one actor" in str(failed.value.exceptions[0])


async def test_progress_is_shown_by_lines_or_by_a_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailrace.listen.lines import meter

    monkeypatch.setattr(meter, "EVERY", 0.0)
    path = tmp_path / "in"
    path.write_text("a\n" * 100, encoding="utf-8")
    await read(read_lines(path))
    shown = capsys.readouterr().err
    assert f"{path}: 100 lines, " in shown
    assert "100%, 0 s left" in shown
    await read(read_lines(path, progress="bar"))
    assert "100%" in capsys.readouterr().err
