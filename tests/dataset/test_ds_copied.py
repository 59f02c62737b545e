"""A tensor, or rows of one, given to another dataset: labels by name, images byte for byte, texts whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_tools import unchanged, values

import lakefmt
from lakefmt.errors import InvalidInput, UnknownClass


@pytest.fixture(params=["stored", "buffered"])
def a(request: Any, mem_url: str, jpeg_bytes: bytes) -> Any:
    """What is copied from."""
    ds = lakefmt.dataset(mem_url)
    _create(ds, ["cat", "dog", "bird"])
    ds.extend({
        "l": ["bird", "cat", None], "many": [["x", "y"], [], ["y"]], "i": [jpeg_bytes, None, np.zeros((9, 9, 3), "u1")],
        "s": ["a\0", "", None], "j": [{"k": [1]}, None, "t"], "n": [1.5, None, [2, 3]], "d": np.arange(6, dtype="i2").reshape(3, 2),
    })  # fmt: skip
    if request.param == "stored":
        ds.commit()
    return ds


def _create(ds: Any, names: list[str] | None) -> None:
    ds.create_tensor("l", htype="class_label", class_names=names)
    ds.create_tensor("many", htype="class_label")
    ds.create_tensor("i", htype="image", sample_compression="jpeg")
    ds.create_tensor("s", htype="text")
    ds.create_tensor("j", htype="json")
    ds.create_tensor("n", dtype="float32")
    ds.create_tensor("d")


@pytest.fixture
def b(mem_url: str) -> Any:
    """What is copied to: the same classes under other numbers."""
    ds = lakefmt.dataset(mem_url + "-b")
    _create(ds, ["dog", "bird", "cat"])
    return ds


def _check(a: Any, b: Any, rows: slice) -> None:
    b.flush()
    b = lakefmt.load(b.path)
    for name in ("l", "many"):
        assert b[name].data()["text"] == a[name][rows].data()["text"]
    assert b.i.tobytes() == a.i[rows].tobytes()
    assert b.s.text() == a.s[rows].text()
    for name in ("j", "n", "d"):
        assert values(b, name) == values(a, name)[rows]
    assert (b.d.dtype, b.n.dtype) == (np.int16, np.float32)


@pytest.mark.parametrize("rows", [slice(None), slice(1, 3), slice(None, None, -1)])
def test_columns(a: Any, b: Any, rows: slice) -> None:
    b.extend({n: t[rows] for n, t in a.tensors.items()})
    _check(a, b, rows)


def test_columns_of_a_view_and_of_one_tensor(a: Any, b: Any) -> None:
    view = a[1:3]
    b.extend({n: view[n] for n in ("l", "i", "s")}, append_empty=True)
    assert b.l.data()["text"] == ["cat", None]
    b.s.extend(a.s)
    b.l.extend(a.l[:2])
    assert b.l.data()["text"] == ["cat", None, "bird", "cat"]
    assert b.s.text() == ["", None, "a\0", "", None]


def test_row_by_row_and_lists_of_samples(a: Any, b: Any) -> None:
    for row in a:
        b.append({n: row[n] for n in a.tensors})
    _check(a, b, slice(None))
    b.pop([0, 1, 2])
    b.extend({n: list(a[n]) for n in a.tensors})
    _check(a, b, slice(None))


def test_assignment(a: Any, b: Any) -> None:
    b.extend({n: [None] * 3 for n in a.tensors})
    b.flush()
    for name in a.tensors:
        b[name][:2] = a[name][:2]
        b[name][2] = a[name][2]
    _check(a, b, slice(None))


def test_a_tensor_given_to_itself(a: Any) -> None:
    before = list(a.l.data()["text"])
    a.l[:] = a.l[::-1]
    assert a.l.data()["text"] == before[::-1]
    a.l.extend(a.l)
    assert a.l.data()["text"] == before[::-1] * 2


def test_unnamed_ids_are_nobody_elses(mem_url: str, b: Any) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("l", htype="class_label")
    ds.extend({"l": [0, 1]})
    b.l.extend(ds.l)
    assert b.l.numpy().tolist() == [0, 1], "a tensor without names has nothing but ids to give"


def test_unknown_names_are_refused(mem_url: str, b: Any) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("l", htype="class_label", class_names=["fish"])
    ds.extend({"l": [0]})
    b.flush()
    with unchanged(b), pytest.raises(UnknownClass, match="'fish'"):
        b.l.extend(ds.l)


def test_one_sample_is_no_column(a: Any, b: Any) -> None:
    b.flush()
    with unchanged(b), pytest.raises(InvalidInput, match="append"):
        b.extend({"d": a.d[0]}, skip_ok=True)
    with unchanged(b), pytest.raises(InvalidInput, match="append"):
        b.d.extend(a.d[0])
    with unchanged(b), pytest.raises(InvalidInput, match="append"):
        b.extend({"n": a.n[1]}, skip_ok=True)


def test_texts_that_end_in_nul_are_read_whole(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("s", htype="text")
    ds.extend({"s": ["a\0", "b"]})
    assert ds.s.numpy().tolist() == ["a\0", "b"]
    assert ds.s.numpy(aslist=True)[0].item() == ds.s[0].numpy().item() == "a\0"
    assert ds.s[1:].numpy().dtype.kind == "U"
    ds.append({"s": ds.s[0].numpy()})
    ds.extend({"s": ds.s.numpy()})
    assert ds.s.text() == ["a\0", "b", "a\0", "a\0", "b", "a\0"]
