"""Time, as ages of transactions are counted in it, and as it is shown."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def clock_s() -> float:
    """Seconds that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def time_text(ts_ms: int) -> str:
    """A time, given in milliseconds since the epoch."""
    return f"{datetime.fromtimestamp(ts_ms // 1000, UTC):%Y-%m-%d %H:%M:%S}.{ts_ms % 1000:03} UTC"
