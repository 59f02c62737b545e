"""Updates that are buffered: cheap to take, the newest wins, and what was handed out before stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lakefmt
from lakefmt.errors import DtypeError
from lakefmt.fragment.columns import new_column
from lakefmt.htypes import define_tensor
from lakefmt.pending import Patches
from lakefmt.samples import prepare_batch


@pytest.fixture
def ds(mem_url: str) -> Any:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("t", htype="text")
    ds.extend({"x": np.arange(1000), "t": [str(i) for i in range(1000)]})
    ds.commit()
    return ds


def test_the_newest_update_of_a_row_wins(ds: Any) -> None:
    for value in range(50):
        ds.x[7] = value
        ds.x[[7, 8]] = [value + 1, value + 2]
        assert ds.x[6:10].numpy().tolist() == [6, value + 1, value + 2, 9]
    ds.x[[5, 5, 5]] = [1, 2, 3]
    assert ds.x[5].numpy() == 3
    ds.commit()
    assert lakefmt.load(ds.path).x[5:9].numpy().tolist() == [3, 6, 50, 51]


def test_rows_in_any_order_and_shape(ds: Any) -> None:
    order = np.random.default_rng(1).permutation(1000)
    ds.x[order.tolist()] = order * 10
    ds.t[order[:300].tolist()] = [f"new {i}" for i in order[:300]]
    expected = {int(i): f"new {i}" for i in order[:300]}
    for again in (ds, ds):
        assert again.x.numpy().tolist() == (np.arange(1000) * 10).tolist()
        assert [str(v) for v in again.t.numpy(aslist=True)] == [expected.get(i, str(i)) for i in range(1000)]
        ds.flush()


def test_an_error_names_the_row_and_changes_nothing(ds: Any) -> None:
    before = ds.version_id
    with pytest.raises(DtypeError, match="row 702"):
        ds.x[[3, 700, 701, 702]] = [1, 2, 3, "four"]
    assert ds.x[[3, 700]].numpy().tolist() == [3, 700]
    ds.flush()
    assert ds.version_id == before


def test_who_saw_the_first_updates_sees_just_these() -> None:
    definition = define_tensor(1, "x", dtype="int64")
    patches = Patches(new_column(definition))

    def add(rows: list[int], values: list[int]) -> None:
        patches.add(np.array(rows), prepare_batch(definition, np.array(values))[1], definition)

    add([1, 2, 1], [10, 20, 11])
    seen = len(patches)
    add([2, 3], [21, 30])
    wanted = np.array([0, 1, 2, 3])
    at, samples = patches.find(wanted, seen)
    assert at.tolist() == [1, 2]
    assert patches.column.take(samples).values.tolist() == [11, 20]  # type: ignore[union-attr]
    at, samples = patches.find(wanted, len(patches))
    assert at.tolist() == [1, 2, 3]
    assert patches.column.take(samples).values.tolist() == [11, 21, 30]  # type: ignore[union-attr]
    rows, column = patches.latest()
    assert rows.tolist() == [1, 2, 3]
    assert column.take(np.arange(3)).values.tolist() == [11, 21, 30]  # type: ignore[union-attr]


def test_what_an_interrupted_update_left_is_cut_off() -> None:
    definition = define_tensor(1, "x", dtype="int64")
    patches = Patches(new_column(definition))
    patches.add(np.array([5]), prepare_batch(definition, np.array([50]))[1], definition)
    patches.column.extend(prepare_batch(definition, np.array([99]))[1])  # as if Ctrl-C came before the books were kept
    patches.add(np.array([6]), prepare_batch(definition, np.array([60]))[1], definition)
    assert patches.latest()[1].take(np.arange(2)).values.tolist() == [50, 60]  # type: ignore[union-attr]


def test_many_updates_take_time_in_proportion(ds: Any) -> None:
    """No update looks at those before it: samples and books grow by what was given, and nothing is summed up anew."""
    for i in range(1000):
        ds.x[i] = -i
        assert ds.x[i].numpy() == -i
    patches = next(iter(ds._writer.pending.updates.values()))
    assert len(patches) == 1000
    assert len(patches.column.chunks) == 1
    ds.commit()
    assert lakefmt.load(ds.path).x.numpy().tolist() == [-i for i in range(1000)]
