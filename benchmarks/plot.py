"""Draws a work's results as bars: ``python benchmarks/plot.py results/tensors.json …`` writes a PNG beside
each.

It needs matplotlib only, so that it also runs in an environment that has nothing else (``benchmarks/peers.sh
plot``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COLOURS = {"subject": "#d1495b", "peer": "#30638e", "limit": "#9a9a9a"}
LOG_FROM = 30.0
"""Ratio of the longest bar to the shortest from which the axis is logarithmic."""


def bars(axis: Any, measure: dict[str, Any]) -> None:
    """One measure: a bar for each contender's median, whiskers from its lowest to its highest sample."""
    shown = [c for c in measure["contenders"] if c["median"] is not None]
    shown.sort(key=lambda c: c["median"], reverse=not measure["higher_is_better"])
    medians = [c["median"] for c in shown]
    values = [[s["value"] for s in c["samples"]] for c in shown]
    whiskers = [
        [max(0.0, m - min(v)) for m, v in zip(medians, values, strict=True)],
        [max(0.0, max(v) - m) for m, v in zip(medians, values, strict=True)],
    ]
    axis.barh(
        [c["name"] for c in shown],
        medians,
        xerr=whiskers,
        color=[COLOURS[c["role"]] for c in shown],
        capsize=2,
    )
    better = "higher is better" if measure["higher_is_better"] else "lower is better"
    axis.set_title(measure["title"], fontsize=9, loc="left")
    axis.set_xlabel(f"{measure['unit']} ({better})", fontsize=8)
    axis.tick_params(labelsize=8)
    if medians and min(medians) > 0 and max(medians) / min(medians) > LOG_FROM:
        axis.set_xscale("log")
    for c, value, seen in zip(shown, medians, values, strict=True):
        text = f"  {value:,.4g}" if value < 1000 else f"  {value:,.0f}"
        axis.annotate(text, (max(seen), c["name"]), va="center", fontsize=7)
    axis.margins(x=0.15)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def draw(place: Path) -> Path:
    """Draw the PNG of a JSON file of results."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    data = json.loads(place.read_text())
    measures = data["measures"]
    heights = [1.2 + 0.28 * max(1, sum(c["median"] is not None for c in m["contenders"])) for m in measures]
    figure, axes = pyplot.subplots(
        len(measures),
        1,
        figsize=(8, sum(heights)),
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    for axis, measure in zip(axes[:, 0], measures, strict=True):
        bars(axis, measure)
    target = place.with_suffix(".png")
    figure.savefig(target, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return target


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        draw(Path(argument))
