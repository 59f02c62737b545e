"""Steps of a chain take numbers, NumPy's too, and name what they cannot take."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lakefmt
from lakefmt.errors import InvalidInput


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
    ],
)
def test_other_things_are_named(ds: Any, step: Callable[[Any], Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        step(ds.dataloader())
