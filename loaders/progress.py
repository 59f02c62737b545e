"""A live line for a loader, drawn by tqdm: batches, rows a second, how much of the time the consumer waits, and what for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lakefmt.errors import MissingExtra

if TYPE_CHECKING:
    from lakefmt.loaders.session import Session


def lined(items: Iterator[Any], session: Session, total: int) -> Iterator[Any]:
    """``items``, with a line kept up to date while they are handed out.

    Raises:
        MissingExtra: tqdm is not installed.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError as e:
        raise MissingExtra("a progress bar", "cli") from e
    return _lined(items, session, tqdm(total=total, unit="row" if session.job.single_rows else "batch"))


def _lined(items: Iterator[Any], session: Session, bar: Any) -> Iterator[Any]:
    with bar:
        for item in items:
            if bar.update():  # it has just drawn: what it says is of now
                bar.set_postfix_str(told(session.stats.report()), refresh=False)
            yield item
            del item
        bar.set_postfix_str(told(session.stats.report()))


def told(report: dict[str, Any]) -> str:
    """``12,345 rows/s, 3 % waiting``, and for what."""
    rate = report["rows_per_s"]
    elapsed = report["rows"] / rate if rate else 0.0
    share = min(1.0, report["wait_s"] / elapsed) if elapsed else 0.0
    what = "" if report["bound_by"] in (None, "consumer") else f" for {report['bound_by']}"
    return f"{rate:,.0f} rows/s, {share:.0%} waiting{what}"
