"""Numbers with what they count."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """``1 version``, ``2 versions``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
