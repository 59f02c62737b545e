"""Transforms: per tensor, per row, per batch; what is stacked; errors that say where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loader_fake import FakeSource, numbers

from lakefmt.errors import InvalidInput, NoSuchTensor
from lakefmt.loaders import dataloader


def first(chain: Any, **options: Any) -> Any:
    return next(iter(chain.numpy(**options)))


def test_a_dict_selects_and_transforms() -> None:
    batch = first(dataloader(numbers(10)).transform({"label": lambda v: v * 10}).batch(4))
    assert list(batch.keys()) == ["label"]
    assert batch["label"].tolist() == [0, 10, 20, 30]
    batch = first(dataloader(numbers(10)).transform({"label": None, "x": lambda v: v[:2] + 1}).batch(4))
    assert list(batch.keys()) == ["label", "x"]
    assert batch["x"].shape == (4, 2)
    label, x = batch
    assert (label == batch["label"]).all()
    assert (x == batch["x"]).all()


def test_keyword_arguments() -> None:
    def scale(value: Any, by: int) -> Any:
        return value * by

    assert first(dataloader(numbers(4)).transform({"label": scale}, by=3).batch(4))["label"].tolist() == [0, 3, 6, 9]


def test_a_function_of_the_row() -> None:
    def fn(row: dict[str, Any]) -> dict[str, Any]:
        return {"both": np.array([row["x"][0], row["label"]]), "text": f"row {row['label']}"}

    batch = first(dataloader(numbers(10)).transform(fn).batch(3), return_index=True)
    assert batch["both"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert batch["text"] == ["row 0", "row 1", "row 2"]
    assert batch["index"].tolist() == [0, 1, 2]


def test_map_batches() -> None:
    def fn(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "sum": batch["x"].sum(axis=1)}

    batch = first(dataloader(numbers(10)).map_batches(fn).batch(3))
    assert batch["sum"].tolist() == [0, 1, 2]
    _, _, total = batch
    assert (total == batch["sum"]).all()


def test_torch_tensors_are_stacked() -> None:
    batch = first(dataloader(numbers(4)).transform({"x": torch.from_numpy}).batch(4))
    assert isinstance(batch["x"], torch.Tensor)
    assert batch["x"].shape == (4, 3)


def test_differing_shapes_are_an_error_that_says_what_to_do() -> None:
    loader = dataloader(numbers(6)).transform({"label": lambda v: np.zeros(int(v))}).batch(3).numpy()
    with pytest.raises(InvalidInput, match=r"'label'.*\(0,\) \(row 0\), \(1,\) \(row 1\), \(2,\) \(row 2\).*collate_fn"):
        list(loader)


def test_mixed_kinds_are_an_error() -> None:
    loader = dataloader(numbers(6)).transform({"label": lambda v: None if v == 1 else v}).batch(3).numpy()
    with pytest.raises(InvalidInput, match=r"NoneType.*row 1\)"):
        list(loader)


def test_missing_samples_reach_the_function() -> None:
    source = FakeSource({"v": [np.array([1.0]), None, np.array([3.0])]})
    batch = first(dataloader(source).transform({"v": lambda v: 0.0 if v is None else float(v[0])}).batch(3))
    assert batch["v"].tolist() == [1.0, 0.0, 3.0]


def test_foreign_errors_keep_their_type_and_say_where() -> None:
    def fn(value: Any) -> Any:
        return {}["absent"] if value == 3 else value

    for threads in (0, 2):
        with pytest.raises(KeyError) as caught:
            list(dataloader(numbers(6)).transform({"label": fn}).batch(2).numpy(num_threads=threads))
        assert "row 3 (id 1003), tensor 'label'" in caught.value.__notes__[0]


def test_a_row_function_must_return_the_same_keys() -> None:
    chain = dataloader(numbers(6)).batch(3)
    with pytest.raises(InvalidInput, match="same keys"):
        list(chain.transform(lambda row: {str(int(row["label"]) % 2): 1}).numpy())
    with pytest.raises(InvalidInput, match="returned ndarray, not a dict"):
        list(chain.transform(lambda row: row["x"]).numpy())


def test_names_are_checked_when_the_loader_is_made() -> None:
    with pytest.raises(NoSuchTensor, match=r"'labels'.*did you mean 'label'"):
        dataloader(numbers(6)).transform({"labels": None}).numpy()
    with pytest.raises(InvalidInput, match="function"):
        dataloader(numbers(6)).transform({"label": 3}).numpy()  # type: ignore[dict-item]


def test_no_row_objects_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    from lakefmt.loaders.engine import Engine

    monkeypatch.setattr(Engine, "run", lambda *_: pytest.fail("samples were touched one by one"))
    assert len(list(dataloader(numbers(1000)).shuffle(seed=1).batch(100).numpy())) == 10
