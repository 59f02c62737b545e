"""How datasets and views look in a terminal and in a notebook."""

from __future__ import annotations

import html
import sys
from typing import Any

from lakefmt.errors import counted
from lakefmt.rowset import Rowset
from lakefmt.versioning.clock import time_text
from lakefmt.versioning.records import version_id

#: Rows whose shapes are read one by one to be shown.
_ROWS_LOOKED_AT_MAX = 10_000
_COLUMNS = ("tensor", "htype", "shape", "dtype", "compression")


def _table(rowset: Rowset) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, tensor in rowset.tensors.items():
        dtype = tensor.dtype
        label = "str" if tensor.htype == "text" else "json" if tensor.htype == "json" else "-" if dtype is None else dtype.name
        rows.append((name, tensor.htype, _shape(rowset, tensor), label, tensor.sample_compression or "-"))
    return rows


def _shape(rowset: Rowset, tensor: Any) -> str:
    """``(5, 3, …)``; ``(5, varies)`` where samples differ in their number of dimensions."""
    shape = tensor.shape if len(rowset) <= _ROWS_LOOKED_AT_MAX or not getattr(rowset, "is_view", False) else None
    if shape is None:
        return "?"
    dims = ["…" if d is None else str(d) for d in shape]
    bounds = getattr(rowset, "_shape_bounds", None)
    unknown = len(dims) == 1 and tensor.htype not in ("text", "json") and (bounds is None or bounds(tensor.name) is None)
    if unknown and 1 < len(tensor) <= _ROWS_LOOKED_AT_MAX:
        ranks = {len(s) for s in tensor.shapes() if s is not None}
        dims += ["varies"] if len(ranks) > 1 else []
    return f"({', '.join(dims)}{',' if len(dims) == 1 else ''})"


def _title(rowset: Any) -> str:
    count = counted(len(rowset), "row")
    if getattr(rowset, "is_view", False):
        query = getattr(rowset, "query_text", None)
        return f"View({count}, version {rowset.version_id}" + (f", query={query!r})" if query else ")")
    where = f"branch {rowset.branch!r}" if rowset.branch else f"version {rowset.version_id}"
    return f"Dataset({rowset.path!r}, {count}, {where}{', read-only' if rowset.read_only else ''})"


def describe(rowset: Rowset) -> str:
    """A title line and a table of tensors."""
    return "\n".join([_title(rowset), *_lines([_COLUMNS, *_table(rowset)])]) if rowset.tensors else _title(rowset)


def _lines(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    text = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return [text[0], "  ".join("-" * w for w in widths), *text[1:]]


def describe_html(rowset: Rowset) -> str:
    """The same for a notebook."""
    head = "".join(f"<th style='text-align:left'>{c}</th>" for c in _COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(c)}</td>" for c in r) + "</tr>" for r in _table(rowset)
    )
    return f"<div><b>{html.escape(_title(rowset))}</b><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def print_summary(rowset: Rowset) -> None:
    """Print what ``repr`` shows."""
    sys.stdout.write(describe(rowset) + "\n")


def print_log(dataset: Any, *, everything: bool = False) -> None:
    """Print the named versions, newest first; or all of them."""
    from lakefmt.versions import commits_of, counts_of, operation_of

    where = f"branch {dataset.branch}" if dataset.branch else f"version {dataset.version_id}"
    lines = [f"{dataset.path} ({where})", ""]
    heads = dataset.history()
    for since in ([h] for h in heads) if everything else commits_of(heads):
        head = since[0]
        if head.named or everything:
            when = time_text(head.ts_ms)
            rows = {o: n for o, n in counts_of(since).items() if n and (o != "compact" or len(since) == 1)}
            counts = ", ".join(f"{operation} {counted(n, 'row')}" for operation, n in rows.items())
            lines += [
                f"commit {version_id(head.branch, head.v)}", f"  author  {head.author}", f"  time    {when}",
                f"  message {head.message or ''}", f"  did     {operation_of(since)}" + (f" ({counts})" if counts else ""),
                f"  rows    {head.rows:,}", "",
            ]  # fmt: skip
    sys.stdout.write("\n".join(lines) + "\n")
