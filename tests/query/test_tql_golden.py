"""Golden pairs: ``golden/<name>.tql`` is a query, ``<name>.sql`` the SQL it must become, its parameters as
comments.

Each is also executed and compared with the oracle. ``LAKEFMT_GOLDEN=write pytest
tests/query/test_tql_golden.py`` writes the SQL anew; read the difference before keeping it.
"""

import os
from pathlib import Path

import pytest
from tql_compare import check
from tql_table import CATALOG, execute

from lakefmt.query.translate import Translation, translate

QUERIES = sorted(Path(__file__).with_name("golden").glob("*.tql"))

#: what the oracle does not speak: Python's spelling, and draws
NOT_IN_ORACLE = {"python_spelling", "random_is_seeded"}


def shown(translation: Translation) -> str:
    lines = [translation.sql, *(f"-- ${k} = {v!r}" for k, v in enumerate(translation.parameters, start=1))]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", QUERIES, ids=lambda p: p.stem)
def test_sql(path: Path) -> None:
    query = path.read_text().strip()
    found = shown(translate(query, CATALOG))
    expected = path.with_suffix(".sql")
    if os.environ.get("LAKEFMT_GOLDEN") == "write":
        expected.write_text(found)
    assert found == expected.read_text()


@pytest.mark.parametrize("path", QUERIES, ids=lambda p: p.stem)
def test_meaning(path: Path) -> None:
    query = path.read_text().strip()
    if path.stem in NOT_IN_ORACLE:
        execute(translate(query, CATALOG))
    else:
        check(query)


def test_every_golden_sql_has_its_query() -> None:
    folder = Path(__file__).with_name("golden")
    assert {p.stem for p in folder.glob("*.sql")} == {p.stem for p in QUERIES}
