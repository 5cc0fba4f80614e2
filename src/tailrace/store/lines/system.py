"""What is asked of the operating system: which file it is, a lock, and that it is on the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

from tailrace.errors import StoreError

Identity: TypeAlias = "tuple[int, int]"


def identity(file: int | Path) -> Identity | None:
    """Which file this is: its device and number. None if there is none."""
    try:
        status = os.fstat(file) if isinstance(file, int) else file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def open_or_make(path: Path) -> tuple[int, bool]:
    """A descriptor that appends, and whether the file is new."""
    flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags), False
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o666), True


def lock(file: int, path: Path) -> None:
    """Lock an open file, until it is closed. StoreError if another writer has locked it.

    On systems and file systems without locks nothing is guaranteed.
    """
    module = _fcntl()
    if module is None:
        return
    try:
        module.flock(file, module.LOCK_EX | module.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(
            f"another writer has {str(path)!r} open: each needs a file of its own"
        ) from error
    except OSError:
        return


def unlock(file: int) -> None:
    """Unlock. Closing is not enough: a process that was forked has the file open too."""
    module = _fcntl()
    if module is not None:
        try:
            module.flock(file, module.LOCK_UN)
        except OSError:
            pass


def sync(file: int) -> None:
    """Return when the file is on the disk; on macOS, past the cache of the drive."""
    module = _fcntl()
    full = getattr(module, "F_FULLFSYNC", None)
    if module is not None and full is not None:
        try:
            module.fcntl(file, full)
        except OSError:  # not on this file system
            pass
        else:
            return
    os.fsync(file)


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk."""
    if os.name == "nt":  # cannot open a folder
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _fcntl() -> Any:
    """The module `fcntl`; None on Windows."""
    try:
        import fcntl
    except ImportError:
        return None
    return fcntl
