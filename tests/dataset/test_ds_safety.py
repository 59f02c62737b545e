"""Nothing stored or buffered is lost, doubled or invented by a mistake, an interrupt, or somebody else's deed."""

from __future__ import annotations

import os
import pickle
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lakefmt
from lakefmt import writer as writer_module
from lakefmt.errors import Conflict, DtypeError, InvalidInput, LakeError, ReadOnly


def _fresh() -> str:
    return f"mem://{uuid.uuid4().hex}"


def _ints(path: Any, values: list[int]) -> Any:
    ds = lakefmt.empty(path)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": values})
    ds.commit("rows")
    return ds


@pytest.mark.parametrize("tail", ["@nope", "/.queries/v"])
def test_overwrite_deletes_no_dataset_for_a_typo(tmp_path: Path, tail: str) -> None:
    _ints(tmp_path / "set", [1, 2])
    with pytest.raises(InvalidInput, match="overwrite"):
        lakefmt.dataset(f"{tmp_path}/set{tail}", overwrite=True)
    with pytest.raises(InvalidInput, match="overwrite"):
        lakefmt.dataset(tmp_path / "set", overwrite=True, read_only=True)
    assert lakefmt.load(tmp_path / "set").x.numpy().tolist() == [1, 2]


def test_adding_no_class_names_changes_none() -> None:
    ds = lakefmt.empty(_fresh())
    ds.create_tensor("label", htype="class_label", class_names=["cat", "dog"])
    ds.label.add_class_names()
    assert ds.label.class_names == ["cat", "dog"]


@pytest.mark.parametrize("bad", ["\ud800", ["fine", "\ud800"]])
def test_text_that_is_no_utf8_is_refused_at_once(bad: Any) -> None:
    ds = lakefmt.empty(_fresh())
    ds.create_tensor("t", htype="text")
    ds.append({"t": "good"})
    with pytest.raises(DtypeError, match=r"row [12].*UTF-8"):
        ds.append({"t": bad}) if isinstance(bad, str) else ds.extend({"t": bad})
    ds.commit("the good one")
    assert ds.t.text() == ["good"]


def test_masked_elements_are_refused() -> None:
    ds = _ints(_fresh(), [1])
    with pytest.raises(DtypeError, match="masked"):
        ds.extend({"x": np.ma.array([1, 2], mask=[False, True])})
    assert len(ds) == 1


def test_a_buffer_that_conflicts_can_be_discarded() -> None:
    place = _fresh()
    one = lakefmt.empty(place)
    one.create_tensor("g")
    other = lakefmt.dataset(place)
    one.append({"g": 1})
    other.append({"g": 1.5})
    one.commit("ints")
    with pytest.raises(Conflict, match=r"discard\(\)"):
        other.commit("floats")
    other.discard()
    other.refresh()
    assert other.g.numpy().tolist() == [1]


def test_an_update_beside_a_short_tensor_invents_nothing() -> None:
    ds = lakefmt.empty(_fresh())
    ds.create_tensor("f", dtype="int64", shape=(2,))
    ds.create_tensor("k", dtype="int64")
    ds.extend({"f": [[1, 1], [2, 2]], "k": [1, 2]})
    ds.commit("two")
    ds.f[0] = [5, 5]
    ds.append({"k": 3}, skip_ok=True)
    first, missing = ds[[0, 2]].f.numpy(aslist=True)
    assert first.tolist() == [5, 5]
    assert missing is None


def test_an_interrupted_append_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = lakefmt.empty(_fresh())
    ds.create_tensor("a", dtype="int64")
    ds.create_tensor("b", htype="text")
    ds.append({"a": 1, "b": "one"})
    whole = writer_module.extended
    calls: list[int] = []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        made = whole(*args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(writer_module, "extended", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ds.append({"a": 2, "b": "two"})
    monkeypatch.setattr(writer_module, "extended", whole)
    assert (len(ds), len(ds.a), len(ds.b)) == (1, 1, 1)
    ds.append({"a": 3, "b": "three"})
    ds.commit("two rows")
    assert ds.a.numpy().tolist() == [1, 3]
    assert ds.b.text() == ["one", "three"]


def test_an_interrupt_behind_a_landed_commit_doubles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = _ints(_fresh(), [1])
    ds.append({"x": 2})
    landed = ds._log.commit

    def interrupted(*args: Any) -> Any:
        landed(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(ds._log, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ds.flush()
    monkeypatch.setattr(ds._log, "commit", landed)
    ds.append({"x": 3})
    ds.commit("three")
    assert ds.x.numpy().tolist() == [1, 2, 3]


def test_a_handle_of_a_deleted_dataset_commits_nothing(tmp_path: Path) -> None:
    ds = _ints(tmp_path / "set", [1])
    ds.append({"x": 2})
    lakefmt.delete(tmp_path / "set")
    with pytest.raises(LakeError):
        ds.commit("into the void")
    _ints(tmp_path / "set", [7])
    with pytest.raises(Conflict, match="another dataset"):
        ds.commit("into another")
    assert lakefmt.load(tmp_path / "set").x.numpy().tolist() == [7]
    ds.discard()


def test_values_too_large_for_a_narrower_float_are_refused() -> None:
    ds = lakefmt.empty(_fresh())
    ds.create_tensor("f", dtype="float16")
    with pytest.raises(DtypeError, match="row 1"):
        ds.extend({"f": np.array([1.0, 1e6])})
    ds.append({"f": float("inf")})
    assert np.isinf(ds.f[0].numpy())


def test_setting_an_attribute_stores_nothing_and_says_so() -> None:
    ds = _ints(_fresh(), [1])
    with pytest.raises(InvalidInput, match="assign to rows"):
        ds.x = [1, 2, 3]
    with pytest.raises(InvalidInput, match="assign to rows"):
        ds[0].x = 5


def test_query_is_a_function_however_often(tmp_path: Path) -> None:
    ds = _ints(tmp_path / "set", [1, 2, 3])
    assert len(ds.query("x > 1")) == 2
    for _ in range(2):
        assert len(lakefmt.query(f'select * from "{tmp_path}/set" where x > 2')) == 1


def test_rows_not_in_storage_cannot_be_queried_through_a_view() -> None:
    ds = _ints(_fresh(), [1])
    ds.append({"x": 2})
    with pytest.raises(InvalidInput, match=r"commit\(\) first"):
        ds[:].query("x > 1")
    assert len(ds.query("x > 1")) == 1


def test_queries_on_tensors_without_samples_find_nothing() -> None:
    ds = lakefmt.empty(_fresh())
    ds.create_tensor("i", dtype="int64")
    ds.create_tensor("image", htype="image", sample_compression="png")
    assert len(ds.query("i > 1")) == 0
    ds.extend({"i": [None, None], "image": [None, None]})
    assert len(ds.query("i > 1")) == 0
    assert len(ds.query("shape(image)[0] > 1")) == 0


def test_hub_may_be_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAKEFMT_HUB", "mem://")
    monkeypatch.chdir(tmp_path)
    _ints(f"hub://me/{uuid.uuid4().hex}", [1])
    assert os.listdir(tmp_path) == []


def test_a_read_only_handle_saves_no_view(tmp_path: Path) -> None:
    _ints(tmp_path / "set", [1])
    with pytest.raises(ReadOnly):
        lakefmt.dataset(tmp_path / "set", read_only=True)[:].save_view("x")


def test_a_handle_on_a_relative_path_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    packed = pickle.dumps(_ints("set", [4, 5]))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(packed).x.numpy().tolist() == [4, 5]
