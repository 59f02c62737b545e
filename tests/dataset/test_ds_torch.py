"""Tensors of torch are samples and columns; those that NumPy has no array for are refused by lakefmt's own errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_tools import unchanged, values

import lakefmt
from lakefmt.errors import DtypeError

torch = pytest.importorskip("torch")


@pytest.fixture
def ds(mem_url: str) -> Any:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x")
    ds.create_tensor("f", dtype="float32", shape=(2,))
    ds.create_tensor("l", htype="class_label")
    ds.create_tensor("i", htype="image", sample_compression="png")
    ds.create_tensor("t", htype="text")
    ds.create_tensor("j", htype="json")
    ds.append({"x": 1, "f": [1, 2], "l": 0, "i": np.zeros((2, 2), np.uint8), "t": "a", "j": {}})
    ds.commit("a row")
    return ds


def test_gradients_are_left_out(ds: Any) -> None:
    given = torch.tensor([[3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    ds.f.extend(given)
    ds.f.extend([given[0], given[1]])
    ds.f.append(given[0])
    ds.f[0] = given[1]
    with torch.no_grad():
        given += 10
    assert values(ds, "f") == [[5, 6], [3, 4], [5, 6], [3, 4], [5, 6], [3, 4]]


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("kind", ["bfloat16", "sparse", "sparse rows"])
@pytest.mark.parametrize("name", ["x", "f", "l", "i", "t", "j"])
def test_what_numpy_has_no_array_for(ds: Any, name: str, kind: str) -> None:
    column = torch.eye(2)
    column = {"bfloat16": column.bfloat16, "sparse": column.to_sparse, "sparse rows": column.to_sparse_csr}[kind]()
    row = {n: v for n, v in {"x": 1, "f": [1, 2], "l": 0, "i": np.zeros((2, 2), np.uint8), "t": "a", "j": {}}.items() if n != name}
    for use in (
        lambda: ds[name].extend(column),
        lambda: ds[name].extend([column[0], column[1]]),
        lambda: ds[name].append(column[0]),
        lambda: ds.extend({name: column} | {n: [v, v] for n, v in row.items()}),
        lambda: ds.append({name: column[0]} | row),
        lambda: ds[name].__setitem__(0, column[0]),
    ):
        with unchanged(ds), pytest.raises(DtypeError, match=f"'{name}'"):
            use()


def test_what_to_do_instead_is_said(ds: Any) -> None:
    with pytest.raises(DtypeError, match=r"'x', row 1: Tensor does not convert .*value\.float\(\) for bfloat16"):
        ds.x.extend(torch.zeros(2, dtype=torch.bfloat16))
    with pytest.raises(DtypeError, match=r"'x' is a sparse Tensor; .*to_dense\(\)"):
        ds.x.extend(torch.eye(2).to_sparse())
