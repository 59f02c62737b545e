"""The chain: each step once, each giving a new loader, nothing done before iteration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loader_fake import FakeSource, numbers

from lakefmt.errors import InvalidInput
from lakefmt.loaders import dataloader, map_dataset


@pytest.mark.parametrize(
    ("step", "argument"),
    [
        ("transform", {"label": None}),
        ("map_batches", dict),
        ("batch", 2),
        ("shuffle", True),
        ("sample_by", [1.0] * 10),
        ("query", "select *"),
        ("offset", 1),
    ],
)
def test_each_step_once(step: str, argument: Any) -> None:
    source = numbers(10)
    chain = getattr(dataloader(source, query=lambda _: source), step)(argument)
    with pytest.raises(InvalidInput, match=rf"\.{step}\(\) was already said"):
        getattr(chain, step)(argument)


def test_steps_make_new_loaders_and_commute() -> None:
    base = dataloader(numbers(10))
    shuffled = base.shuffle(seed=1)
    assert [b["label"].tolist() for b in base.batch(10).numpy()] == [list(range(10))]
    one = [b["label"].tolist() for b in shuffled.batch(3).offset(2).numpy()]
    two = [b["label"].tolist() for b in base.offset(2).batch(3).shuffle(seed=1).numpy()]
    assert one == two


def test_nothing_is_read_before_iteration() -> None:
    source = numbers(10)
    loader = dataloader(source).batch(2).shuffle().transform({"x": None}).numpy()
    assert source.gathers == 0
    iter(loader)


def test_query() -> None:
    asked = []

    def query(tql: str) -> FakeSource:
        asked.append(tql)
        return FakeSource({"label": np.array([7, 8, 9])})

    loader = dataloader(numbers(10), query=query).query("label > 6").batch(2).numpy()
    assert [b["label"].tolist() for b in loader] == [[7, 8], [9]]
    assert asked == ["label > 6"]
    with pytest.raises(InvalidInput, match="no queries"):
        dataloader(numbers(10)).query("label > 6")
    chain = dataloader(numbers(10), query=query, weigh=lambda _: np.ones(10)).query("q").sample_by("label")
    with pytest.raises(InvalidInput, match="evaluates no expressions"):
        chain.numpy()


def test_shuffle_modes() -> None:
    remote = numbers(100, local=False)
    plan = dataloader(remote).shuffle(seed=1).batch(4).numpy().state_dict()["plan"]
    assert plan["order"] == "window"
    plan = dataloader(remote).shuffle(seed=1, mode="global").batch(4).numpy().state_dict()["plan"]
    assert plan["order"] == "global"
    assert dataloader(numbers(9)).shuffle(seed=1).numpy().state_dict()["plan"]["order"] == "global"
    assert dataloader(numbers(9)).shuffle(False).numpy().state_dict()["plan"]["order"] == "scan"
    labels = [int(v) for b in dataloader(remote).shuffle(seed=1).batch(7).numpy() for v in b["label"]]
    assert sorted(labels) == list(range(100))
    with pytest.raises(InvalidInput, match="mode='chunk'"):
        dataloader(remote).shuffle(mode="chunk")
    for wrong in (0, -1):
        with pytest.raises(InvalidInput, match="buffer_size"):
            dataloader(remote).shuffle(buffer_size=wrong)
    with pytest.raises(InvalidInput, match="seed='x'"):
        dataloader(remote).shuffle(seed="x")  # type: ignore[arg-type]


def test_seed_hook() -> None:
    drawn = iter([5, 6, 7])
    chain = dataloader(numbers(50), seed=lambda: next(drawn)).batch(50)
    assert chain.numpy().seed is None  # unshuffled loaders draw none
    assert [chain.shuffle().numpy().seed for _ in range(2)] == [5, 6]
    assert chain.shuffle(seed=1).numpy().seed == 1


def test_wrong_values() -> None:
    for wrong in (0, -1, 2.5, "4"):
        with pytest.raises(InvalidInput, match="batch_size"):
            dataloader(numbers(3)).batch(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"offset\(11\)"):
        dataloader(numbers(10)).offset(11).numpy()
    with pytest.raises(InvalidInput, match="list of names"):
        dataloader(numbers(10)).numpy(tensors="label")
    with pytest.raises(InvalidInput, match="nothing to load"):
        dataloader(numbers(10)).numpy(tensors=[])
    with pytest.raises(InvalidInput, match="leaves out"):
        dataloader(numbers(10)).transform({"x": None}).numpy(tensors=["label"])


def test_an_empty_dataset() -> None:
    loader = dataloader(numbers(0)).shuffle().batch(3).numpy()
    assert len(loader) == 0
    assert list(loader) == []


def test_a_chain_and_its_ends_say_what_they_are() -> None:
    chain = dataloader(numbers(100))
    assert repr(chain) == "Loader(100 rows; tensors x, label)"
    full = chain.transform({"label": None}).map_batches(dict).batch(8, drop_last=True).shuffle(mode="window", seed=3).offset(5)
    assert repr(full) == (
        "Loader(100 rows; tensors label; transformed; map_batches; batch_size 8, last dropped; shuffled (window), seed 3; offset 5)"
    )
    assert repr(chain.sample_by([1.0] * 100, replace=False)) == "Loader(100 rows; tensors x, label; sampled without replacement)"
    shuffled = chain.batch(8).shuffle(seed=3)
    assert repr(shuffled.numpy()) == "NumpyLoader(100 rows: 13 batches of 8; order global, seed 3; tensors x, label)"
    assert repr(shuffled.pytorch(shard=(1, 2))) == (
        "TorchLoader(100 rows: 7 batches of 8, rank 1 of 2; order global, seed 3; tensors x, label)"
    )
    assert repr(chain.numpy()) == "NumpyLoader(100 rows: single rows; order scan; tensors x, label)"
    assert repr(map_dataset(numbers(3))) == "MapDataset(3 rows; tensors x, label)"
    many = FakeSource({f"t{i}": np.arange(3) for i in range(9)})
    assert repr(dataloader(many)) == "Loader(3 rows; tensors t0, t1, t2, t3, t4, t5, … (9))"
