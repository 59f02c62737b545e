"""Arrow arrays and nullable pandas columns keep their dtype; what is missing is missing; nothing is read as something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dataset_tools import unchanged, values

import lakefmt
from lakefmt.errors import DtypeError, UnequalLengths


@pytest.fixture
def ds(mem_url: str) -> Any:
    """A row of nothing."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x")
    ds.create_tensor("i", dtype="int64")
    ds.create_tensor("s", htype="text")
    ds.create_tensor("j", htype="json")
    ds.create_tensor("l", htype="class_label")
    ds.append({}, append_empty=True)
    ds.commit("a row")
    return ds


_NUMBERS = ["bool", "int8", "uint16", "int64", "uint64", "float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", _NUMBERS)
@pytest.mark.parametrize("stored", [False, True])
def test_missing_numbers_keep_the_dtype(ds: Any, dtype: str, stored: bool) -> None:
    one = np.dtype(dtype).type(1)
    ds.x.extend(pa.array([None, one, None, one], pa.from_numpy_dtype(dtype))[1:])
    if stored:
        ds.commit("rows")
    assert ds.x.dtype == np.dtype(dtype)
    assert values(ds) == [None, 1, None, 1]
    assert ds.x[1].numpy().dtype == np.dtype(dtype)


@pytest.mark.parametrize("dtype", ["boolean", "Int8", "UInt64", "Float32", "int16[pyarrow]", "float[pyarrow]"])
def test_missing_numbers_of_pandas(ds: Any, dtype: str) -> None:
    pd = pytest.importorskip("pandas")
    ds.x.extend(pd.Series([1, None, 0], dtype=dtype))
    expected = {"boolean": "bool", "float[pyarrow]": "float32", "int16[pyarrow]": "int16"}.get(dtype, dtype.lower())
    assert ds.x.dtype == np.dtype(expected)
    assert values(ds) == [None, 1, None, 0]
    ds.x[1:] = pd.Series([None, 1, 1], dtype=dtype)
    assert values(ds) == [None, None, 1, 1]


def test_integers_of_64_bits_beside_missing_ones(ds: Any) -> None:
    ds.x.extend(pa.array([2**64 - 1, None], pa.uint64()))
    assert values(ds) == [None, 2**64 - 1, None]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([[1, 2], [3], [], None], pa.list_(pa.int8())), [[1, 2], [3], [], None]),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)), [[1, 2], [3, 4]]),
        (pa.array([[1, 2], None, [5, 6]], pa.list_(pa.int8(), 2))[1:], [None, [5, 6]]),
        (pa.array([[], []], pa.large_list(pa.int8())), [[], []]),
    ],
)
def test_lists(ds: Any, array: pa.Array, expected: list[Any]) -> None:
    ds.x.extend(array)
    assert ds.x.dtype == np.int8
    assert values(ds)[1:] == expected


def test_tensors_of_arrow(ds: Any) -> None:
    kind = pa.fixed_shape_tensor(pa.int16(), [2, 2])
    array = pa.ExtensionArray.from_storage(kind, pa.array([[1, 2, 3, 4], None, [5, 6, 7, 8]], pa.list_(pa.int16(), 4)))
    ds.x.extend(array)
    ds.append({"x": array[2]}, append_empty=True)
    assert values(ds)[1:] == [[[1, 2], [3, 4]], None, [[5, 6], [7, 8]], [[5, 6], [7, 8]]]
    assert ds.x.dtype == np.int16
    holed = pa.ExtensionArray.from_storage(kind, pa.array([[1, None, 3, 4]], pa.list_(pa.int16(), 4)))
    with pytest.raises(DtypeError, match="row 5"):
        ds.x.extend(holed)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.bool_])
