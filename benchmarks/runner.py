"""Runs works: data sets once, stores once, then contenders in turn (A B C A B C …), each in a process of its
own.

The contenders are interleaved so that a noisy minute of a shared machine falls on all of them alike.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.model import SUBJECT, Contender, Measure, Sample, Task
from benchmarks.peers import HERE, interpreter, recipe, surroundings
from benchmarks.works import work

TIMEOUT_S = 1800
NOT_INSTALLED = "not installed"


@dataclass(frozen=True)
class Options:
    """What the command line chose."""

    data: Path
    small: bool
    repeats: int
    peers: frozenset[str] | None
    """The peers to measure; None for all."""
    images: Path
    budget_mb: int

    @property
    def root(self) -> Path:
        return self.data / ("small" if self.small else "full")


@dataclass
class Outcome:
    """All that one contender answered for one measure; ``error`` ends its turns."""

    contender: Contender
    samples: list[Sample] = field(default_factory=list)
    error: str = ""


@dataclass
class Result:
    """A measure with the outcomes of its contenders."""

    measure: Measure
    outcomes: list[Outcome]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def clean(text: str, options: Options) -> str:
    """A message without the paths of this machine, cut to a table's width."""
    places = ((options.data, "<data>"), (HERE.parent, "<project>"), (Path.home(), "~"))
    for place, name in places:
        text = text.replace(str(place.resolve()), name).replace(str(place), name)
    return " ".join(text.split())[:160].replace("|", "\\|")


def run_task(task: Task, peer: str, options: Options) -> Sample:
    """Do a task in the contender's interpreter; whatever goes wrong is the sample's ``error``."""
    python = interpreter(peer)
    if python is None:
        return Sample(error=NOT_INSTALLED)
    log = options.root / "logs" / f"{task.work}-{task.measure or task.phase}-{task.contender or 'data'}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(python), str(HERE / "worker.py"), task.dumps()]
    with log.open("w") as err:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            env=surroundings(options.data),
            cwd=options.root,
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(timeout=TIMEOUT_S)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return Sample(error=f"no answer within {TIMEOUT_S} s")
    if not out.strip():
        last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
        return Sample(error=clean(f"exit status {process.returncode}: {last}", options))
    sample = Sample.loads(out.strip().splitlines()[-1])
    sample.error = clean(sample.error, options)
    return sample


def generated(name: str, options: Options) -> str:
    """Make a data set if it is not there as the generator stands today; the answer stands for its content."""
    folder = options.root / "data" / name
    stamp = folder / ".stamp"
    source = inspect.getsource(vars(work(name))["generate"])
    wanted = hashlib.sha256(f"{source}{options.images if name == 'jpegs' else ''}".encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return wanted
    say(f"[{name}] making the data set")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    task = Task(name, "generate", str(folder.parent), small=options.small, images=str(options.images))
    sample = run_task(task, "", options)
    if sample.error:
        raise RuntimeError(f"the data set '{name}' could not be made: {sample.error}")
    stamp.write_text(wanted)
    return wanted


def chosen(measure: Measure, options: Options) -> list[Contender]:
    return [c for c in measure.contenders if options.peers is None or not c.peer or c.peer in options.peers]


def store_error(contender: Contender, base: Task, content: str, options: Options) -> str:
    """Write the contender's dataset if it is not there; the answer says what went wrong, if anything.

    A peer's is kept between runs while its data, the code that writes it and its packages stay the same;
    lakefmt's, which changes by the hour, is written anew.
    """
    path = Path(base.store)
    stamp = path.with_name(path.name + ".stamp")
    code = inspect.getsource(sys.modules[f"benchmarks.works.{base.work}"])
    wanted = hashlib.sha256(f"{content}{code}{recipe(contender.peer)}".encode()).hexdigest()
    if contender.store != SUBJECT and stamp.is_file() and stamp.read_text() == wanted:
        return ""
    shutil.rmtree(path, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    say(f"[{base.work}] writing the dataset of {contender.store}")
    error = run_task(replace(base, phase="write", contender=contender.store), contender.peer, options).error
    if error:
        return error if error == NOT_INSTALLED else f"writing: {error}"
    stamp.write_text(wanted)
    return ""


def turns(results: list[Result], repeats: int) -> Iterator[tuple[int, Result, Outcome]]:
    """Everybody's first turn, then everybody's second, …"""
    for repeat in range(repeats):
        for result in results:
            for outcome in result.outcomes:
                if not outcome.error:
                    yield repeat, result, outcome


def task_for(name: str, measure: Measure, contender: Contender, repeat: int, options: Options) -> Task:
    """The task of measuring a contender: on its kept store, or with a scratch folder of its own."""
    kept = contender.store if measure.reads_stores else ""
    store = kept or f"scratch-{measure.name}-{contender.name}".replace(" ", "-")
    return Task(
        work=name,
        phase="measure",
        data=str(options.root / "data"),
        store=str(options.root / "stores" / name / store),
        measure=measure.name,
        contender=contender.name,
        small=options.small,
        repeat=repeat,
        images=str(options.images),
        budget_mb=options.budget_mb,
    )


def write_stores(name: str, results: list[Result], content: str, options: Options) -> None:
    """Write what the measures read; who fails at that has no turns."""
    errors: dict[str, str] = {}
    for result in results:
        for outcome in result.outcomes:
            contender = outcome.contender
            if not (result.measure.reads_stores and contender.store):
                continue
            if contender.store not in errors:
                task = task_for(name, result.measure, contender, 0, options)
                errors[contender.store] = store_error(contender, task, content, options)
            outcome.error = errors[contender.store]
    os.sync()  # so that nobody is measured while the disk still takes in what was written


def run_work(name: str, options: Options) -> list[Result]:
    """All measures of one work."""
    module = work(name)
    options.root.mkdir(parents=True, exist_ok=True)
    content = "".join(generated(data, options) for data in module.DATA)
    results = [Result(m, [Outcome(c) for c in chosen(m, options)]) for m in module.MEASURES]
    write_stores(name, results, content, options)
    for repeat, result, outcome in turns(results, options.repeats):
        contender, measure = outcome.contender, result.measure
        sample = run_task(task_for(name, measure, contender, repeat, options), contender.peer, options)
        outcome.error = sample.error
        if not sample.error:
            outcome.samples.append(sample)
        heard = sample.error or f"{sample.value:,.6g} {measure.unit}"
        say(f"[{name} {repeat + 1}/{options.repeats}] {measure.name}: {contender.name}: {heard}")
    return results
