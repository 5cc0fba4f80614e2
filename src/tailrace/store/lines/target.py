"""A file of lines as the target of a store."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from tailrace.errors import Reject, StoreError
from tailrace.store.lines.encode import Encoder, Format, encoder
from tailrace.store.lines.file import LineFile
from tailrace.store.target import Messages, Written

T = TypeVar("T")


class LinesTarget(Generic[T]):
    """A `BlockingTarget`: one file. `kind` is the type of the data, None if not known yet."""

    def __init__(self, path: str, format: Format, kind: Any, file: LineFile) -> None:
        self._path = path
        self._format: Format = format
        self._kind = kind
        self._file = file
        self._encoder: Encoder | None = None
        self._checked = 0  # the `opened` of the file whose header fits

    def __repr__(self) -> str:
        return f"<LinesTarget {self._file!r}>"

    def open(self, element: Any) -> None:
        """Open the file, make it if there is none, and mend its end.

        StoreError if that is impossible, or if the file is not one for this type.
        """
        if self._kind is None:
            self._kind = element
        try:
            self._file.ready()
        except OSError as error:
            raise StoreError(f"cannot write {self._path!r}: {error.strerror or error}") from error
        if self._kind is not None:
            try:
                self._check_header(self._encoder_of(self._kind))
            except TypeError as error:
                raise StoreError(str(error)) from error

    def _encoder_of(self, kind: Any) -> Encoder:
        if self._encoder is None:
            known = self._file.header() if self._format == "csv" else None
            self._encoder = encoder(self._format, kind, known)
        return self._encoder

    def _check_header(self, encode: Encoder) -> None:
        """StoreError if the file has another header than these lines."""
        if self._checked == self._file.opened:
            return
        wanted = encode.header()
        if wanted is not None:
            found = self._file.header()
            if found not in (None, wanted):
                raise StoreError(
                    f"{self._path!r} has the header {found!r}, but these lines have {wanted!r}"
                )
        self._checked = self._file.opened

    def write(self, messages: Messages[T], /) -> Written:
        """Append the lines of the messages, except those that are refused."""
        self._file.ready()
        # The type of the lines may not be known: take that of the first one.
        encode = self._encoder_of(type(messages[0].data) if self._kind is None else self._kind)
        self._check_header(encode)
        lines: list[bytes] = []
        refused: dict[int, Exception] = {}
        for position, message in enumerate(messages):
            try:
                lines.append(encode(message.data).encode())
            except (ValueError, OverflowError) as error:
                refused[position] = Reject(_why(error))
            except Exception as error:  # of user code, or a wrong type
                refused[position] = error
        if lines:
            self._file.append(encode.header(), b"\n".join([*lines, b""]))
        return Written(refused=refused)

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "a text with a lone surrogate cannot be written"
    return str(error)
