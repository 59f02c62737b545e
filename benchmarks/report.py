"""Tables and JSON of a work's results. Every figure is computed here from the samples; none is typed."""

from __future__ import annotations

import datetime
import json
import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks.facts import machine
from benchmarks.model import Measure, Sample, Target
from benchmarks.peers import HERE
from benchmarks.runner import Options, Outcome, Result
from benchmarks.works import work

BEST_PEER = "best peer"
NUMBER = "number"
NONE = "-"


def number(value: float) -> str:
    """A number with four significant digits, in full from 1,000 on."""
    if math.isnan(value):
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def median(outcome: Outcome) -> float:
    return statistics.median(s.value for s in outcome.samples) if outcome.samples else math.nan


def find(result: Result, name: str) -> Outcome | None:
    return next((o for o in result.outcomes if o.contender.name == name), None)


def subject(result: Result) -> Outcome | None:
    return next((o for o in result.outcomes if o.contender.role == "subject"), None)


def judged_value(outcome: Outcome | None, fact_name: str) -> float:
    """The median of an outcome's values, or of one of its facts; nan where there is none."""
    if outcome is None or not outcome.samples:
        return math.nan
    if not fact_name:
        return median(outcome)
    return statistics.median(float(s.facts[fact_name]) for s in outcome.samples)


def best_peer(result: Result, target: Target) -> Outcome | None:
    """The peer with the best median, among those that the target is about."""
    peers = [o for o in result.outcomes if o.contender.role == "peer" and o.samples]
    peers = [o for o in peers if not (target.shipped and o.contender.by_hand)]
    if target.among is not None:
        fact_name, least = target.among
        peers = [o for o in peers if statistics.median(float(s.facts[fact_name]) for s in o.samples) >= least]
    pick = max if result.measure.higher_is_better else min
    return pick(peers, key=median) if peers else None


def judged(result: Result, target: Target) -> dict[str, Any]:
    """A target with the ratio reached and whether that is enough; None where something was not measured."""
    value = judged_value(subject(result), target.fact)
    yard, name = 1.0, ""
    if target.against == BEST_PEER:
        best = best_peer(result, target)
        yard, name = judged_value(best, target.fact), best.contender.name if best else "no peer"
    elif target.against != NUMBER:
        yard, name = judged_value(find(result, target.against), target.fact), target.against
    ratio = value / yard
    reached: bool | None = None
    if not math.isnan(ratio):
        above = target.at_least is None or ratio >= target.at_least
        reached = above and (target.at_most is None or ratio <= target.at_most)
    return {
        "says": target.says,
        "against": name,
        "fact": target.fact,
        "ratio": None if math.isnan(ratio) else ratio,
        "at_least": target.at_least,
        "at_most": target.at_most,
        "reached": reached,
    }


def target_line(verdict: dict[str, Any], unit: str) -> str:
    word = {True: "**reached**", False: "**NOT reached**", None: "not measured"}[verdict["reached"]]
    bounds = [f"at least {number(verdict['at_least'])}"] if verdict["at_least"] is not None else []
    bounds += [f"at most {number(verdict['at_most'])}"] if verdict["at_most"] is not None else []
    what = f"lakefmt ÷ {verdict['against']}" if verdict["against"] else f"lakefmt, {verdict['fact'] or unit}"
    had = NONE if verdict["ratio"] is None else number(verdict["ratio"])
    return f"- Target: {verdict['says']} ({what}: {had}, wanted {' and '.join(bounds)}): {word}"


def fact_names(result: Result) -> list[str]:
    names: dict[str, None] = {}
    for outcome in result.outcomes:
        for sample in outcome.samples:
            names.update(dict.fromkeys(sample.facts))
    return list(names)


def fact(samples: list[Sample], name: str) -> str:
    """A fact's median where it is a number, else what the last sample said."""
    values = [s.facts[name] for s in samples if name in s.facts]
    if not values:
        return NONE
    if any(isinstance(v, str) for v in values):
        return str(values[-1])
    return number(statistics.median(float(v) for v in values))


