"""TQL on DuckDB: queries over tensors, and saved views.

Text becomes a syntax tree, the tree SQL over a relation ``t`` that the scan makes of a snapshot; the result is ordered row
positions and computed columns, and tensors are fetched afterwards, for those rows only. ``spec/TQL.md`` is normative.
"""

import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from lakefmt.query.run import evaluate, rows_to_change, run_query, run_query_anywhere, values_of
from lakefmt.query.translate import translate
from lakefmt.query.views import ViewEntry, delete_view, list_views, load_view, save_view
from lakefmt.view import View

__all__ = [
    "ViewEntry", "delete_view", "evaluate", "list_views", "load_view", "rows_to_change", "run_query", "run_query_anywhere",
    "save_view", "translate", "values_of",
]  # fmt: skip


class _Callable(ModuleType):
    """``lakefmt.query`` is this package and, as users write it, also a function: ``lakefmt.query('select … from "path"')``."""

    def __call__(self, tql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> View:
        """Run a TQL query that names its dataset."""
        return run_query_anywhere(tql, parameters)


sys.modules[__name__].__class__ = _Callable
