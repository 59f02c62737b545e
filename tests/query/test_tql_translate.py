"""What ``translate`` returns besides the SQL: parameters, columns, reads, source; and draws can be repeated."""

import subprocess
import sys

import numpy as np
import pytest
from tql_table import CATALOG, connection, execute

from lakefmt.errors import TqlError
from lakefmt.query.translate import Column, translate


def rows_of(query: str, parameters: object = None, seed: int = 0) -> list[int]:
    return execute(translate(query, CATALOG, parameters, seed))[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("query", "parameters", "plain"),
    [
        ("select * where n > ? and text == ?", [1, "Apple"], "n > 1 and text == 'Apple'"),
        ("select * where n > $low and n < $high and n > $low", {"low": 0, "high": 4}, "n > 0 and n < 4"),
        ("labels == ?", ["cat"], "labels == 'cat'"),
        ("n in ?", [[1, 2, 3]], "n in (1, 2, 3)"),
        ("labels in $names", {"names": ["cat", "dog"]}, "labels in ('cat', 'dog')"),
        (
            "cosine_similarity(emb, ?) > 0.5",
            [np.array([1, 2, 3.0])],
            "cosine_similarity(emb, array[1,2,3]) > 0.5",
        ),
        (
            "cosine_similarity(emb, ?) > ?",
            [[1, 2, 3], np.float32(0.5)],
            "cosine_similarity(emb, array[1,2,3]) > 0.5",
        ),
        ("any(emb == ?)", [np.ones(3, np.int8)], "any(emb == array[1,1,1])"),
        ("line[?] > 1", [2], "line[2] > 1"),
        ("text like ?", ["a*"], "text like 'a*'"),
    ],
)
def test_parameters_are_as_literals(query: str, parameters: object, plain: str) -> None:
    assert rows_of(query, parameters) == rows_of(f"select * where {plain}")


def test_limit_parameter() -> None:
    assert rows_of("select * limit ? offset ?", [3, 2]) == [2, 3, 4]
    assert rows_of("select top ? *", [3]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("query", "parameters", "message"),
    [
        ("n > ?", [], "no value was given"),
        ("n > ?", [1, 2], "number 2 is not used"),
        ("n > $a", {"a": 1, "b": 2}, r"\$b is not used"),
        ("n > $a", [1], "needs parameters given by name"),
        ("n > ?", {"a": 1}, "no value was given"),
        ("n > ?", [object()], "cannot be used in a query"),
        ("labels == ?", ["plane"], "no class 'plane'"),
    ],
)
def test_parameter_errors(query: str, parameters: object, message: str) -> None:
    with pytest.raises(TqlError, match=message):
        translate(query, CATALOG, parameters)  # type: ignore[arg-type]


def test_texts_are_bound_never_pasted() -> None:
    evil = "x'; DROP TABLE t; --"
    translation = translate("select *, concat(text, ?) as c where text == $1".replace("$1", "?"), CATALOG, [evil, evil])
    assert evil not in translation.sql
    assert translation.parameters == [evil, evil]
    execute(translation)
    path = translate("select * where meta[?] == 1 and meta[?] == 2", CATALOG, ["a'b", 'c"d\\'])
    assert execute(path)[0] == []


def test_columns() -> None:
    query = """select n, labels as kind, n * 2 as twice, text == 'a' as same, upper(text) as up, meta['a'] as a,
        points * 2 as p, grid[0] as g, greatest(n, 1) as top"""
    assert translate(query, CATALOG).columns == (
        Column("n", "n", None, "tensor"),
        Column("kind", "labels", None, "tensor"),
        Column("twice", None, "_c0", "number", "int64"),
        Column("same", None, "_c1", "bool"),
        Column("up", None, "_c2", "text"),
        Column("a", None, "_c3", "json"),
        Column("p", None, "_c4", "array", "int64", None, "_c4__shape"),
        Column("g", None, "_c5", "array", "uint8", (5,)),
        Column("top", None, "_c6", "number", "int64"),
    )


def test_star_then_name_moves_the_name_last() -> None:
    names = [c.name for c in translate("select *, labels, n * 2 as m", CATALOG).columns]
    assert names == [*(n for n in CATALOG if n != "labels"), "labels", "m"]


@pytest.mark.parametrize(
    ("query", "reads"),
    [
        ("select *", set()),
        ("select * where shape(image)[0] > 3", {(1, "shape")}),
        ("select * where any(boxes[:,3] > 3)", {(2, "value")}),
        ("select * where any(points[:,3] > 3)", {(12, "value"), (12, "shape")}),
        ("select * where shape(grid)[0] == 4", set()),
        ("select labels order by n", {(8, "value")}),
        ("select * where image is null", {(1, "shape")}),
        ("select *, line * 2 as l where _id > 3", {(13, "value")}),
        ("select * from (select *, score + 1 as s limit 3) where s > 2", {(5, "value")}),
    ],
)
def test_reads(query: str, reads: set[tuple[int, str]]) -> None:
    catalog = dict(CATALOG)
    if "image is null" in query:
        image = catalog["image"]
        catalog["image"] = type(image)(image.definition, 3, None, True)
    assert translate(query, catalog).reads == reads


@pytest.mark.parametrize(
    ("query", "source"),
    [
        ("select *", None),
        ("select * from t where n > 1", "t"),
        ('select * from "s3://bucket/a b@v1.2" as x', "s3://bucket/a b@v1.2"),
        ('select * from (select * from "p@main" limit 3) as q', "p@main"),
        ("n > 3", None),
    ],
)
def test_source(query: str, source: str | None) -> None:
    assert translate(query, CATALOG).source == source


def test_random_depends_on_row_and_seed_only() -> None:
    first = rows_of("select * order by random()", seed=1)
    assert first == rows_of("select * order by random()", seed=1)
    assert first != rows_of("select * order by random()", seed=2)
    assert sorted(first) == list(range(len(first)))
    with_threads = connection().cursor()
    with_threads.execute("SET threads = 4")
    assert first == rows_of("select * order by random()", seed=1)
    with_threads.execute("SET threads = 1")
    assert rows_of("select * where random() == random()") == []


def test_long_chains() -> None:
    query = " or ".join(f"n == {k}" for k in range(2000))
    assert rows_of(query) == rows_of("n >= 0")
    query = f"n in ({', '.join(map(str, range(5000)))})"
    assert rows_of(query) == rows_of("n >= 0")


def test_names_are_case_sensitive() -> None:
    assert translate("N > 1", CATALOG).reads == {(18, "value")}
    assert translate("n > 1", CATALOG).reads == {(8, "value")}


def test_keywords_are_not_reserved_as_tensor_names() -> None:
    tensor = CATALOG["n"]
    for name in ("row", "date", "top", "comment", "key", "index", "type", "first", "count"):
        assert translate(f"select {name} where {name} > 1 order by {name} desc", {name: tensor}).reads


def test_package_does_not_import_sqlglot_or_duckdb() -> None:
    code = "import sys, lakefmt; sys.exit(any(m in sys.modules for m in ('sqlglot', 'duckdb')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
