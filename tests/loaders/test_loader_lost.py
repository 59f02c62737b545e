"""No epoch gets shorter by what a user's function does: StopIteration and None are errors, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from loader_fake import numbers

from lakefmt.errors import InvalidInput
from lakefmt.loaders import dataloader, map_dataset

EMPTY: Any = iter(())


def stops_at_5(value: Any) -> Any:
    return next(EMPTY) if value == 5 else value


def stops_at_row_5(row: dict[str, Any]) -> Any:
    return next(EMPTY) if row["label"] == 5 else row


def stops_at_batch_of_5(batch: dict[str, Any]) -> Any:
    return next(EMPTY) if 5 in batch["label"] else batch


def stops_at_rows_of_5(rows: list[dict[str, Any]]) -> Any:
    return next(EMPTY) if any(r["label"] == 5 for r in rows) else len(rows)


def nothing(given: Any) -> None:
    return None


def stops(worker: int) -> None:
    next(EMPTY)


WAYS: dict[str, Callable[[Any], tuple[Any, dict[str, Any]]]] = {
    "tensor": lambda c: (c.transform({"label": stops_at_5}), {}),
    "row": lambda c: (c.transform(stops_at_row_5), {}),
    "batch": lambda c: (c.map_batches(stops_at_batch_of_5), {}),
    "collate": lambda c: (c, {"collate_fn": stops_at_rows_of_5}),
}
PLACES = {
    "tensor": r"row 5 .*'label'",
    "row": r"row 5 ",
    "batch": r"3 rows 3, 4, 5: .*map_batches",
    "collate": r"3 rows 3, 4, 5: collate_fn",
}


CASES = [(way, options) for way in WAYS for options in ({"num_threads": 0}, {"num_threads": 2})]


# torch takes 5 s to let go of a worker in which something failed: one each of what is done per sample and per batch
@pytest.mark.parametrize(("way", "options"), [*CASES, ("tensor", {"num_workers": 1}), ("collate", {"num_workers": 1})])
def test_stop_iteration_of_a_function(way: str, options: dict[str, Any]) -> None:
    chain, more = WAYS[way](dataloader(numbers(20)).batch(3))
    with pytest.raises(RuntimeError, match=f"{PLACES[way]}.* raised StopIteration") as caught:
        list(chain.pytorch(**options, **more))
    if "num_workers" not in options:
        assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.parametrize("way", ["tensor", "row", "batch"])
def test_the_other_front_ends(way: str) -> None:
    chain, _ = WAYS[way](dataloader(numbers(20)).batch(3))
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        list(chain.numpy())
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        map_dataset(numbers(20), transform={"label": stops_at_5})[5]


def test_a_bad_sample_is_left_out_like_any_other() -> None:
    loader = dataloader(numbers(8)).transform({"label": stops_at_5}).batch(4).numpy(on_error="collect")
    assert [v for b in loader for v in b["label"].tolist()] == [0, 1, 2, 3, 4, 6, 7]
    assert [(f.row, f.error) for f in loader.errors] == [(5, "StopIteration: ")]


@pytest.mark.parametrize("persistent", [False, True])
def test_a_worker_that_stops_at_once(persistent: bool) -> None:
    loader = dataloader(numbers(20)).batch(3).pytorch(2, worker_init_fn=stops, persistent_workers=persistent)
    with pytest.raises(RuntimeError, match="ended after 0 of 7 batches"):
        list(loader)
    loader.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_closing_ends_an_epoch_in_peace(threads: int) -> None:
    loader = dataloader(numbers(20)).transform({"label": None}).batch(3).numpy(num_threads=threads)
    items = iter(loader)
    next(items)
    loader.close()
    assert len(list(items)) < 6
    assert len(list(loader)) == 7


@pytest.mark.parametrize("options", [{}, {"num_threads": 0}])
def test_none_for_a_batch(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"4 rows 0, 1, 2, 3: .*map_batches returned None"):
        list(dataloader(numbers(20)).batch(4).map_batches(nothing).pytorch(**options))
    with pytest.raises(InvalidInput, match="collate_fn returned None"):
        list(dataloader(numbers(20)).batch(4).pytorch(collate_fn=nothing, **options))


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (lambda b: {"x": b["x"][:-1]}, r"'x'.*9 values of 10 rows"),
        (lambda b: {"x": [0] * 20}, r"'x'.*20 values of 10 rows"),
        (lambda b: {"x": 5}, r"'x'.*no sequence of 10 rows"),
        (lambda b: {"x": np.array(5)}, r"'x'.*no sequence of 10 rows"),
        (lambda b: b["x"], r"ndarray of 10 rows.*batch"),
    ],
)
def test_single_rows_out_of_a_mapped_batch(fn: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        list(dataloader(numbers(10)).map_batches(fn).numpy())
    with pytest.raises(InvalidInput, match="list of 10 rows"):
        list(dataloader(numbers(10)).pytorch(collate_fn=list))
