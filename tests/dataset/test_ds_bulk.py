"""Many rows at once, by a condition or a key: one version, few objects, all or nothing, whoever else writes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_tools import contents, unchanged, values

import lakefmt
from lakefmt.errors import Conflict, InvalidInput, LakeError, NoSuchTensor, ReadOnly, RowIndexError, TqlError, UnequalLengths
from lakefmt.versioning.log import Log

sys.path.insert(0, str(Path(__file__).parents[1] / "versioning"))
from faulty_stores import Counting, memory, opened


@pytest.fixture
def ds(mem_url: str) -> Any:
    """Numbers, squares and names of 0 to 9, in two fragments."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("k", dtype="int64")
    ds.create_tensor("y", dtype="float32")
    ds.create_tensor("name", htype="text")
    for part in (range(5), range(5, 10)):
        ds.extend({"k": list(part), "y": [i * i for i in part], "name": [f"n{i}" for i in part]})
        ds.commit()
    return ds


def versions(ds: Any) -> int:
    """How many there are."""
    return len(ds.history())


# -- delete ---------------------------------------------------------------------------------------------------------


def test_delete_by_a_condition(ds: Any, mem_url: str) -> None:
    before = versions(ds)
    assert ds.delete("k % 3 = 0") == 4
    assert values(ds, "k") == values(lakefmt.load(mem_url), "k") == [1, 2, 4, 5, 7, 8]
    assert ds[:].row_ids.tolist() == [1, 2, 4, 5, 7, 8]
    assert versions(ds) == before + 1
    assert ds.delete("k > 100") == 0
    assert versions(ds) == before + 1
    assert ds.delete("name = $n", {"n": "n4"}) == 1
    assert ds.delete("k >= 0") == 5
    assert len(ds) == 0
    assert ds.delete("k >= 0") == 0


def test_delete_sees_buffered_rows_and_updates(ds: Any) -> None:
    ds.append({"k": 100, "y": 0, "name": "new"})
    ds.k[0] = 101
    assert ds.delete("k >= 100") == 2
    assert values(ds, "k") == list(range(1, 10))


@pytest.mark.parametrize("bad", ["nothing = 3", "k >", "", 5, None])
def test_a_condition_that_is_none_deletes_nothing(ds: Any, bad: Any) -> None:
    with unchanged(ds), pytest.raises((TqlError, InvalidInput)):
        ds.delete(bad)


def test_a_query_with_a_limit_deletes_just_its_rows(ds: Any) -> None:
    assert ds.delete("select * where k > 2 order by k desc limit 2") == 2
    assert values(ds, "k") == list(range(8))


def test_delete_while_another_writer_deletes_the_same(ds: Any, mem_url: str) -> None:
    other = lakefmt.load(mem_url)
    other.pop([0, 1, 2])
    other.compact()
    assert ds.delete("k < 5") == 2  # of the rows there are when it lands
    assert values(lakefmt.load(mem_url), "k") == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("rows", [[0, 4, 9], [9, 0, 4], [-1, 0, 4], np.array([0, 4, 9]), [0, -1, 4]])
def test_pop_of_several_rows(ds: Any, rows: Any) -> None:
    before = versions(ds)
    ds.pop(rows)
    assert values(ds, "k") == [1, 2, 3, 5, 6, 7, 8]
    assert versions(ds) == before + 1


@pytest.mark.parametrize("rows", [[0, 0], [9, -1], [10], [-11], [0, 10], 10])
def test_pop_of_rows_that_are_not_there(ds: Any, rows: Any) -> None:
    with unchanged(ds), pytest.raises((RowIndexError, InvalidInput)):
        ds.pop(rows)


def test_pop_of_nothing(ds: Any) -> None:
    with unchanged(ds):
        ds.pop([])


# -- update ---------------------------------------------------------------------------------------------------------


def test_update_by_a_condition(ds: Any, mem_url: str) -> None:
    before = versions(ds)
    assert ds.update("k >= 7", set={"y": -1, "name": "large"}) == 3
    assert versions(ds) == before + 1
    for now in (ds, lakefmt.load(mem_url)):
        assert values(now, "y") == [0, 1, 4, 9, 16, 25, 36, -1, -1, -1]
        assert values(now, "name")[6:] == ["n6", "large", "large", "large"]
        assert values(now, "k") == list(range(10))
    assert ds.update("k > 100", set={"y": 0}) == 0
    assert versions(ds) == before + 1


