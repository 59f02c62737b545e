"""``python -m benchmarks [work …]``: measure lakefmt and its peers; write tables, JSON and plots."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.peers import HERE, PEERS, PLOT, interpreter
from benchmarks.report import write_results
from benchmarks.runner import Options, run_work, say
from benchmarks.works import NAMES


def images_default() -> Path:
    """The folder of real JPEGs shared beside the project if it is there, else the demo images the project
    ships.
    """
    shared = HERE.parent.parent / "shared" / "data" / "imagenet"
    return shared if shared.is_dir() else HERE.parent / "lakefmt" / "demo_images"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("works", nargs="*", metavar="work", help=f"which of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--small", action="store_true", help="little data, to see that everything works")
    parser.add_argument("--repeats", type=int, default=0, help="processes for each contender (default: 5, small: 1)")
    parser.add_argument("--peers", help=f"only these of {','.join(PEERS)}; 'none' for lakefmt and the limits")
    parser.add_argument("--out", type=Path, help="folder of the results (default: benchmarks/results, small: data folder)")
    parser.add_argument("--data", type=Path, help="folder of the data (default: $LAKEFMT_BENCH_DATA or benchmarks/.data)")
    parser.add_argument("--images", type=Path, default=images_default(), help="folder of JPEGs that `jpegs` repeats")
    budget = int(os.environ.get("LAKEFMT_BENCH_BUDGET_MB", "512"))
    parser.add_argument("--budget-mb", type=int, default=budget, help="memory budget of `memory`, MB (default: %(default)s)")
    chosen = parser.parse_args(argv)
    for kind, asked, known in (("work", chosen.works, NAMES), ("peer", peer_names(chosen.peers), PEERS)):
        for name in asked:
            if name not in known:
                parser.error(f"no {kind} '{name}'; there are: {', '.join(known)}")
    return chosen


def peer_names(text: str | None) -> list[str]:
    return [name for name in (text or "").split(",") if name and name != "none"]


def plot(place: Path) -> None:
    """Draw the results with this interpreter's matplotlib, or with that of the environment ``plot``."""
    python = sys.executable if importlib.util.find_spec("matplotlib") else interpreter(PLOT)
    if python is None:
        say(f"{place.stem}: no plot: matplotlib is missing here; make it with benchmarks/peers.sh {PLOT}")
        return
    subprocess.run([str(python), str(HERE / "plot.py"), str(place)], check=True)


def main() -> int:
    chosen = arguments()
    data = (chosen.data or Path(os.environ.get("LAKEFMT_BENCH_DATA", HERE / ".data"))).resolve()
    options = Options(
        data=data,
        small=chosen.small,
        repeats=chosen.repeats or (1 if chosen.small else 5),
        peers=frozenset(peer_names(chosen.peers)) if chosen.peers else None,
        images=chosen.images.resolve(),
        budget_mb=chosen.budget_mb,
    )
    out = chosen.out or (options.root / "results" if chosen.small else HERE / "results")
    failed = 0
    for name in chosen.works or NAMES:
        results = run_work(name, options)
        place = write_results(name, results, options, out)
        plot(place)
        sys.stdout.write((out / f"{name}.md").read_text() + "\n")
        failed += sum(1 for r in results for o in r.outcomes if o.contender.role == "subject" and o.error)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
