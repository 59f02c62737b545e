"""Arguments and indices that mean nothing are refused where they are given, by a typed error; NumPy's odd ones work as NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_tools import unchanged, values

import lakefmt
from lakefmt.errors import DtypeError, InvalidInput, RowIndexError, ShapeError


@pytest.fixture
def ds(mem_url: str) -> Any:
    """Five rows."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": range(5)})
    ds.commit("five")
    return ds


def test_an_empty_index_means_all(ds: Any) -> None:
    assert values(ds) == values(ds[()]) == ds.x[()].numpy().tolist() == [0, 1, 2, 3, 4]
    ds.x[()] = [5, 6, 7, 8, 9]
    assert values(ds) == [5, 6, 7, 8, 9]
    assert ds.x[2][()].numpy() == 7


@pytest.mark.parametrize("step", [2**70, -(2**70), 2**63, 5, -5, 6, -6, 1, -1])
def test_steps_of_any_size(ds: Any, step: int) -> None:
    expected = [range(5)[::1][i] for i in range(5)[::step]]
    assert values(ds[::step]) == ds.x[::step].numpy().tolist() == values(ds[:][::step]) == expected
    assert len(ds[5:][::step]) == 0


@pytest.mark.parametrize("row", [10**5000, -(10**5000)], ids=["large", "small"])
def test_positions_of_any_size(ds: Any, row: int) -> None:
    for use in (lambda: ds[row], lambda: ds.x[row], lambda: ds.x.__setitem__(row, 1), lambda: ds.x[[row]], lambda: ds.x[{row}]):
        with unchanged(ds), pytest.raises(RowIndexError):
            use()


_REFUSED: list[tuple[dict[str, Any], type[InvalidInput]]] = [
    ({"shape": {}}, ShapeError), ({"shape": {3: 4}}, ShapeError), ({"shape": ""}, ShapeError), ({"shape": "34"}, ShapeError),
    ({"shape": True}, ShapeError), ({"shape": (True, 2)}, ShapeError), ({"shape": {3, 4}}, ShapeError),
    ({"shape": (2**40, 2**40)}, ShapeError), ({"shape": 10**5000}, ShapeError), ({"shape": (1,) * 64}, ShapeError),
    ({"shape": 2.5}, ShapeError), ({"dtype": "\0"}, DtypeError), ({"dtype": "\ud800"}, DtypeError), ({"dtype": {}}, DtypeError),
    ({"exist_ok": "no"}, InvalidInput), ({"exist_ok": None}, InvalidInput), ({"allow_new_labels": True}, InvalidInput),
    ({"htype": "class_label", "allow_new_labels": "no"}, InvalidInput),
    ({"htype": "class_label", "dtype": "uint8", "class_names": [str(i) for i in range(257)]}, DtypeError),
]  # fmt: skip


@pytest.mark.parametrize(("options", "kind"), _REFUSED, ids=range(len(_REFUSED)))
def test_create_tensor(ds: Any, options: dict[str, Any], kind: type[InvalidInput]) -> None:
    with unchanged(ds), pytest.raises(kind, match="new"):
        ds.create_tensor("new", **options)


def test_options_that_are_fine(ds: Any) -> None:
    ds.create_tensor("a", shape=np.int64(3))
    ds.create_tensor("b", shape=np.array([3, 4]), exist_ok=np.True_)
    ds.create_tensor("c", shape=(1,) * 31)
    ds.create_tensor("d", shape=[None, 2])
    ds.create_tensor("l", htype="class_label", dtype="uint8", class_names=[str(i) for i in range(256)])
    ds.append({"x": 1, "a": [1, 2, 3], "b": np.zeros((3, 4)), "c": np.zeros((1,) * 31), "d": [[1, 2]], "l": "255"})
    ds.flush()
    assert lakefmt.load(ds.path).l[5].numpy() == 255


def test_a_sample_of_more_dimensions_than_rows_of_it_can_have(ds: Any) -> None:
    ds.create_tensor("n")
    ds.flush()
    for use in (lambda: ds.n.append(np.zeros((1,) * 64)), lambda: ds.n.extend([np.zeros((1,) * 64)])):
        with unchanged(ds), pytest.raises(ShapeError, match="64 dimensions"):
            use()


@pytest.mark.parametrize("dtype", ["\0", "\ud800", {}, [], ("int64", "x")])
def test_alter_tensor_to_no_dtype(ds: Any, dtype: Any) -> None:
    with unchanged(ds), pytest.raises(DtypeError, match="alter_tensor"):
        ds.alter_tensor("x", dtype=dtype)


def test_alter_tensor_to_what_its_declared_shape_cannot_be(ds: Any) -> None:
    ds.create_tensor("m", dtype="float32", shape=(2, 2))
    with unchanged(ds), pytest.raises(InvalidInput, match=r"'embedding' have 1 dimensions.*\(2, 2\)"):
        ds.alter_tensor("m", htype="embedding")
