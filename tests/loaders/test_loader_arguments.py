"""Steps of a chain take numbers, NumPy's too, and name what they cannot take."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import lakefmt
from lakefmt.errors import InvalidInput, RowIndexError, TqlError


@pytest.fixture
def ds() -> Any:
    """Four rows."""
    made = lakefmt.empty(f"mem://{uuid.uuid4().hex}")
    made.create_tensor("x", dtype="int64")
    made.extend({"x": [0, 1, 2, 3]})
    made.commit("four")
    return made


def test_integers_of_numpy_are_integers(ds: Any) -> None:
    loader = ds.dataloader().batch(np.int64(2)).shuffle(seed=np.int64(3), buffer_size=np.float64(8)).offset(np.uint8(1)).numpy()
    assert sorted(x for b in loader for x in b["x"].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("step", "named"),
    [
        (lambda c: c.batch(True), r"batch_size=True"),
        (lambda c: c.batch(0), r"batch_size=0"),
        (lambda c: c.batch(2.0), r"batch_size=2\.0"),
        (lambda c: c.shuffle(buffer_size="a"), r"buffer_size='a'"),
        (lambda c: c.shuffle(buffer_size=0), r"buffer_size=0"),
        (lambda c: c.shuffle(seed="a"), r"seed='a'"),
        (lambda c: c.sample_by([1, 1, 1, 1], size="a"), r"size='a'"),
        (lambda c: c.sample_by([1, 1, 1, 1], size=1.5), r"size=1\.5"),
        (lambda c: c.offset("a"), r"n='a'"),
        (lambda c: c.query(5), r"query\(5\)"),
        (lambda c: c.batch(torch.tensor(True)), r"batch_size=tensor\(True\)"),
        (lambda c: c.batch(-(10**5000)), r"batch_size=-0x.*…"),
        (lambda c: c.shuffle(buffer_size=2**63, mode="window"), r"buffer_size=9223372036854775808.*at most 16777216"),
        (lambda c: c.shuffle(buffer_size=10**400), r"buffer_size=0x.*at most"),
        (lambda c: c.shuffle(buffer_size=float("inf")), r"buffer_size=inf"),
        (lambda c: c.shuffle(buffer_size=float("nan")), r"buffer_size=nan"),
        (lambda c: c.sample_by([1, 1, 1, 1], size=2**63), r"size=9223372036854775808.*to 9007199254740992"),
    ],
)
def test_other_things_are_named(ds: Any, step: Callable[[Any], Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        step(ds.dataloader())


_GOOD_STATE = {"format": 2, "epoch": 0, "rows": 0, "plan": {}, "source": "x", "source_text": ""}


@pytest.mark.parametrize(
    ("end", "named"),
    [
        (lambda c: c.pytorch(tensors=5), r"tensors=5"),
        (lambda c: c.pytorch(tensors="x"), r"tensors='x'"),
        (lambda c: c.numpy(tensors=[1]), r"tensors=\[1\]"),
        (lambda c: c.pytorch(shard=5), r"shard=5"),
        (lambda c: c.pytorch(shard=("a", "b")), r"shard\[0\]='a'"),
        (lambda c: c.pytorch(shard=(2, 2)), r"rank 2 of 2"),
        (lambda c: c.pytorch(collate_fn=5), r"collate_fn=5"),
        (lambda c: c.pytorch(worker_init_fn=5), r"worker_init_fn=5"),
        (lambda c: c.pytorch(pin_memory="yes"), r"pin_memory='yes'"),
        (lambda c: c.pytorch(num_workers="a"), r"num_workers='a'"),
        (lambda c: c.pytorch(multiprocessing_context="x"), r"multiprocessing_context='x'"),
        (lambda c: c.pytorch(multiprocessing_context=5), r"multiprocessing_context=5"),
        (lambda c: c.numpy(decode_method="numpy"), r"decode_method='numpy'"),
        (lambda c: c.numpy(return_index="a"), r"return_index='a'"),
        (lambda c: c.numpy(num_threads=1.5), r"num_threads=1\.5"),
        (lambda c: c.numpy(num_threads=20000), r"num_threads=20000.*0 to 1024"),
        (lambda c: c.numpy(num_threads=2**31), r"num_threads=2147483648"),
        (lambda c: c.numpy(prefetch_factor=2**31), r"prefetch_factor=2147483648"),
        (lambda c: c.pytorch(num_workers=2**31), r"num_workers=2147483648"),
        (lambda c: c.pytorch(device=1.5), r"device=1\.5 is no torch device"),
        (lambda c: c.pytorch(device=True), r"device=True is no torch device"),
        (lambda c: c.pytorch(device=2**70), r"device=1180591620717411303424 is no torch device"),
        (lambda c: c.pytorch(device="cuda:999"), r"device='cuda:999'"),
        (lambda c: c.pytorch(distribute=3, what=1), r"no option 'distribute'; did you mean 'distributed'"),
        (lambda c: c.pytorch(colour=True), r"no option 'colour'; known.*'collate_fn'.*'pin_memory'.*'shard'$"),
        (lambda c: c.numpy(distributed="yes"), r"distributed='yes'"),
        (lambda c: c.numpy(rank=0), r"rank=0, world_size=None.*both"),
        (lambda c: c.numpy(rank=2, world_size=2), r"rank 2 of 2"),
        (lambda c: c.numpy(rank=0.5, world_size=2), r"rank=0\.5"),
        (lambda c: c.numpy(rank=0, world_size=0), r"world_size=0"),
        (lambda c: c.numpy(rank=0, world_size=2, shard=(0, 2)), r"shard=\(0, 2\).*already"),
        (lambda c: c.numpy(distributed=False, rank=0, world_size=2), r"distributed=False, rank=0"),
        (lambda c: c.pytorch(persistent_worker=True), r"did you mean 'persistent_workers'"),
        (lambda c: c.numpy().set_epoch(2**70), r"epoch=1180591620717411303424"),
        (lambda c: c.numpy(ragged=5), r"ragged=5"),
        (lambda c: c.numpy(on_error=None), r"on_error=None"),
        (lambda c: c.numpy().set_epoch("a"), r"epoch='a'"),
        (lambda c: c.numpy().set_epoch(-1), r"epoch=-1"),
        (lambda c: c.numpy().load_state_dict(5), r"no loader state"),
        (lambda c: c.numpy().load_state_dict({"format": 2}), r"damaged"),
        (lambda c: c.numpy().load_state_dict({**_GOOD_STATE, "rows": -1}), r"damaged.*rows"),
        (lambda c: c.numpy().load_state_dict({**_GOOD_STATE, "epoch": "a"}), r"damaged.*epoch"),
        (lambda c: c.numpy().load_state_dict({**_GOOD_STATE, "epoch": 2**70}), r"damaged.*epoch"),
        (lambda c: c.numpy().load_state_dict({**_GOOD_STATE, "plan": 5}), r"damaged.*plan"),
        (lambda c: c.numpy().load_state_dict({**c.numpy().state_dict(), "rows": 99}), r"99 rows.* it has 4"),
    ],
)
def test_ends_of_a_chain_name_what_they_cannot_take(ds: Any, end: Callable[[Any], Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        end(ds.dataloader().batch(2))


@pytest.mark.parametrize("given", [5, None, "ds", [1, 2]])
def test_a_map_dataset_is_of_rows(given: Any) -> None:
    with pytest.raises(InvalidInput, match="takes a dataset or a view"):
        lakefmt.loaders.map_dataset(given)


def test_a_map_dataset_takes_a_dataset_and_a_view(ds: Any) -> None:
    assert [int(r["x"]) for r in lakefmt.loaders.map_dataset(ds)] == [0, 1, 2, 3]
    assert [int(r["x"]) for r in lakefmt.loaders.map_dataset(ds[2:])] == [2, 3]
    with pytest.raises(InvalidInput, match="transform=5"):
        lakefmt.loaders.map_dataset(ds, transform=5)


@pytest.mark.parametrize(
    "index", [1.9, 1.0, True, np.True_, torch.tensor(True), "1", None, slice(0, 2), [0, 1], np.array([1.5]), torch.tensor(1.5)]
)
def test_a_row_of_a_map_dataset_is_an_integer(ds: Any, index: Any) -> None:
    data = lakefmt.loaders.map_dataset(ds)
    with pytest.raises(InvalidInput, match="a row is an integer"):
        data[index]
    with pytest.raises(InvalidInput, match="a row is an integer"):
        data.__getitems__([0, index])


def test_rows_of_a_map_dataset_by_other_libraries_integers(ds: Any) -> None:
    data = lakefmt.loaders.map_dataset(ds)
    for index in (np.int8(-1), np.uint64(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8), np.array(3)):
        assert int(data[index]["x"]) == 3
    for indices in (
        [1, 3],
        (1, 3),
        range(1, 4, 2),
        np.array([1, 3], np.uint8),
        torch.tensor([1, 3]),
        [torch.tensor(1), np.int32(3)],
    ):
        assert [int(r["x"]) for r in data.__getitems__(indices)] == [1, 3]
    for wrong in (2**70, 4, -5, 10**5000):
        with pytest.raises(RowIndexError, match="of a dataset of 4 rows"):
            data[wrong]
    for none in (None, 5, np.array(2)):
        with pytest.raises(InvalidInput, match="give a list of row numbers"):
            data.__getitems__(none)
    with pytest.raises(InvalidInput, match="a row is an integer"):
        data.__getitems__(np.array([0.9, 2.0]))


def test_the_largest_buffer_is_a_window(ds: Any) -> None:
    loader = ds.dataloader().batch(4).shuffle(buffer_size=1 << 24, mode="window", seed=1).numpy()
    assert sorted(next(iter(loader))["x"].tolist()) == [0, 1, 2, 3]


def test_a_seed_is_an_integer() -> None:
    with pytest.raises(InvalidInput, match="'a'"):
        lakefmt.random.seed("a")  # type: ignore[arg-type]


def test_huge_weights_keep_their_proportions(ds: Any) -> None:
    loader = ds.dataloader().batch(1000).sample_by([1e308, 1e308, 0, 1e308], size=3000).shuffle(seed=1).numpy()
    drawn = np.bincount(np.concatenate([b["x"] for b in loader]), minlength=4)
    assert drawn[2] == 0
    assert drawn[[0, 1, 3]].min() > 900


def test_an_error_in_weights_points_into_what_was_written(ds: Any) -> None:
    expression = "x + nope"
    with pytest.raises(TqlError, match="'nope' does not exist") as caught:
        ds.dataloader().batch(1).sample_by(expression).numpy()
    assert caught.value.query == expression
    assert expression[caught.value.position :] == "nope"
