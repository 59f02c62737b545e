"""Assignment inside a sample goes by the rules for whole samples: no value is changed on the way in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_tools import unchanged, values

import lakefmt
from lakefmt.errors import DtypeError, InvalidInput, LakeError, RowIndexError, ShapeError, UnknownClass

_REFUSED: list[tuple[str, list[Any], Any, Any]] = [
    ("int64", [1, 2, 3], 1, 3.7),
    ("int64", [1, 2, 3], slice(0, 2), np.array([1.0, 2.0])),
    ("int64", [1, 2, 3], 1, float("nan")),
    ("uint8", [1, 2, 3], 1, 300),
    ("uint8", [1, 2, 3], slice(None), np.array([300, -1, 256])),
    ("uint8", [1, 2, 3], 1, np.int64(-1)),
    ("float32", [1, 2, 3], 1, 1e300),
    ("float16", [1, 2], slice(None), np.array([1e6, 1])),
    ("bool", [True, False], 0, 5),
    ("int64", [1, 2, 3], 0, "5"),
    ("float64", [1, 2], 0, None),
    ("float64", [1, 2], 0, 1j),
    ("float64", [1, 2], slice(None), np.array([1j, 2])),
    ("int64", [1, 2, 3], slice(None), np.ma.masked_array([7, 8, 9], [False, True, False])),
    ("int64", [1, 2, 3], 0, np.datetime64("2020-01-01")),
    ("int64", [1, 2, 3], 0, np.timedelta64(5, "s")),
]


@pytest.mark.parametrize(("dtype", "sample", "key", "value"), _REFUSED, ids=[f"{c[0]}-{c[3]!r}"[:40] for c in _REFUSED])
def test_what_would_change_on_the_way_is_refused(mem_url: str, dtype: str, sample: list[Any], key: Any, value: Any) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype=dtype)
    ds.append({"x": np.array(sample, dtype)})
    ds.flush()
    with unchanged(ds), pytest.raises(DtypeError, match="'x', row 0"):
        ds.x[0][key] = value
    with unchanged(ds), pytest.raises(DtypeError):
        ds.x[0, key] = value


def test_what_fits_is_stored(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="float32")
    ds.create_tensor("b", dtype="int16")
    ds.append({"x": np.zeros((2, 3)), "b": np.zeros(3, "i2")})
    ds.x[0][0] = [1, 2, 0.5]
    ds.x[0][1][2] = 3
    ds.x[0, 1, 0] = np.float16(4)
    ds.b[0][:] = True
    ds.b[0][np.array([0, 2])] = np.array([5, 6], np.int64)
    ds.flush()
    again = lakefmt.load(mem_url)
    assert values(again) == [[[1, 2, 0.5], [4, 0, 3]]]
    assert values(again, "b") == [[5, 1, 6]]
    with unchanged(ds), pytest.raises(ShapeError):
        ds.b[0][:] = [1, 2]


def test_images(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("png", htype="image", sample_compression="png")
    ds.create_tensor("raw", htype="image", sample_compression=None)
    ds.append({n: np.full((4, 4, 3), 100, "u1") for n in ("png", "raw")})
    ds.flush()
    for name in ("png", "raw"):
        for value in (300, -5, 1.5, np.array([0.5, 0.5, 0.5]), np.array([300, 1, 1])):
            with unchanged(ds), pytest.raises(DtypeError, match="row 0"):
                ds[name][0][0, 0] = value
        ds[name][0][0, 0] = [1, 2, 3]
        assert ds[name][0].numpy()[0, 0].tolist() == [1, 2, 3]


def test_labels(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("l", htype="class_label", class_names=["a", "b"])
    ds.create_tensor("o", htype="class_label")
    ds.append({"l": [0, 1], "o": ["x", "y"]})
    ds.flush()
    for value, kind in ((1.5, DtypeError), (7, UnknownClass), (-1, UnknownClass), ("c", UnknownClass)):
        with unchanged(ds), pytest.raises(kind, match="row 0"):
            ds.l[0][0] = value
    with unchanged(ds), pytest.raises(UnknownClass, match=r"row 0.*add_class_names\('z'\)"):
        ds.o[0][0] = "z"
    ds.create_tensor("p", htype="class_label")
    ds.p.append([3, 4])
    ds.p[0][0] = 5
    assert values(ds, "p") == [[5, 4]]
    ds.l[0][0] = "b"
    ds.o[0][1] = "x"
    assert (values(ds, "l"), values(ds, "o")) == ([[1, 1]], [[0, 0]])


def test_assigning_into_a_copy_is_an_error(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.append({"x": [1, 2, 3]})
    ds.flush()
    with unchanged(ds), pytest.raises(RowIndexError, match="makes a copy"):
        ds.x[0][[0, 1]][0] = 9
    with unchanged(ds), pytest.raises(InvalidInput):
        ds.x[0][1][...] = 9
    ds.x[0][[0, 1]] = 9
    assert values(ds) == [[9, 9, 3]]


@pytest.mark.parametrize("key", [7, "a", (0, 0, 0), 1.5])
def test_an_index_that_does_not_fit(mem_url: str, key: Any) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.append({"x": [1, 2, 3]})
    ds.flush()
    with unchanged(ds), pytest.raises(LakeError):
        ds.x[0][key] = 9
