"""One actor at a time, where a `Group` starts a whole stage."""

from __future__ import annotations

from typing import Any


def spawn(core: Any, coroutine: Any, name: str = "an actor") -> Any:
    """Start an actor of that core; nobody hears of its end."""
    (actor,) = core.spawn([coroutine], name, 0, lambda ended: None)
    return actor
