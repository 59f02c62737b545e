"""Runs a query: translate, make the relation, execute, and turn the ordered rows into a view."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from lakefmt import random
from lakefmt.cells import Array, Cells, Dense, Strings
from lakefmt.errors import InvalidInput, TqlError
from lakefmt.pending import Live
from lakefmt.query.catalog import Catalog
from lakefmt.query.computed import computed_cells
from lakefmt.query.engine import answer, cursor
from lakefmt.query.failures import refusal
from lakefmt.query.scan import build, catalog_of
from lakefmt.query.translate import Column, Translation, translate
from lakefmt.rowset import Rowset
from lakefmt.view import View

_Parameters = Sequence[Any] | Mapping[str, Any] | None


def run_query(rowset: Rowset, tql: str, parameters: _Parameters = None) -> View:
    """The rows of a dataset or view that a query selects; see ``Rowset.query``."""
    source, catalog, plan = _planned(rowset, tql, parameters)
    return _view(rowset, source, plan, execute(source, catalog, plan, tql), tql)


def rows_to_change(rowset: Rowset, where: str, parameters: _Parameters = None) -> View:
    """The rows that a condition selects for being deleted or updated.

    Raises:
        TqlError: a number stands where a condition is meant: ``delete("1")`` would be every row, ``delete("x")`` most of them.
    """
    source, catalog, plan = _planned(rowset, where, parameters)
    if plan.unclear:
        start, end = plan.unclear[0]
        raise TqlError(
            "to delete or update rows takes a condition, and this is a value: compare it with something (x > 0; _row = 5 is "
            'one row), or say true for all rows',
            where, start, end - start,
        )  # fmt: skip
    return _view(rowset, source, plan, execute(source, catalog, plan, where), where)


def _check_text(tql: object) -> None:
    if not isinstance(tql, str):
        raise InvalidInput(f"a query is a str, got {tql!r}")


def _planned(rowset: Rowset, tql: str, parameters: _Parameters) -> tuple[Any, Catalog, Translation]:
    """What a query runs on, and its translation."""
    source = rowset.source()
    _check_text(tql)
    if isinstance(_snapshot(source), Live):
        raise InvalidInput("this view has rows that are not in storage yet: commit() first, then make and query the view")
    catalog = catalog_of(source)
    plan = translate(tql, catalog, parameters, seed=random.next_seed())
    if plan.source is not None:
        raise TqlError(
            f"this query names its dataset ({plan.source!r}) but runs on one already: leave FROM out, or use lakefmt.query(…)",
            tql,
        )
    return source, catalog, plan


def run_query_anywhere(tql: str, parameters: _Parameters = None) -> View:
    """A query whose FROM names the dataset."""
    from lakefmt.api import load

    _check_text(tql)
    source = translate_source(tql)
    if source is None:
        raise TqlError('this query names no dataset: write select … from "path@version" where …, or use ds.query(…)', tql)
    rowset = load(source, read_only=True)
    rows = rowset.source()
    catalog = catalog_of(rows)
    plan = translate(tql, catalog, parameters, seed=random.next_seed())
    return _view(rowset, rows, plan, execute(rows, catalog, plan, tql), tql)


def translate_source(tql: str) -> str | None:
    """What stands after FROM in a query, before anything is known of the dataset."""
    from lakefmt.query.grammar import source_of

    return source_of(tql)


def evaluate(rowset: Rowset, tql: str) -> Array:
    """A numeric TQL expression for every row, float64 (n,): sampling weights."""
    cells = _evaluated(rowset, tql)
    if not isinstance(cells, Dense) or cells.values.shape[1:] not in ((), (1,)):
        raise InvalidInput(f"the weights {tql!r} are not one number a row")
    return cells.values.reshape(len(cells.values)).astype(np.float64)


def values_of(rowset: Rowset, tql: str) -> Array | pa.Array:
    """A TQL expression for every row, numbers as a NumPy array (n,) and texts as an Arrow array: a class a row."""
    cells = _evaluated(rowset, tql)
    if isinstance(cells, Strings) and not cells.is_json:
        return cells.values
    if not isinstance(cells, Dense) or cells.values.shape[1:] not in ((), (1,)):
        raise InvalidInput(f"the classes {tql!r} are not one number or text a row; a query can leave out rows without")
    return cells.values.reshape(len(cells.values))


def _evaluated(rowset: Rowset, tql: str) -> Cells:
    opening = "select "
    try:
        view = run_query(rowset, f"{opening}{tql} as _value")
    except TqlError as e:  # shown in what the user wrote
        if e.position is None:
            raise TqlError(e.reason, tql) from e
        raise TqlError(e.reason, tql, min(max(0, e.position - len(opening)), len(tql)), e.length) from e
    cells = view._selection.computed.get("_value")
    return view._selection.gather("_value", np.arange(len(view))) if cells is None else cells


def execute(source: Any, catalog: Any, plan: Translation, tql: str) -> pa.Table:
    """The result of a translated query, in order.

    Raises:
        TqlError: DuckDB refuses it (a value that does not convert, a function that does not take these arguments), or it takes
            longer than it may.
        StoreError: DuckDB could not read its files, or write its own.
    """
    store = _snapshot(source).reader.store
    connection = cursor(store.local_path(""))
    try:
        build(connection, source, catalog, plan.reads)
        return answer(connection, plan.sql, plan.parameters)
    except TimeoutError as e:
        raise TqlError(f"the query was stopped: {e}", tql) from e
    except duckdb.Error as e:
        raise refusal(e, tql, catalog) from e
    finally:
        with contextlib.suppress(duckdb.OperationalError):  # of a query that the user gave up waiting for: it is at work still
            connection.close()


def _snapshot(source: Any) -> Any:
    return source.base if hasattr(source, "computed") else source


def _view(rowset: Rowset, source: Any, plan: Translation, result: pa.Table, tql: str) -> View:
    rows = result.column("_row").to_numpy().astype(np.int64)
    names = {c.name: c.tensor for c in plan.columns if c.tensor is not None}
    computed = {c.name: _cells(c, result) for c in plan.columns if c.tensor is None}
    return View(source, rows, names=names, computed=computed, origin=rowset, query_text=tql)


def _cells(column: Column, result: pa.Table) -> Cells:
    """A computed column, with the dtype and shape the translator knows."""
    shapes = result.column(column.shape_name).to_pylist() if column.shape_name is not None else None
    try:
        cells = computed_cells(result.column(column.sql_name).combine_chunks(), column.dtype, column.shape, shapes)
    except InvalidInput as e:
        raise InvalidInput(f"column {column.name!r}: {e}") from e
    return Strings(cells.values, is_json=True) if isinstance(cells, Strings) and column.kind == "json" else cells
