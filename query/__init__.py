"""TQL on DuckDB: queries over tensors, and saved views.

Text becomes a syntax tree, the tree SQL over a relation ``t`` that the scan makes of a snapshot; the result is ordered row
positions and computed columns, and tensors are fetched afterwards, for those rows only. ``spec/TQL.md`` is normative.
"""

from lakefmt.query.run import evaluate, run_query, run_query_anywhere
from lakefmt.query.translate import translate
from lakefmt.query.views import ViewEntry, delete_view, list_views, load_view, save_view

__all__ = [
    "ViewEntry", "delete_view", "evaluate", "list_views", "load_view", "run_query", "run_query_anywhere", "save_view", "translate",
]  # fmt: skip
