"""The actor of `read_lines`: it makes a message of each line, and knows what became of each."""

from __future__ import annotations

import asyncio
import functools
import glob
import logging
import math
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast

from tailrace.arguments import check_count
from tailrace.channel import Sender
from tailrace.errors import TailraceError
from tailrace.ledger import Ledger, counting
from tailrace.listen.lines.checkpoint import Checkpoint, Progress, save
from tailrace.listen.lines.decode import BYTE_ORDER_MARK, Blank, Format, decoder
from tailrace.listen.lines.files import HEAD, STDIN, Line, LineFile
from tailrace.listen.lines.meter import Meter, Style, check_style, meter
from tailrace.listen.lines.window import BLANK, Origin, Window
from tailrace.message import Message
from tailrace.message.internals import PLACE, FailureLog, message_of
from tailrace.select import done, select
from tailrace.worker import Worker

__all__ = ["ReadLines"]

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

SLICE: Final = 64  # lines are sent so many at a time
SAVE_EVERY: Final = 1.0  # seconds between two checkpoints
POLL_EVERY: Final = 0.25  # seconds between two looks at a file that is followed

_log = logging.getLogger("tailrace")


class _Stopped(Exception):
    """The drain has begun."""


class ReadLines(Generic[T]):
    """What `read_lines` makes: an actor object, to be started once."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        format: Format,
        kind: Any,
        checkpoint: str | os.PathLike[str] | None,
        follow: bool,
        in_flight: int,
        max_line: int,
        progress: Style,
    ) -> None:
        self.path = os.fspath(path)
        if self.path == STDIN and (checkpoint is not None or follow):
            raise ValueError(
                "read_lines: standard input can be neither followed nor read again: it takes no "
                "checkpoint and no follow"
            )
        check_count("read_lines: in_flight", in_flight)
        check_count("read_lines: max_line", max_line)
        self.name = f"read_lines({self.path})"
        self._decoder = decoder(format, kind)
        self._saved = None if checkpoint is None else Path(checkpoint)
        self._follow = follow
        self._in_flight = in_flight
        self._max_line = max_line
        self._style: Style = check_style(progress)
        self._checkpoint = Checkpoint()
        self._window: Window | None = None
        self._ledger: Ledger | None = None
        self._worker = Worker(self.name)
        self._draining = asyncio.Event()
        self._failures = FailureLog(self.name)
        self._meter: Meter | None = None
        self._files: list[LineFile] = []
        self._reading: LineFile | None = None
        self._read_before = 0  # bytes of the files before it
        self._save_due = -math.inf
        self._text = ""

    no_restart: Final = (
        "it reads lines in order, once; with a checkpoint, the next run of the program goes on"
    )

    def __repr__(self) -> str:
        return self.name

    @property
    def counts(self) -> Mapping[str, int]:
        """How many lines ended how: "stored", "aborted", "rejected" or "dead"; and "open", those
        that failed, were lost or are not settled yet. With a checkpoint, of all runs together."""
        still = 0
        if self._window is not None:
            self._window.advance()
            still = self._window.behind + self._window.again
        return MappingProxyType({**self._checkpoint.counts, "open": still})

    async def __call__(self, out: Sender[Message[T]]) -> None:
        """The actor: until the last line was sent. See `read_lines`."""
        if self._window is not None:
            raise ValueError(f"{self!r} is for one actor, once: lines are read in order")
        self._window = Window(self._in_flight, self._checkpoint.counts)
        self._ledger = counting.get()
        try:
            if self._saved is not None:
                self._checkpoint = await self._blocking(Checkpoint.load, self._saved)
                self._text = self._checkpoint.text()
                self._window.counts = self._checkpoint.counts
                self._window.again = sum(len(file.again) for file in self._checkpoint.files)
            await self._read(self._window, out)
        except _Stopped:
            return
        except BaseException:
            self._close()
            raise

    async def drain(self) -> None:
        """Read no further."""
        self._draining.set()

    async def finish(self) -> None:
        """Wait until all lines that were sent are settled, and save the checkpoint."""
        window = self._window
        if window is None:
            return
        try:
            window.advance()
            while window.open:
                await window.news().wait()
                window.advance()
                self._show()
        finally:
            self._close()

    # --- files ------------------------------------------------------------------------------

    async def _read(self, window: Window, out: Sender[Message[T]]) -> None:
        for place in [place for place in self._checkpoint.files if place.again]:
            await self._read_again(place, out)
        while window.open:  # only then is it known which of them have failed once more
            await self._next_settle(window)
        for place in self._checkpoint.files[:]:
            if place.end is None and await self._blocking(_is_renamed, place):
                await self._read_older(place, out)
        names = self._names()
        if not names and not self._follow:
            raise FileNotFoundError(f"read_lines: there is no file {self.path}")
        self._meter = meter("off" if self._follow else self._style, self.path, _total(names))
        if self._follow:
            await self._read_following(out)
        for name in [] if self._follow else names:
            file, place = await self._open(name)
            self._reading = file
            self._show()
            try:
                await self._read_to_end(file, place, out)
            finally:
                self._read_before += file.at
                self._reading = None
                self._shut(file)

    def _names(self) -> list[str]:
        if self.path == STDIN or Path(self.path).exists():
            return [self.path]
        names = glob.iglob(self.path, recursive=True)  # noqa: PTH207  # Path has no such function
        return sorted(name for name in names if Path(name).is_file())

    async def _open(self, name: str) -> tuple[LineFile, Progress]:
        """Open a file at the place that it was read to; a file that is new has a new generation."""
        file = await self._line_file(name)
        try:
            place = self._checkpoint.latest(name)
            if place is None or not _is_of(place, file):
                generation = 1 if place is None else place.generation + 1
                place = Progress(name, generation, file.identity)
                self._checkpoint.files.append(place)
                await self._save()
            elif place.identity is not None and place.identity.length < HEAD:
                place.identity = file.identity  # it may have grown since
            await self._blocking(file.seek, place.offset, place.number)
        except BaseException:
            self._shut(file)
            raise
        return file, place

    async def _line_file(self, name: str) -> LineFile:
        return await self._blocking(self._open_in_thread, name)

    def _open_in_thread(self, name: str) -> LineFile:
        file = LineFile(name, max_line=self._max_line, table=self._decoder.table)
        self._files.append(file)  # whoever waits for it may be cancelled: see `_close`
        return file

    def _shut(self, file: LineFile) -> None:
        """Close a file, after what the thread is doing with it."""
        self._files.remove(file)
        self._worker.submit(file.close)

    def _close_files(self) -> None:
        for file in self._files:
            file.close()

    # --- reading ----------------------------------------------------------------------------

    async def _read_to_end(self, file: LineFile, place: Progress, out: Sender[Message[T]]) -> None:
        while (lines := await self._blocking(file.read)) is not None:
            await self._send(file, place, lines, out)
        await self._send(file, place, file.rest(), out)

    async def _read_following(self, out: Sender[Message[T]]) -> None:
        """Read what is written to the files, and to those that come to have their names."""
        files: dict[str, tuple[LineFile, Progress]] = {}
        try:
            while True:
                moved = False
                for name in self._names():
                    if name not in files:
                        files[name] = await self._open(name)
                for name, (file, place) in list(files.items()):
                    lines = await self._blocking(file.read)
                    if lines is None and await self._blocking(_is_over, file):
                        await self._read_to_end(file, place, out)  # written before it was renamed
                        place.end = file.offset
                        self._shut(files.pop(name)[0])
                    moved |= lines is not None
                    await self._send(file, place, lines or [], out)
                if not moved:
                    await self._pause()
        finally:
            for file, _ in files.values():
                self._shut(file)

    async def _pause(self) -> None:
        assert self._window is not None
        self._window.advance()
        await self._save_if_due()
        index, _ = await select(done(self._draining), timeout=POLL_EVERY)
        if index == 0:
            raise _Stopped

    async def _read_older(self, place: Progress, out: Sender[Message[T]]) -> None:
        """Read the rest of a file that was renamed since."""
        async with self._found(place) as file:
            if file is not None:
                await self._blocking(file.seek, place.offset, place.number)
                await self._read_to_end(file, place, out)
            place.end = place.offset if file is None else file.offset

    async def _read_again(self, place: Progress, out: Sender[Message[T]]) -> None:
        """Read the lines once more that failed or were lost."""
        async with self._found(place) as file:
            if file is None:
                return
            for offset, number in sorted(place.again):
                line = await self._blocking(file.line_at, offset, number)
                if line is not None:
                    await self._send(file, place, [line], out, repeated=True)

    @asynccontextmanager
    async def _found(self, place: Progress) -> AsyncGenerator[LineFile | None, None]:
        """The file of a place, open, under whatever name it has now; None if it is gone."""
        path = None
        if place.identity is not None:
            path = await self._blocking(place.identity.find, Path(place.name))
        if path is None:
            _log.warning(
                "%s: %s, generation %d, is gone, with %d lines that failed or were lost",
                *(self.name, place.name, place.generation, len(place.again)),
            )
            yield None
            return
        file = await self._line_file(str(path))
        try:
            yield file
        finally:
            self._shut(file)

    # --- sending ----------------------------------------------------------------------------

    async def _send(
        self,
        file: LineFile,
        place: Progress,
        lines: list[Line],
        out: Sender[Message[T]],
        *,
        repeated: bool = False,
    ) -> None:
        """Send lines of a file in order, as far as there is room for them."""
        window = self._window
        assert window is not None
        header = b""
        if file.header is not None:
            header = b"" if file.header.data is None else _trimmed(file.header, self._max_line)
            if place.offset == 0:
                place.offset, place.number = file.header.end, file.header.next_number
        origin = Origin(window, place, repeated)
        at = 0
        while at < len(lines):
            if self._draining.is_set():
                raise _Stopped
            window.advance()
            if not repeated:
                self._check_failures(window)
            room = min(window.room, SLICE)
            if room > 0:
                messages = self._messages(window, origin, lines[at : at + room], header)
                at += room
                await out.send_many(messages)
                del messages
            else:
                await self._next_settle(window)
            self._show()
            await self._save_if_due()

    async def _next_settle(self, window: Window) -> None:
        """Wait until a line is settled, and count it."""
        index, _ = await select(done(window.news()), done(self._draining))
        if index == 1:
            raise _Stopped
        window.advance()

    def _messages(
        self, window: Window, origin: Origin, lines: list[Line], header: bytes
    ) -> list[Message[T]]:
        """The messages of those lines that are not blank or rejected."""
        decode, ledger = self._decoder, self._ledger
        name = origin.file.name
        place = f"{name}#{origin.file.generation}:"
        messages: list[Message[T]] = []
        for line in lines:
            try:
                data = decode(_trimmed(line, self._max_line), header)
            except Blank:
                window.skip(origin, line, BLANK)
            except Exception as error:
                # Of a line's own fault nobody needs a traceback; of the type's code, its author
                # does.
                why = str(error) if isinstance(error, ValueError) else error
                self._failures.add(f"{place}{line.offset} (line {line.number})", why)
                window.skip(origin, line, "rejected")
                if ledger is not None:
                    ledger.settled("rejected", 0)
            else:
                headers = {"file": name, "line": str(line.number)}
                settled = window.add(origin, line)
                id = f"{place}{line.offset}"
                messages.append(message_of(data, id, settled, headers, PLACE, ledger))
        return messages

    def _check_failures(self, window: Window) -> None:
        if self._saved is not None and window.again >= self._in_flight:
            raise TailraceError(
                f"{self.name} stops: {window.again} lines have failed or were lost, as many as "
                f"in_flight allows; the next run with {self._saved} reads them again"
            )

    # --- the checkpoint -----------------------------------------------------------------------

    async def _save_if_due(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._saved is not None and now >= self._save_due:
            self._save_due = now + SAVE_EVERY
            await self._save()

    async def _save(self) -> None:
        if self._saved is not None:
            text = self._checkpoint.text()
            if text != self._text:
                await self._blocking(save, self._saved, text)
                self._text = text

    def _close(self) -> None:
        """Save what is known, and let the thread end."""
        window = self._window
        if window is not None:
            window.advance()
        self._show()
        if self._meter is not None:
            self._meter.close()
        self._failures.rest()
        self._worker.submit(self._close_files)  # after what the thread may be doing
        self._worker.shutdown(wait=False)
        # Not before the checkpoint was read: nothing is known then.
        if (
            self._saved is not None
            and self._text
            and (text := self._checkpoint.text()) != self._text
        ):
            save(self._saved, text)

    def _show(self) -> None:
        if self._meter is not None:
            read = self._read_before + (self._reading.at if self._reading is not None else 0)
            self._meter.show(sum(self._checkpoint.counts.values()), read)

    async def _blocking(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function that blocks in the thread; a drain does not wait for it. Cancelled: the
        call goes on."""
        call = functools.partial(fn, *args, **kwargs)
        job = asyncio.get_running_loop().run_in_executor(self._worker, call)
        index, result = await select(done(job), done(self._draining), priority=True)
        if index == 1:
            raise _Stopped
        return cast(R, result)


def _trimmed(line: Line, max_line: int) -> bytes:
    """The bytes of a line, without what editors on Windows put around them.

    ValueError if the line is too long, so that its bytes are not known.
    """
    data = line.data
    if data is None:
        raise ValueError(f"it is longer than max_line={max_line} bytes")
    if line.offset == 0:
        data = data.removeprefix(BYTE_ORDER_MARK)
    return data[:-1] if data[-1:] == b"\r" else data


def _is_of(place: Progress, file: LineFile) -> bool:
    """Whether `file` is the one that was read up to `place`, perhaps grown."""
    if place.identity is None or file.identity is None:
        return False
    size = file.size
    return file.head(place.identity.length) == place.identity and (
        size is None or size >= place.offset
    )


def _is_renamed(place: Progress) -> bool:
    """Whether the file of a place has another name now, or is gone."""
    return place.identity is not None and not place.identity.is_of(Path(place.name))


def _is_over(file: LineFile) -> bool:
    return file.is_replaced() or file.is_cut()


def _total(names: list[str]) -> int | None:
    """Bytes of all files together; None if some do not say."""
    try:
        return None if STDIN in names else sum(Path(name).stat().st_size for name in names)
    except OSError:
        return None
