"""What machine this is, without its name or its paths."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def _first(path: str, prefix: str) -> str:
    """The value of the first ``prefix: value`` line of a /proc file; empty where there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(prefix)), "")


def machine() -> dict[str, str | int | float]:
    """Cores, processor, memory in GB (10^9 bytes), system and Python."""
    kib = _first("/proc/meminfo", "MemTotal").split()
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "processor": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "memory_gb": round(int(kib[0]) * 1024 / 1e9, 1) if kib else 0.0,
        "system": platform.system(),
        "python": platform.python_version(),
    }
