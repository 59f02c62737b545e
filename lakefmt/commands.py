"""The commands of the ``lakefmt`` command line, as click has them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lakefmt._version import __version__
from lakefmt.errors import counted

_FSCK = """Look a dataset over: its log, and all that its versions refer to.

Exit code: 0, nothing is wrong. 1, something is, which a repair mends or the text says what to do about. 3, only older versions are
broken: files that they need are lost, and the newest versions of all branches are whole. With --repair, it tells how things are
after it. (2: the command was called wrongly.)
"""

_BENCH = """What this machine, this storage and this transform allow a loader, and where its time goes.

Reads the dataset (or a saved view: PATH/.queries/ID) in a loader's order, decodes from memory, runs the transform, and at last the
loader itself; the last line says what bounds it.
"""


@click.group(help="Open, versioned tensor datasets for deep learning.")
@click.version_option(__version__, prog_name="lakefmt")
def cli() -> None: ...


@cli.command(help="The main job on real images: ingest, query, train, branch, compare.")
@click.option("--images", type=click.Path(path_type=Path), help="A folder of JPEGs (default: the small ones shipped).")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("lakefmt-demo"),
    show_default=True,
    help="Where the dataset goes; only what a demo made is replaced.",
)
def demo(images: Path | None, out: Path) -> None:
    from lakefmt.demo import run_demo

    run_demo(images, out, click.echo)


@cli.command(help="What a dataset holds.")
@click.argument("path")
def summary(path: str) -> None:
    from lakefmt import load

    click.echo(repr(load(path, read_only=True)))


@cli.command(help="The named versions of a dataset, newest first.")
@click.argument("path")
def log(path: str) -> None:
    from lakefmt import load

    load(path, read_only=True).log()


@cli.command(help=_BENCH)
@click.argument("path")
@click.option("--batch", "batch_size", type=click.IntRange(min=1), default=64, show_default=True, help="Rows of a batch.")
@click.option("--tensor", "tensors", multiple=True, help="A tensor to load (several times for several; default: all).")
@click.option("--shuffle/--no-shuffle", default=True, show_default=True, help="In random order, or as stored.")
@click.option("--transform", metavar="MODULE:FUNCTION", help="A function of the row (a dict of tensor to sample).")
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Worker processes; 0 for threads.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="Time for each measurement.")
def bench(path: str, **options: Any) -> None:
    from lakefmt.loaders.benching import bench_path

    click.echo(str(bench_path(path, **options)))


@cli.command(help=_FSCK)
@click.argument("path")
@click.option("--full", is_flag=True, help="Read every byte and compare checksums (default: metadata and sizes).")
@click.option(
    "--repair",
    is_flag=True,
    help="Set torn versions aside, take lost files out of the newest versions, name branches that lost their names.",
)
def fsck(path: str, full: bool, repair: bool) -> None:
    from lakefmt.upkeep import look_over

    report, mended = look_over(path, full=full, repair=repair)
    click.echo(repr(report))
    if mended is not None:
        click.echo(repr(mended))
        report, _ = look_over(path, full=full)
        click.echo(
            "after the repair nothing is wrong" if report else f"after the repair: {counted(len(report.problems), 'problem')}"
        )
    for line in report.advice:
        click.echo(line)
    sys.exit(0 if report else 3 if len(report.past) == len(report.problems) else 1)
