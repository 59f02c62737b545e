"""Where the peers' virtual environments are (``peers.sh`` makes them), and the surroundings their processes
get.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = ("deeplake3", "deeplake4", "lance", "delta", "mosaicml", "litdata", "webdataset", "hf")
PLOT = "plot"
"""The environment with matplotlib, for a harness that has none itself."""


def peers_dir() -> Path:
    return Path(os.environ.get("LAKEFMT_BENCH_PEERS", HERE / ".peers"))


def interpreter(peer: str) -> Path | None:
    """The Python of a peer (the harness's own for an empty name), or None where it is not installed."""
    if not peer:
        return Path(sys.executable)
    place = peers_dir() / peer
    return place / "bin" / "python" if (place / ".recipe").is_file() else None


def recipe(peer: str) -> str:
    """What a peer's environment was made of."""
    place = peers_dir() / peer / ".recipe"
    return place.read_text() if peer and place.is_file() else ""


def surroundings(data: Path) -> dict[str, str]:
    """The environment variables of a measuring process: nobody phones home, no caches outside the data
    folder.
    """
    quiet = {
        "BUGGER_OFF": "true",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(data / "hf-home"),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | quiet