def test_update_with_functions_of_the_row(ds: Any) -> None:
    done = ds.update("k < 3", set={"y": lambda row: row["k"].numpy() + 0.5, "name": lambda row: str(row["name"].numpy()) + "!"})
    assert done == 3
    assert values(ds, "y")[:4] == [0.5, 1.5, 2.5, 9]
    assert values(ds, "name")[:4] == ["n0!", "n1!", "n2!", "n3"]


def test_functions_see_the_rows_before_the_update(ds: Any) -> None:
    ds.update("k < 2", set={"k": lambda row: row["k"].numpy() + 50, "y": lambda row: row["k"].numpy()})
    assert (values(ds, "k")[:2], values(ds, "y")[:2]) == ([50, 51], [0, 1])


def test_update_to_missing(ds: Any) -> None:
    ds.update("k < 2", set={"name": None})
    assert values(ds, "name")[:3] == [None, None, "n2"]


def explode(row: Any) -> Any:
    """A function that fails at its third row."""
    if int(row["k"].numpy()) == 2:
        raise ZeroDivisionError
    return 7


BAD_SETS: list[tuple[dict[str, Any], type[BaseException]]] = [
    ({"y": "text"}, LakeError), ({"name": "fine", "y": "text"}, LakeError), ({"y": 1, "name": 5}, LakeError),
    ({"y": 1, "none": 5}, NoSuchTensor), ({}, InvalidInput), ({"y": explode}, ZeroDivisionError),
    ({"name": "fine", "y": explode}, ZeroDivisionError), ({"y": 1, "name": lambda row: 3}, LakeError),
    ({"k": 1.5}, LakeError), ({"k": 1 << 70}, LakeError),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "error"), BAD_SETS, ids=[str(i) for i in range(len(BAD_SETS))])
def test_bad_values_leave_nothing(ds: Any, changes: dict[str, Any], error: type[BaseException]) -> None:
    with unchanged(ds), pytest.raises(error):
        ds.update("k < 5", set=changes)
    assert not ds._writer.pending
    ds.commit("nothing of it comes later", allow_empty=True)
    assert values(ds, "name")[:2] == ["n0", "n1"]


