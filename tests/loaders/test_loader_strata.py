"""Chains by class: balanced (every class equally often) and stratified (every batch as the whole)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_fake import FakeSource

import lakefmt
from lakefmt.errors import InvalidInput
from lakefmt.loaders import dataloader
from lakefmt.loaders.strata import Balanced, strata_of, stratified

CLASSES = np.array([0] * 40 + [1] * 13 + [2] * 3 + [7])


def source(classes: Any = CLASSES) -> FakeSource:
    return FakeSource({"row": np.arange(len(classes)), "label": np.asarray(classes)})


def rows(chain: Any, **options: Any) -> list[int]:
    return [v for b in chain.batch(8).numpy(**options) for v in b["row"].tolist()]


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("stop", ["first", "all"])
def test_every_run_has_each_class_once(shuffled: bool, stop: str) -> None:
    chain = dataloader(source()).balance(CLASSES, stop=stop)
    seen = rows(chain.shuffle(seed=1) if shuffled else chain)
    assert len(seen) == 4 * (1 if stop == "first" else 40)
    for begin in range(0, len(seen), 4):
        assert sorted(CLASSES[seen[begin : begin + 4]].tolist()) == [0, 1, 2, 7]
    if stop == "all":
        assert set(seen) == set(range(len(CLASSES)))
        # smaller classes begin anew, each pass whole before the next
        thirteen = [r for r in seen if CLASSES[r] == 1]
        assert [len(set(thirteen[i : i + 13])) for i in range(0, 39, 13)] == [13, 13, 13]
    if not shuffled:
        assert [r for r in seen if CLASSES[r] == 0] == list(range(len(seen) // 4))


def test_never_ends() -> None:
    loader = dataloader(source()).balance(CLASSES, stop="never").shuffle(seed=1).batch(8).numpy()
    iterator = iter(loader)
    labels = np.concatenate([next(iterator)["label"] for _ in range(100)])
    assert np.unique(labels, return_counts=True)[1].tolist() == [200] * 4
    state = loader.state_dict()
    with pytest.raises(TypeError, match="never ends"):
        len(loader)
    assert "without end" in repr(loader)
    again = dataloader(source()).balance(CLASSES, stop="never").shuffle(seed=1).batch(8).numpy()
    again.load_state_dict(state)
    assert next(iter(again))["row"].tolist() == next(iterator)["row"].tolist()


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=9), batch=st.integers(1, 40), seed=st.integers(0, 99))
def test_stratified_batches_have_the_proportions_of_all(sizes: list[int], batch: int, seed: int) -> None:
    classes = np.repeat(np.arange(len(sizes)), sizes)
    n = len(classes)
    order = stratified(strata_of("stratify", classes), seed, True)
    for epoch in (0, 1):
        seen = order.rows(epoch, np.arange(n))
        assert sorted(seen.tolist()) == list(range(n))
        for begin in range(0, n - batch + 1, batch):
            counts = np.bincount(classes[seen[begin : begin + batch]], minlength=len(sizes))
            assert np.abs(counts - np.array(sizes) * batch / n).max() <= 2


def test_another_order_every_epoch_and_any_position_alone() -> None:
    for order in (Balanced(strata_of("balance", CLASSES), "all", 3, True), stratified(strata_of("stratify", CLASSES), 3, True)):
        whole = [order.rows(e, np.arange(len(order))) for e in range(2)]
        assert not np.array_equal(*whole)
        alone = [int(order.rows(1, np.array([p]))[0]) for p in range(0, len(order), 7)]
        assert alone == whole[1][::7].tolist()


@pytest.mark.parametrize("step", ["balance", "stratify"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_and_go_on(step: str, world: int) -> None:
    def chain() -> Any:
        return getattr(dataloader(source()), step)(CLASSES).shuffle(seed=2).batch(4)

    whole = [b["row"].tolist() for b in chain().numpy()]
    shares = [list(chain().numpy(rank=r, world_size=world)) for r in range(world)]
    assert len({len(s) for s in shares}) == 1
    together = [sorted(v for s in shares for v in s[i]["row"].tolist()) for i in range(len(shares[0]) - 1)]
    assert together == [sorted(v for b in whole[i * world : (i + 1) * world] for v in b) for i in range(len(together))]
    loader = chain().numpy()
    iterator = iter(loader)
    seen = [next(iterator)["row"].tolist() for _ in range(3)]
    resumed = chain().numpy()
    resumed.load_state_dict(loader.state_dict())
    assert seen + [b["row"].tolist() for b in resumed] == whole


def test_by_expression_tensor_and_text_on_datasets_and_views() -> None:
    ds = lakefmt.dataset("mem://strata", overwrite=True)
    ds.create_tensor("row", dtype="int64")
    ds.create_tensor("kind", htype="class_label", class_names=["a", "b", "c"])
    ds.create_tensor("word", htype="text")
    ds.extend({"row": np.arange(30), "kind": np.arange(30) % 3, "word": ["x" if i % 5 else "y" for i in range(30)]})
    ds.commit("thirty")
    for by in ("kind", ds.kind, np.arange(30) % 3):
        seen = rows(ds.dataloader().balance(by))
        assert [sorted(r % 3 for r in seen[i : i + 3]) for i in range(0, 30, 3)] == [[0, 1, 2]] * 10
    texts = rows(ds.dataloader().balance("word", stop="first"))
    assert len(texts) == 12
    view = ds.query("select * where row < 12 and kind != 'c'")
    assert sorted(rows(view.dataloader().balance("kind"))) == [0, 1, 3, 4, 6, 7, 9, 10]
    assert sorted(rows(ds.dataloader().query("row < 12").stratify("kind"))) == list(range(12))


@pytest.mark.parametrize(
    ("chain", "named"),
    [
        (lambda c: c.balance("label").sample_by([1.0] * 57), r"\.sample_by\(\) and \.balance\(\) both"),
        (lambda c: c.balance(CLASSES, stop="some"), r"stop='some'"),
        (lambda c: c.balance(CLASSES[:5]).numpy(), r"57 rows"),
        (lambda c: c.balance(np.full(57, np.nan)).numpy(), r"class of row 0 is nan"),
        (lambda c: c.stratify("label").numpy(), r"evaluates no expressions"),
        (lambda c: c.stratify(np.zeros((57, 2))).numpy(), r"stratify"),
    ],
)
def test_what_cannot_be(chain: Any, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        chain(dataloader(source()))
