"""A curriculum: weights that change from stage to stage of an epoch, asked of a pure function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loader_fake import FakeSource

import lakefmt
from lakefmt.errors import InvalidInput
from lakefmt.loaders import dataloader

N = 100


def source() -> FakeSource:
    return FakeSource({"v": np.arange(N)})


def easy_first(epoch: int, stage: int) -> Any:
    """Only the first rows in the first stages, later ones in later epochs sooner."""
    return (np.arange(N) < 25 * (stage + 1 + epoch)).astype(float)


def chain(fn: Any = easy_first, **options: Any) -> Any:
    return dataloader(source()).curriculum(fn, every=50, **options).shuffle(seed=1).batch(10)


def test_stages_draw_by_their_weights() -> None:
    loader = chain(size=200).numpy()
    first = np.concatenate([b["v"] for b in loader])
    assert [int(first[i : i + 50].max()) < 25 * (i // 50 + 1) for i in range(0, 200, 50)] == [True] * 4
    assert [int(first[i : i + 50].max()) > 25 * (i // 50) for i in range(0, 200, 50)] == [True] * 4
    second = np.concatenate([b["v"] for b in loader])
    assert int(second[:50].max()) >= 25  # the next epoch is another one


def test_it_goes_on_and_is_shared_out() -> None:
    whole = [b["v"].tolist() for b in chain(size=200).numpy()]
    loader = chain(size=200).numpy()
    iterator = iter(loader)
    seen = [next(iterator)["v"].tolist() for _ in range(7)]
    resumed = chain(size=200).numpy(num_workers=1)
    resumed.load_state_dict(loader.state_dict())
    assert seen + [b["v"].tolist() for b in resumed] == whole
    resumed.close()
    ranks = [[b["v"].tolist() for b in chain(size=200).numpy(rank=r, world_size=2)] for r in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == [whole[i] + whole[i + 1] for i in range(0, 20, 2)]


def test_the_function_may_answer_in_tql_or_with_a_tensor() -> None:
    ds = lakefmt.dataset("mem://curriculum", overwrite=True)
    ds.create_tensor("v", dtype="int64")
    ds.extend({"v": np.arange(20)})
    ds.commit("twenty")
    loader = ds.dataloader().curriculum(lambda e, s: "v < 5" if s == 0 else ds.v, every=10).batch(10).shuffle(seed=1).numpy()
    easy, hard = (b["v"] for b in loader)
    assert easy.max() < 5
    assert hard.min() >= 1


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ([1.0] * 5, r"epoch 0, stage 0.*100 rows"),
        ([-1.0] * N, r"epoch 0, stage 0.*row 0"),
        ([0.0] * N, r"epoch 0, stage 0.*zero"),
        ("v", r"epoch 0, stage 0.*evaluates no expressions"),
        (None, r"epoch 0, stage 0"),
    ],
)
def test_answers_that_are_no_weights(answer: Any, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        list(chain(lambda e, s: answer).numpy())


def test_errors_of_the_function_say_when() -> None:
    def late(epoch: int, stage: int) -> Any:
        if stage == 1:
            raise KeyError("no such stage")
        return np.ones(N)

    with pytest.raises(KeyError) as caught:
        list(chain(late).numpy())
    assert any("epoch 0, stage 1" in note for note in caught.value.__notes__)


def test_arguments() -> None:
    for bad, named in (
        ({"fn": None, "every": 3}, "fn=None"),
        ({"fn": 5, "every": 3}, "fn=5"),
        ({"fn": easy_first, "every": 0}, "every=0"),
    ):
        with pytest.raises(InvalidInput, match=named):
            dataloader(source()).curriculum(**bad)
    with pytest.raises(InvalidInput, match=r"\.balance\(\) and \.curriculum\(\) both"):
        dataloader(source()).curriculum(easy_first, 3).balance(np.zeros(N))
