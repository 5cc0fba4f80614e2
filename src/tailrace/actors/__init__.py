"""Layer 4: actors that most programs need, made of channels and messages."""

from __future__ import annotations

from tailrace.actors.each import each

__all__ = ["each"]