def test_bad_values_leave_nothing_of_an_update_larger_than_the_buffer(ds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakefmt.writer.FRAGMENT_NBYTES", 500)
    with unchanged(ds), pytest.raises(LakeError):
        ds.update("k >= 0", set={"y": 1, "name": 5})


def test_an_update_larger_than_the_buffer_is_one_version(ds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakefmt.writer.FRAGMENT_NBYTES", 500)
    before = versions(ds)
    assert ds.update("k >= 0", set={"y": 1, "name": "same"}) == 10
    assert versions(ds) == before + 1
    assert values(ds, "y") == [1] * 10


def test_an_update_finds_its_rows_after_others_moved_them(ds: Any, mem_url: str) -> None:
    other = lakefmt.load(mem_url)
    other.pop([0, 1])
    other.compact()
    assert ds.update("k = 5", set={"y": -5}) == 1
    again = lakefmt.load(mem_url)
    assert dict(zip(values(again, "k"), values(again, "y"), strict=True)) == {i: -5 if i == 5 else i * i for i in range(2, 10)}


def test_an_update_that_conflicts_leaves_nothing_behind(ds: Any, mem_url: str) -> None:
    lakefmt.load(mem_url).delete_tensor("y")
    with pytest.raises(Conflict):
        ds.update("k = 5", set={"y": -5})
    left = bool(ds._writer.pending)
    ds.discard()
    assert not left, "else every later call conflicts too, until discard()"
    ds.refresh()
    assert list(ds.tensors) == ["k", "name"]


def test_a_read_only_handle_refuses(ds: Any, mem_url: str) -> None:
    read_only = lakefmt.load(mem_url, read_only=True)
    rows = {"k": [1], "y": [1], "name": ["n"]}
    for act in (
        lambda: read_only.delete("k = 0"), lambda: read_only.update("k = 0", set={"y": 1}), lambda: read_only.pop([0]),
        lambda: read_only.upsert(rows, key="k"),
    ):  # fmt: skip
        with pytest.raises(ReadOnly):
            act()


# -- upsert ---------------------------------------------------------------------------------------------------------


def test_upsert_updates_and_appends(ds: Any, mem_url: str) -> None:
    before = versions(ds)
    made = ds.upsert({"k": [12, 3, 8, 11], "y": [-12, -3, -8, -11], "name": ["a", "b", None, "d"]}, key="k")
    assert made == (2, 2)
    assert versions(ds) == before + 1
    for now in (ds, lakefmt.load(mem_url)):
        assert values(now, "k") == [*range(10), 12, 11]
        assert values(now, "y") == [0, 1, 4, -3, 16, 25, 36, 49, -8, 81, -12, -11]
        assert values(now, "name") == ["n0", "n1", "n2", "b", "n4", "n5", "n6", "n7", None, "n9", "a", "d"]
    assert ds[:].row_ids.tolist() == list(range(12))
    assert ds.upsert({"k": [12], "y": [0], "name": ["again"]}, key="k") == (1, 0)
    assert ds.upsert({"k": [], "y": [], "name": []}, key="k") == (0, 0)


def test_upsert_by_text(ds: Any) -> None:
    assert ds.upsert({"k": [100, 101], "y": [1, 2], "name": ["n3", "é"]}, key="name") == (1, 1)
    assert values(ds, "k") == [0, 1, 2, 100, *range(4, 10), 101]


def test_upsert_into_an_empty_dataset(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("k", dtype="int64")
    assert ds.upsert({"k": [3, 1]}, key="k") == (0, 2)
    assert ds.upsert({"k": [3, 1]}, key="k") == (2, 0)
    assert values(lakefmt.load(mem_url), "k") == [3, 1]


def test_upsert_of_a_tensor_without_samples_fixes_its_dtype(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("k", dtype="int64")
    ds.create_tensor("v")
    ds.create_tensor("label", htype="class_label")
    ds.extend({"k": [1, 2], "v": [None, None], "label": ["cat", "dog"]})
    ds.commit()
    big = (1 << 53) + 1
    assert ds.upsert({"k": [1, 3], "v": [big, big + 2], "label": ["cow", "dog"]}, key="k") == (1, 1)
    again = lakefmt.load(mem_url)
    assert (str(again.v.dtype), values(again, "v")) == ("int64", [big, None, big + 2])
    assert again.label.class_names == ("cat", "dog", "cow") or list(again.label.class_names) == ["cat", "dog", "cow"]
    assert values(again, "label") == [2, 1, 1]


def test_upsert_sees_what_is_buffered(ds: Any) -> None:
    ds.append({"k": 50, "y": 0, "name": "buffered"})
    assert ds.upsert({"k": [50], "y": [1], "name": ["x"]}, key="k") == (1, 0)
    assert values(ds, "name")[-1] == "x"


GOOD = {"k": [1, 20], "y": [1, 2], "name": ["a", "b"]}
BAD_ROWS: list[tuple[Any, Any]] = [
    ({**GOOD, "k": [20, 20]}, "k"), ({**GOOD, "k": [1, None]}, "k"), (GOOD, "none"), (GOOD, None), ({"k": [1], "y": [1]}, "k"),
    ({**GOOD, "more": [1, 2]}, "k"), ({**GOOD, "y": [1]}, "k"), ({**GOOD, "y": [1, "text"]}, "k"),
    ({**GOOD, "name": ["a", 5]}, "k"), ([1, 2], "k"), ({**GOOD, "name": ["a", "a"]}, "name"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "key"), BAD_ROWS, ids=[str(i) for i in range(len(BAD_ROWS))])
def test_bad_rows_leave_nothing(ds: Any, rows: Any, key: Any) -> None:
    with unchanged(ds), pytest.raises((InvalidInput, NoSuchTensor, UnequalLengths)):
        ds.upsert(rows, key=key)


def test_keys_stored_twice_or_missing_are_told(ds: Any) -> None:
    ds.append({"k": 3, "y": 0, "name": None})
    ds.commit()
    with unchanged(ds), pytest.raises(InvalidInput, match="rows 3 and 10 both have 3"):
        ds.upsert({"k": [3], "y": [0], "name": ["x"]}, key="k")
    with unchanged(ds), pytest.raises(InvalidInput, match="no key"):
        ds.upsert({"k": [3], "y": [0], "name": ["x"]}, key="name")


def test_arrays_are_no_keys(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("v", dtype="int64")
    with pytest.raises(InvalidInput, match="holds arrays"):
        ds.upsert({"v": [[1, 2]]}, key="v")


def test_upserts_of_one_key_by_two_handles_make_one_row(ds: Any, mem_url: str) -> None:
    other = lakefmt.load(mem_url)
    assert ds.upsert({"k": [77, 3], "y": [1, 1], "name": ["first", "first"]}, key="k") == (1, 1)
    assert other.upsert({"k": [77, 3, 78], "y": [2, 2, 2], "name": ["second"] * 3}, key="k") == (2, 1)
    again = lakefmt.load(mem_url)
    assert values(again, "k") == [*range(10), 77, 78]
    assert values(again, "name")[10:] == ["second", "second"]


def test_upserts_of_one_key_by_threads_make_one_row(ds: Any, mem_url: str) -> None:
    handles = [lakefmt.load(mem_url) for _ in range(6)]
    made: list[tuple[int, int]] = []

    def work(i: int) -> None:
        for _ in range(4):
            made.append(handles[i].upsert({"k": [500, 501 + i], "y": [i, i], "name": ["t", "t"]}, key="k"))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    found = values(lakefmt.load(mem_url), "k")
    assert sorted(found) == [*range(10), *range(500, 507)]
    assert (sum(a for _, a in made), len(made)) == (7, 24)


def test_an_upsert_finds_keys_that_others_moved_deleted_or_renamed(ds: Any, mem_url: str) -> None:
    other = lakefmt.load(mem_url)
    other.pop([3, 4])
    other.k[0] = 60
    other.compact()
    assert ds.upsert({"k": [3, 60, 9], "y": [-1, -1, -1], "name": ["u"] * 3}, key="k") == (2, 1)
    again = lakefmt.load(mem_url)
    rows = dict(zip(values(again, "k"), values(again, "name"), strict=True))
    assert rows == {60: "u", 1: "n1", 2: "n2", 5: "n5", 6: "n6", 7: "n7", 8: "n8", 9: "u", 3: "u"}


def test_upsert_of_many_rows(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("k", dtype="int64")
    ds.create_tensor("y", dtype="int64")
    n = 100_000
    ds.extend({"k": np.arange(n), "y": np.zeros(n, "i8")})
    ds.commit()
    keys = np.arange(n // 2, n + n // 2)[::-1].copy()
    assert ds.upsert({"k": keys, "y": keys * 2}, key="k") == (n // 2, n // 2)
    again = lakefmt.load(mem_url)
    k, y = again.k.numpy(), again.y.numpy()
    assert np.array_equal(np.sort(k), np.arange(n + n // 2))
    assert np.array_equal(y, np.where(k >= n // 2, k * 2, 0))


# -- objects written ------------------------------------------------------------------------------------------------


@pytest.fixture
def counted() -> tuple[Any, Counting]:
    """31 fragments of ten rows behind a store that counts."""
    store = Counting(memory())
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("k", dtype="int64")
    ds.create_tensor("v", dtype="float32")
    for i in range(31):
        ds.extend({"k": np.arange(10) + 10 * i, "v": np.zeros((10, 100), "f4")})
        ds.commit()
    assert len(ds._writer.snapshot.fragments) == 31
    store.calls.clear()
    return ds, store


def written(store: Counting) -> list[str]:
    """Keys of the data objects written since."""
    return [k for name, k in store.calls if name in ("put", "writer", "put_if_absent") and not k.startswith("log/")]


ACTS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "pop": (lambda ds: ds.pop(list(range(3, 310, 10))), 1),
    "delete": (lambda ds: ds.delete("k % 10 = 3"), 1),
    "update a light tensor": (lambda ds: ds.update("k % 10 = 3", set={"k": -1}), 1),
    "update a heavy tensor": (lambda ds: ds.update("k % 10 = 3", set={"v": np.ones(100, "f4")}), 2),
    "update both": (lambda ds: ds.update("k % 10 = 3", set={"v": np.ones(100, "f4"), "k": -1}), 3),
    "upsert": (lambda ds: ds.upsert({"k": np.arange(3, 310, 10), "v": np.ones((31, 100), "f4")}, key="k"), 2),
}


@pytest.mark.parametrize("act", list(ACTS))
def test_rows_in_every_fragment_are_changed_with_few_objects(counted: tuple[Any, Counting], act: str) -> None:
    ds, store = counted
    do, at_most = ACTS[act]
    before = contents(ds)
    versions_before = versions(ds)
    do(ds)
    assert 0 < len(written(store)) <= at_most, written(store)
    assert versions(ds) == versions_before + 1
    again = opened(store.inner)
    for i in range(310):
        if i % 10 != 3:
            at = i if act not in ("pop", "delete") else i - (i + 6) // 10
            assert (again.k[at].numpy(), again.v[at].numpy()[0]) == (before["k"][i], 0)
    assert len(again) == (279 if act in ("pop", "delete") else 310)
