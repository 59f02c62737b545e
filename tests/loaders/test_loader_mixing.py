"""Mixing datasets: exact proportions, each part in its own order, three ways to stop, across stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loader_fake import FakeSource

import lakefmt
from lakefmt.errors import DtypeError, InvalidInput
from lakefmt.loaders import dataloader, mix
from lakefmt.loaders.curriculum import Curriculum


def part(n: int, base: int, **options: Any) -> FakeSource:
    return FakeSource({"v": np.arange(base, base + n)}, tag=f"{base}", **options)


def values(loader: Any) -> list[int]:
    return [v for b in loader for v in b["v"].tolist()]


A, B = part(60, 0), part(25, 1000)


@pytest.mark.parametrize("shuffled", [False, True])
def test_proportions_hold_in_every_batch(shuffled: bool) -> None:
    chain = mix([A, B], [0.75, 0.25]).batch(8, drop_last=True)
    chain = chain.shuffle(seed=1) if shuffled else chain
    counts = [int((b["v"] >= 1000).sum()) for b in chain.numpy()]
    assert set(counts) <= {1, 2, 3}
    assert abs(np.mean(counts) - 2) < 0.2


def test_three_ways_to_stop() -> None:
    first = values(mix([A, B], [3, 1]).batch(8).numpy())
    assert sorted(v for v in first if v < 1000) == list(range(60))  # used up; the other part not
    assert 19 <= sum(v >= 1000 for v in first) <= 21
    every = values(mix([A, B], [1, 1], stop="all").batch(8).numpy())
    ones = [v for v in every if v >= 1000]
    assert {v for v in every if v < 1000} == set(range(60))
    assert ones[:25] == ones[25:50] == list(range(1000, 1025))  # begins anew, as stored
    never = mix([A, B], [1, 1], stop="never").batch(10).shuffle(seed=2).numpy()
    with pytest.raises(TypeError, match="never ends"):
        len(never)
    iterator = iter(never)
    many = [next(iterator)["v"] for _ in range(100)]
    assert 495 <= sum(int((v >= 1000).sum()) for v in many) <= 505


def test_without_weights_each_part_comes_as_often_as_it_has_rows() -> None:
    assert sorted(values(mix([A, B]).batch(8).shuffle(seed=1).numpy())) == sorted([*range(60), *range(1000, 1025)])


def test_parts_keep_their_own_order() -> None:
    doubled = dataloader(A).sample_by(np.r_[np.zeros(50), np.ones(10)], size=40).shuffle(seed=5)
    alone = values(doubled.batch(8).numpy())
    mixed = values(mix([doubled, B], [1, 1], stop="all").batch(8).shuffle(seed=9).numpy())
    assert [v for v in mixed if v < 1000][:40] == alone
    assert sorted({v for v in mixed if v >= 1000}) == list(range(1000, 1025))
    assert [v for v in mixed if v >= 1000] != sorted(v for v in mixed if v >= 1000)  # shuffled with the mix


@pytest.mark.parametrize("stop", ["first", "all", "never"])
def test_ranks_and_going_on(stop: str) -> None:
    def chain() -> Any:
        return mix([A, B], [2, 1], stop=stop).batch(6).shuffle(seed=3)

    def some(loader: Any, n: int = 9) -> list[list[int]]:
        return [b["v"].tolist() for b, _ in zip(loader, range(n), strict=False)]

    whole = some(chain().numpy(), 12)
    shares = [some(chain().numpy(rank=r, world_size=2), 5) for r in range(2)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)][:4] == [sorted(whole[2 * i] + whole[2 * i + 1]) for i in range(4)]
    loader = chain().numpy()
    iterator = iter(loader)
    seen = [next(iterator)["v"].tolist() for _ in range(4)]
    resumed = chain().numpy()
    resumed.load_state_dict(loader.state_dict())
    assert seen + some(resumed, 8) == whole


def test_which_part_a_row_is_of() -> None:
    batch = next(iter(mix({"web": A, "books": B}, {"web": 1, "books": 1}, source="from").batch(20).numpy()))
    assert (batch["from"] == (batch["v"] >= 1000)).all()
    data = next(iter(mix({"web": A, "books": B}, source="from").batch(2).numpy(decode_method={"from": "data"})))
    assert data["from"][0]["text"] in ("web", "books")


def test_across_stores_with_labels_by_name(tmp_path: Path) -> None:
    made = []
    for path, names, ids in (("mem://mix-a", ["cat", "dog"], [0, 1] * 5), (str(tmp_path / "b"), ["dog", "owl"], [0, 1] * 5)):
        ds = lakefmt.dataset(path, overwrite=True)
        ds.create_tensor("kind", htype="class_label", class_names=names)
        ds.create_tensor("x", dtype="float32" if path.startswith("mem") else "float64", shape=(2,))
        ds.extend({"kind": ids, "x": np.full((10, 2), len(made))})
        ds.commit("ten")
        made.append(ds)
    mixed = lakefmt.mix(made).batch(20)
    (batch,) = mixed.numpy()
    names = mixed.source.definitions["kind"].class_names
    assert names == ("cat", "dog", "owl")
    assert batch["x"].dtype == np.float64
    for kind, x in zip(batch["kind"].tolist(), batch["x"][:, 0].tolist(), strict=True):
        assert names[kind] in (("cat", "dog") if x == 0 else ("dog", "owl"))
    (view,) = lakefmt.mix([made[0].query("kind == 'cat'"), made[1][:3]]).batch(20).pytorch()
    assert len(view["kind"]) == 8


def test_a_mix_of_token_streams() -> None:
    docs = [FakeSource({"ids": [np.full(5, k, np.int32)] * 8}, tag=str(k)) for k in range(2)]
    chains = [dataloader(d).tokens(4, tensor="ids") for d in docs]
    blocks = np.concatenate([b["ids"] for b in mix(chains, [1, 1]).batch(4).numpy()])
    assert blocks.shape == (20, 4)
    assert np.bincount(blocks[:, 0]).tolist() == [10, 10]


def test_proportions_by_a_curriculum() -> None:
    def stages(epoch: int, stage: int) -> list[float]:
        return [1.0 - 0.25 * stage, 0.25 * stage]

    loader = mix([A, B]).curriculum(stages, every=16, size=64).batch(16).shuffle(seed=1).numpy()
    assert [int((b["v"] >= 1000).sum()) for b in loader] == [0, 4, 8, 12]
    assert isinstance(Curriculum(stages, 3), Curriculum)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: mix([]), "no part"),
        (lambda: mix([A, 5]), "part 1 is int"),
        (lambda: mix([A, B], [1]), "mix"),
        (lambda: mix([A, B], [1, 0]), "part 1"),
        (lambda: mix([A, B], [1, float("nan")]), "nan"),
        (lambda: mix([A, B], [1, 1e-9]), "less than one row in 65536"),
        (lambda: mix([A, B], stop="soon"), "stop='soon'"),
        (lambda: mix([A, dataloader(B).batch(2)]), r"part 1 is a chain with \.batch"),
        (lambda: mix([A, FakeSource({"w": np.arange(3)})]), "part 1 has no tensor 'v'"),
        (lambda: mix([A, FakeSource({"v": ["a"]})]), "'v'"),
        (lambda: mix([A, B], source="v"), "source='v'"),
        (lambda: mix([A, B]).balance([1] * 85), "of a mix"),
        (lambda: mix([A, B]).query("v > 1"), "of a mix"),
        (lambda: mix([A, B]).tokens(2), "of a mix"),
        (lambda: mix("ab"), "give the parts in a list"),
    ],
)
def test_what_cannot_be_mixed(make: Any, named: str) -> None:
    with pytest.raises((InvalidInput, DtypeError), match=named):
        make()
