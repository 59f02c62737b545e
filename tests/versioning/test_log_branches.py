"""Branches: begun without moving data, independent from then on, their history going back through their parents."""

from __future__ import annotations

from typing import Any

import pytest
from faulty_stores import values

import lakefmt
from lakefmt.errors import AlreadyExists, Corrupt, InvalidInput, NoSuchVersion
from lakefmt.versioning.refs import check_name


@pytest.fixture
def ds(mem_url: str) -> Any:
    """Three rows in two commits on main."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [1, 2]})
    ds.commit("two")
    ds.append({"x": 3})
    ds.commit("three")
    return ds


def test_a_branch_begins_where_it_was_made_and_goes_its_own_way(ds: Any, mem_url: str) -> None:
    ds.checkout("dev", create=True)
    ds.append({"x": 40})
    ds.x[0] = 10
    ds.commit("on dev")
    ds.checkout("main")
    ds.append({"x": 4})
    ds.pop(1)
    ds.commit("on main")
    assert values(lakefmt.load(mem_url)) == [1, 3, 4]
    assert values(lakefmt.load(f"{mem_url}@dev")) == [10, 2, 3, 40]
    assert ds.branches == ["dev", "main"]


def test_no_data_moves(ds: Any) -> None:
    store = ds._log.store
    before = {e.key for e in store.list("data/")}
    ds.checkout("dev", create=True)
    assert {e.key for e in store.list("data/")} == before


def test_branches_hand_out_different_row_ids(ds: Any, mem_url: str) -> None:
    ds.checkout("dev", create=True)
    ds.append({"x": 40})
    ds.flush()
    main = lakefmt.load(mem_url)
    main.append({"x": 4})
    main.flush()
    a, b = main[:].row_ids.tolist(), ds[:].row_ids.tolist()
    assert a[:3] == b[:3]
    assert a[3] != b[3]


def test_history_goes_through_parents(ds: Any) -> None:
    ds.checkout("dev", create=True)
    ds.append({"x": 40})
    ds.commit("on dev")
    ds.checkout("deeper", create=True)
    ds.append({"x": 50})
    ds.commit("on deeper")
    assert [h.message for h in ds.history() if h.named] == ["on deeper", "on dev", "three", "two"]
    assert [c["message"] for c in ds.commits] == ["on deeper", "on dev", "three", "two"]
    heads = ds.history()
    assert heads[-1].v == 0
    assert heads[-1].message == "created"
    times = [h.ts_ms for h in heads]
    assert times == sorted(times, reverse=True)


def test_a_branch_of_an_old_version(ds: Any) -> None:
    old = next(h for h in ds.history() if h.message == "two")
    ds.checkout(f"{old.branch[:12]}-{old.v}")
    assert ds.read_only
    ds.checkout("from-two", create=True)
    assert not ds.read_only
    ds.append({"x": 99})
    ds.commit("from two")
    assert values(ds) == [1, 2, 99]
    assert [h.message for h in ds.history() if h.named] == ["from two", "two"]


def test_the_name_is_taken(ds: Any) -> None:
    ds.checkout("dev", create=True)
    ds.append({"x": 5})
    ds.checkout("main")
    with pytest.raises(AlreadyExists, match=r"dev.*without create"):
        ds.checkout("dev", create=True)
    assert ds.branch == "main"
    ds.checkout("dev")
    assert values(ds)[-1] == 5


@pytest.mark.parametrize("name", ["dev", "feature/x", "a.b-c_d", "ünï", "with space inside", "100%", "v1-2"])
def test_names(ds: Any, mem_url: str, name: str) -> None:
    ds.checkout(name, create=True)
    ds.append({"x": 7})
    ds.flush()
    assert name in ds.branches
    again = lakefmt.load(mem_url)
    again.checkout(name)
    assert again.branch == name
    assert values(again)[-1] == 7


@pytest.mark.parametrize("name", ["", " ", "a@b", " a", "a ", "/a", "0123456789ab-3", "x" * 201, 5, None])
def test_bad_names(ds: Any, name: Any) -> None:
    with pytest.raises(InvalidInput, match="no name for a branch or tag"):
        check_name(name)
    with pytest.raises(InvalidInput):
        ds.checkout(name, create=True)
    assert ds.branches == ["main"]


def test_unknown_branches_and_versions(ds: Any) -> None:
    with pytest.raises(NoSuchVersion, match=r"'mian'.*did you mean 'main'"):
        ds.checkout("mian")
    with pytest.raises(NoSuchVersion):
        ds.checkout("0123456789ab-3")
    with pytest.raises(NoSuchVersion):
        ds.checkout(ds.version_id.split("-")[0] + "-999")
    assert ds.branch == "main"
    assert values(ds) == [1, 2, 3]


def test_a_damaged_branch_object(ds: Any, mem_url: str) -> None:
    ds.checkout("dev", create=True)
    ds._log.store.put("refs/branches/dev.json", b"{")
    with pytest.raises(Corrupt, match="dev"):
        lakefmt.load(f"{mem_url}@dev")
    assert values(lakefmt.load(mem_url)) == [1, 2, 3], "other branches still open"


def test_listing_branches_with_a_damaged_one(ds: Any) -> None:
    ds.checkout("dev", create=True)
    ds._log.store.put("refs/branches/dev.json", b"{")
    with pytest.raises(Corrupt, match="dev"):
        _ = ds.branches
