"""Two handles on one branch: each change hits the rows its author meant, or is refused; never another's, never silently."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest

import lakefmt
from lakefmt.errors import Conflict, InvalidInput, StoreError, UnknownClass


def _pair(values: list[int]) -> tuple[Any, Any, str]:
    """Two handles on a dataset of ``x`` = values."""
    place = f"mem://{uuid.uuid4().hex}"
    first = lakefmt.empty(place)
    first.create_tensor("x", dtype="int64")
    first.extend({"x": values})
    first.commit("rows")
    return first, lakefmt.dataset(place), place


def _values(place: str) -> list[int]:
    found: list[int] = lakefmt.load(place).x.numpy().tolist()
    return found


def test_pop_hits_the_row_meant_though_another_was_deleted_before_it() -> None:
    a, b, place = _pair(list(range(10)))
    b.pop(0)
    a.append({"x": 100})
    a.pop(5)
    assert _values(place) == [1, 2, 3, 4, 6, 7, 8, 9, 100]


def test_pop_of_the_last_row_is_ones_own() -> None:
    a, b, place = _pair([1, 2])
    b.append({"x": 77})
    b.flush()
    a.append({"x": 100})
    a.pop()
    assert _values(place) == [1, 2, 77]


def test_update_of_a_buffered_row_hits_it() -> None:
    a, b, place = _pair([1, 2])
    b.append({"x": 77})
    b.flush()
    a.append({"x": 100})
    a.x[2] = 101
    a.flush()
    assert _values(place) == [1, 2, 77, 101]


def test_update_of_a_row_deleted_meanwhile_is_refused() -> None:
    a, b, _ = _pair([1, 2])
    b.pop(0)
    a.append({"x": 3})
    with pytest.raises(Conflict, match="deleted"):
        a.x[np.array([0, 2])] = [9, 9]


@pytest.mark.parametrize("stored", [0, 1])
def test_a_short_tensor_continued_by_two_keeps_the_first_and_tells_the_second(stored: int) -> None:
    a, b, place = _pair([1, 2, 3])
    a.create_tensor("y", dtype="int64")
    if stored:
        a.y.extend([5][:stored])
        a.flush()
    b.refresh()
    a.y.append(10)
    b.y.append(20)
    a.flush()
    with pytest.raises(Conflict):
        b.flush()
    b.discard()
    assert lakefmt.load(place).y.numpy().tolist() == [*[5][:stored], 10]


def test_an_update_of_a_continued_tensor_is_the_last_word() -> None:
    a, _, place = _pair([1, 2, 3])
    a.create_tensor("y", dtype="int64")
    a.y.extend([7, 8])
    a.flush()
    a.y.append(99)
    a.y[2] = 100
    assert a.y[2].numpy() == 100
    a.flush()
    assert lakefmt.load(place).y.numpy().tolist() == [7, 8, 100]


def test_new_classes_land_though_the_tensor_was_described_meanwhile() -> None:
    place = f"mem://{uuid.uuid4().hex}"
    a = lakefmt.empty(place)
    a.create_tensor("label", htype="class_label")
    b = lakefmt.dataset(place)
    a.append({"label": "dog"})
    b.label.info["source"] = "vet"
    a.commit("dog")
    now = lakefmt.load(place)
    assert now.label.class_names == ["dog"]
    assert now.label.info["source"] == "vet"


def test_ids_without_names_are_not_renumbered_silently() -> None:
    place = f"mem://{uuid.uuid4().hex}"
    a = lakefmt.empty(place)
    a.create_tensor("label", htype="class_label")
    b = lakefmt.dataset(place)
    b.append({"label": "dog"})
    b.flush()
    a.append({"label": 5})
    with pytest.raises(UnknownClass, match="no names"):
        a.append({"label": "cat"})
    a.discard()


def test_a_message_that_is_no_text_commits_nothing() -> None:
    a, _, place = _pair([1])
    a.append({"x": 2})
    for message in (5, "\ud800"):
        with pytest.raises(InvalidInput):
            a.commit(message)
    a.commit("fine")
    assert _values(place) == [1, 2]


def test_tensors_of_torch_are_copied() -> None:
    torch = pytest.importorskip("torch")
    ds = lakefmt.empty(f"mem://{uuid.uuid4().hex}")
    ds.create_tensor("t", dtype="float32")
    sample = torch.zeros(3)
    ds.append({"t": sample})
    ds.extend({"t": [sample, sample]})
    sample.fill_(9)
    assert not ds.t.numpy().any()


def test_an_append_that_finds_the_store_failing_leaves_its_row_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakefmt.writer.FRAGMENT_NBYTES", 1000)
    ds, _, place = _pair([])
    store = ds._log.store
    wrote = 0

    def failing(key: str, data: bytes) -> bool:
        raise StoreError(28, "the disk is full")

    monkeypatch.setattr(store, "put", failing)
    while True:
        try:
            ds.append({"x": wrote})
        except StoreError:
            break
        wrote += 1
    monkeypatch.undo()
    assert len(ds) == wrote
    ds.append({"x": wrote})
    ds.commit("all")
    assert _values(place) == list(range(wrote + 1))
