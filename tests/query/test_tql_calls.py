"""What is handed to a query, and what stops one: a mistake in the call is said in our words, whatever its type."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lakefmt
from lakefmt.errors import InvalidInput, NotFound, TqlError


@pytest.fixture(scope="module")
def ds() -> Any:
    made = lakefmt.dataset("mem://tql-calls", overwrite=True)
    made.create_tensor("x", dtype="int64")
    made.create_tensor("s", htype="text")
    made.create_tensor("kind", htype="class_label", class_names=["cat"])
    made.extend({"x": [1, -2, 2**62], "s": ["1", "b", ""], "kind": [0, 0, 0]})
    made.commit()
    return made


@pytest.mark.parametrize(
    "given", [5, True, {5}, frozenset({5}), "5", b"5", np.int64(5), np.array(5), iter([5]), (k for k in [5]), object()], ids=repr
)
def test_parameters_are_a_list_or_a_dict(ds: Any, given: Any) -> None:
    with pytest.raises(InvalidInput, match=r"parameters are a list \(for \?\) or a dict"):
        ds.query("x > ?", given)


@pytest.mark.parametrize("given", [[0], (0,), np.array([0]), range(1)], ids=repr)
def test_lists_of_parameters(ds: Any, given: Any) -> None:
    assert ds.query("x > ?", given).sample_indices.tolist() == [0, 2]


@pytest.mark.parametrize("text", [None, 5, b"x > 1", ["x > 1"], True], ids=repr)
def test_a_query_is_text(ds: Any, text: Any) -> None:
    for ask in (ds.query, lakefmt.query, ds[1:].query):
        with pytest.raises(InvalidInput, match="a query is a str"):
            ask(text)


@pytest.mark.parametrize("bad", ["\0", "\ud800", "a\n", "", "a/b", 5, None])
def test_ids_of_views(ds: Any, bad: Any) -> None:
    for use in (ds.load_view, ds.delete_view):
        with pytest.raises((InvalidInput, NotFound)):
            use(bad)
    with pytest.raises(InvalidInput):
        lakefmt.load(f"{ds.path}/.queries/{bad if isinstance(bad, str) and bad else '.'}")


def test_a_query_of_a_character_that_is_none(ds: Any) -> None:
    assert len(ds.query("s = '\0'")) == 0
    for text, given in (("s = '\ud800'", None), ("s = ?", ["\ud800"]), ("s in ?", [["\ud800"] * 100])):
        with pytest.raises(TqlError):
            ds.query(text, given)


# -- what DuckDB refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("x > 0 and cast(s as int) = 1", "cast(s", r"string '' to INT32 .*column 's'; TRY_CAST leaves missing"),
        ("cast(x as tinyint) = 1", "cast(x", r"out of range .*column 'x'; TRY_CAST"),
        ("cast(s as date) is null", "cast(s", "TRY_CAST"),
        ("x * x > 1", None, "refused the query: Overflow in multiplication .*; CAST one side to DOUBLE"),
        ("x > 1 and lower(kind) = 'cat'", "lower", r"'lower\(UINTEGER\)'; CAST the arguments"),
        ("strptime(s, '%Y') is null", None, "try_strptime leaves missing"), ("regexp_matches(s, '(')", None, "missing \\)"),
    ],
)  # fmt: skip
def test_reasons_name_tensors_and_remedies(ds: Any, text: str, place: str | None, says: str) -> None:
    with pytest.raises(TqlError, match=says) as caught:
        ds.query(text)
    error = caught.value
    assert "need to add explicit" not in str(error)
    assert "Error:" not in str(error)
    assert not re.search(r"\bf\d{6,}", str(error))
    found = None if error.position is None else text[error.position : error.position + error.length]
    assert found == place


@pytest.mark.parametrize(
    "text",
    ["repeat(s, 1000000000) = ''", "lpad(s, 2147483647, 'x') = ''", "rpad('a', 2000000, 'x') = s",
     "repeat(repeat(s, 60000), 60000) = s",
     "length(repeat('abc', 500000)) = 1"],
)  # fmt: skip
def test_texts_too_long_to_be_made_of_every_row(ds: Any, text: str) -> None:
    with pytest.raises(TqlError, match="makes texts of more than 1,048,576 characters") as caught:
        ds.query(text)
    assert caught.value.position is not None
    assert len(ds.query("length(repeat(s, ?)) = 1000", [1000])) == 2
    with pytest.raises(TqlError, match="makes texts of more"):
        ds.query("repeat(s, ?) = ''", [10**9])


# -- stopping --------------------------------------------------------------------------------------------------------------

_SLOW = "levenshtein(repeat(s, 400), repeat(s, 399)) = 1"


@pytest.fixture(scope="module")
def large() -> Any:
    made = lakefmt.dataset("mem://tql-calls-large", overwrite=True)
    made.create_tensor("s", htype="text")
    made.extend({"s": [f"t{k % 7}" for k in range(200_000)]})
    made.commit()
    return made


def test_a_query_is_stopped_when_its_time_is_over(large: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEFMT_QUERY_SECONDS", "0.3")
    with pytest.raises(TqlError, match=r"longer than the 0.3 s that LAKEFMT_QUERY_SECONDS allows"):
        large.query(_SLOW)
    monkeypatch.setenv("LAKEFMT_QUERY_SECONDS", "60")
    assert len(large.query("s = 't1'")) == 28572


@pytest.mark.parametrize("bad", ["soon", "0", "-1", "nan", "1e400"])
def test_a_limit_that_is_none(ds: Any, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEFMT_QUERY_SECONDS", bad)
    with pytest.raises(InvalidInput, match="LAKEFMT_QUERY_SECONDS is"):
        ds.query("x > 0")


def test_memory_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAKEFMT_QUERY_MEMORY", "plenty")
    made = lakefmt.dataset(tmp_path / "set")  # a place that no query has been at
    made.create_tensor("x", dtype="int64")
    made.extend({"x": [1]})
    made.commit()
    with pytest.raises(InvalidInput, match="LAKEFMT_QUERY_MEMORY is 'plenty'"):
        made.query("x > 0")


_PRESSED = f"""
import os, signal, threading, lakefmt
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
ds = lakefmt.dataset("mem://large")
ds.create_tensor("s", htype="text")
ds.extend({{"s": [f"t{{k % 7}}" for k in range(200_000)]}})
ds.commit()
ds.query("s = 't0'")
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    ds.query({_SLOW!r})
except KeyboardInterrupt:
    print("stopped", len(ds.query("s = 't1'")))
"""


def test_control_c_stops_a_query() -> None:
    """In a process of its own: libraries of other tests may have taken the signal for themselves."""
    done = subprocess.run([sys.executable, "-c", _PRESSED], capture_output=True, text=True, check=True, timeout=250)
    assert done.stdout == "stopped 28572\n", "the query went on to its end, which takes minutes"


def test_limits_beyond_all_rows(ds: Any) -> None:
    assert len(ds.query(f"select * limit {2**64 - 1}")) == 3
    assert len(ds.query(f"select * offset {2**64 - 1}")) == 0