@pytest.mark.parametrize("permutation", [None, [1, 0, 2], [2, 0, 1], [1, 2, 0]])
def test_tensors_are_the_same_one_by_one_and_together(ds: Any, dtype: Any, permutation: list[int] | None) -> None:
    flat = np.arange(48).reshape(2, 24) % 7 > 2 if dtype is np.bool_ else np.arange(48).reshape(2, 24)
    number = pa.from_numpy_dtype(dtype)
    kind = pa.fixed_shape_tensor(number, [2, 3, 4], permutation=permutation)
    storage = pa.array([None, flat[0].tolist(), None, flat[1].tolist()], pa.list_(number, 24))
    array = pa.ExtensionArray.from_storage(kind, storage)
    wanted = [
        None if not s.is_valid else flat[i // 2].reshape(2, 3, 4).transpose(permutation or [0, 1, 2]).tolist()
        for i, s in enumerate(array)
    ]
    ds.x.extend(array.slice(1))
    ds.x.extend(list(array.slice(1)))
    for scalar in array.slice(1):
        ds.x.append(scalar)
    assert values(ds)[1:] == wanted[1:] * 3
    assert ds.x.dtype == dtype
    ds.x.append(array.drop_null())
    assert values(ds)[-1] == [w for w in wanted if w]
    ds.x[1] = array[3]
    assert values(ds)[1] == wanted[3]


def test_tensors_with_missing_elements_are_none_of_numbers(ds: Any) -> None:
    kind = pa.fixed_shape_tensor(pa.int16(), [2, 2], permutation=[1, 0])
    holed = pa.ExtensionArray.from_storage(kind, pa.array([[1, None, 3, 4]], pa.list_(pa.int16(), 4)))
    for use in (
        lambda: ds.x.append(holed),
        lambda: ds.x.append(holed[0]),
        lambda: ds.x.extend(holed),
        lambda: ds.i.append(holed[0]),
    ):
        with unchanged(ds), pytest.raises(DtypeError, match=r"'[xi]', row"):
            use()
    ds.j.append(holed[0])
    ds.j.extend(holed)
    assert values(ds, "j")[1:] == [[[1, 3], [None, 4]]] * 2


@pytest.mark.parametrize(
    "value",
    [pa.scalar("5"), pa.scalar(b"5"), pa.array(["5"]), pa.array([b"5"]), pa.array([1, None]), pa.scalar([1, None])],
)
def test_what_is_no_number(ds: Any, value: Any) -> None:
    for name in ("x", "i"):
        for use in (
            lambda n=name: ds.append({n: value}, append_empty=True),
            lambda n=name: ds[n].append(value),
            lambda n=name: ds[n].extend([value]),
            lambda n=name: ds[n].__setitem__(0, value),
        ):
            with unchanged(ds), pytest.raises(DtypeError, match=f"'{name}', row"):
                use()
    with unchanged(ds), pytest.raises(DtypeError):
        ds.i.extend(pa.array(["5"]))


def test_scalars(ds: Any) -> None:
    ds.append({"x": pa.scalar(3, pa.int8()), "i": pa.scalar(2), "s": pa.scalar("a"), "j": pa.scalar([1, 2]), "l": pa.scalar("c")})
    ds.append({n: pa.scalar(None) for n in ds.tensors})
    ds.x.extend([pa.scalar(1, pa.int8()), None, pa.scalar([1], pa.list_(pa.int8()))])
    ds.append({"x": pa.array([1, 2], pa.int8()), "l": pa.array(["c", "d"]), "i": pa.chunked_array([[1], [2]])}, append_empty=True)
    assert ds.x.dtype == np.int8
    assert [values(ds, n)[1:3] for n in ds.tensors] == [[3, None], [2, None], ["a", None], [[1, 2], None], [0, None]]
    assert (values(ds)[-1], values(ds, "l")[-1], values(ds, "i")[-1]) == ([1, 2], [0, 1], [1, 2])


@pytest.mark.parametrize("name", ["s", "j", "l"])
def test_texts_that_are_no_utf8(ds: Any, name: str) -> None:
    offsets = pa.py_buffer(np.array([0, 1, 2], np.int32).tobytes())
    bad = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"\xffa")])
    for use in (
        lambda: ds[name].extend(bad),
        lambda: ds.extend({name: pa.chunked_array([bad])}, append_empty=True),
        lambda: ds.extend(pa.table({name: bad}), append_empty=True),
        lambda: ds[name].extend(bad.dictionary_encode()),
    ):
        with unchanged(ds), pytest.raises(DtypeError, match=rf"'{name}', rows from 1 on.*UTF8"):
            use()


@pytest.mark.parametrize("column", [pa.array([1, 2]), pa.chunked_array([[1], [2]]), pa.array([1, None]), (i for i in (1, 2))])
def test_assignment_takes_what_extend_takes(ds: Any, column: Any) -> None:
    ds.i.extend([7, 8])
    ds.flush()
    ds.i[1:] = column
    assert values(ds, "i")[1] == 1
    assert values(ds, "i")[2] in (2, None)
    ds.s.append("z")
    ds.s[:] = pa.array([None, "b"])
    assert ds.s.text() == [None, "b"]
    ds.flush()
    with unchanged(ds), pytest.raises(UnequalLengths):
        ds.i[1:] = pa.array([1])
