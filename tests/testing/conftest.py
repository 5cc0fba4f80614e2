"""What the tests of the kit share."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from tailrace.testing import plugin


@pytest.fixture
def load() -> list[object]:
    """The `plugins` for an inner pytest run: ours, unless it finds that installed."""
    installed = any(point.name == "tailrace" for point in entry_points(group="pytest11"))
    return [] if installed else [plugin]