def row(result: Result, outcome: Outcome, names: list[str]) -> str:
    ours = subject(result)
    value = median(outcome)
    label = outcome.contender.name + (" (limit)" if outcome.contender.role == "limit" else "")
    if not outcome.samples:
        return f"| {label} | {outcome.error or NONE} |" + " - |" * (2 + len(names))
    low, high = (pick(s.value for s in outcome.samples) for pick in (min, max))
    ratio = "" if outcome is ours or ours is None else number(median(ours) / value)
    shown = f"{number(value)} ({outcome.error})" if outcome.error else number(value)
    facts = "".join(f" {fact(outcome.samples, name)} |" for name in names)
    return f"| {label} | {shown} | {number(low)} to {number(high)} | {ratio} |{facts}"


def table(result: Result) -> list[str]:
    m: Measure = result.measure
    names = fact_names(result)
    better = "higher is better" if m.higher_is_better else "lower is better"
    heads = [f"{m.unit}, median", "lowest to highest", "lakefmt ÷ it", *names]
    lines = [f"### {m.title}", "", f"{m.unit}; {better}.", ""]
    lines += ["| | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(heads)]
    ordered = sorted(result.outcomes, key=lambda o: _rank(o, m.higher_is_better))
    lines += [row(result, outcome, names) for outcome in ordered]
    if m.targets:
        lines += ["", *(target_line(judged(result, t), m.unit) for t in m.targets)]
    lines += ["", "How:", "", *(f"- {o.contender.name}: {o.contender.how}" for o in result.outcomes), ""]
    return lines


def _rank(outcome: Outcome, higher: bool) -> float:
    value = median(outcome)
    if math.isnan(value):
        return math.inf
    return -value if higher else value


def versions(results: list[Result]) -> dict[str, dict[str, str]]:
    """Versions of each contender's environment, as its last sample told them."""
    return {o.contender.name: o.samples[-1].versions for r in results for o in r.outcomes if o.samples}


def as_data(name: str, results: list[Result], options: Options) -> dict[str, Any]:
    """Everything about a run of a work, for the JSON file; the plot is drawn from it."""
    return {
        "work": name,
        "title": work(name).TITLE,
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "small": options.small,
        "repeats": options.repeats,
        "machine": machine(),
        "versions": versions(results),
        "measures": [
            {
                "name": r.measure.name,
                "title": r.measure.title,
                "unit": r.measure.unit,
                "higher_is_better": r.measure.higher_is_better,
                "targets": [judged(r, t) for t in r.measure.targets],
                "contenders": [_outcome_data(o) for o in r.outcomes],
            }
            for r in results
        ],
    }


def _outcome_data(o: Outcome) -> dict[str, Any]:
    return {
        "name": o.contender.name,
        "role": o.contender.role,
        "how": o.contender.how,
        "median": None if math.isnan(median(o)) else median(o),
        "error": o.error,
        "samples": [
            {
                "value": s.value,
                "raw": s.raw,
                "raw_unit": s.raw_unit,
                "facts": s.facts,
                "load_1min": s.load_1min,
            }
            for s in o.samples
        ],
    }


def as_markdown(name: str, results: list[Result], data: dict[str, Any], options: Options) -> str:
    facts = data["machine"]
    lines = [f"# {name}: {data['title']}", ""]
    if options.small:
        lines += [
            "**A small run, on less data than the titles say: it shows that all works, not how fast.**",
            "",
        ]
    lines += [
        f"Made by `python -m benchmarks {name}` on {data['day']}: "
        f"{facts['cores']} cores ({facts['processor']}), "
        f"{facts['memory_gb']} GB of memory, {facts['system']}, Python {facts['python']}. "
        f"Medians of {options.repeats} interleaved processes; files in the page cache.",
        "",
    ]
    if options.peers is not None:
        lines += [f"Only these peers were asked: {', '.join(sorted(options.peers)) or 'none'}.", ""]
    for result in results:
        lines += table(result)
    if any(r.measure.name and (HERE / "plot.py").is_file() for r in results):
        lines += [f"![plot]({name}.png)", ""]
    lines += ["Versions:", ""]
    for who, found in data["versions"].items():
        lines.append(f"- {who}: " + ", ".join(f"{package} {version}" for package, version in found.items()))
    return "\n".join(lines) + "\n"


def write_results(name: str, results: list[Result], options: Options, out: Path) -> Path:
    """Write ``<name>.json`` and ``<name>.md``; the answer is the JSON's path."""
    out.mkdir(parents=True, exist_ok=True)
    data = as_data(name, results, options)
    place = out / f"{name}.json"
    place.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    (out / f"{name}.md").write_text(as_markdown(name, results, data, options))
    return place
