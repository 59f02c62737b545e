"""Several handles on one dataset: what each sees and when, and handles that travel to other processes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_tools import contents, values

import lakefmt
from lakefmt.errors import AlreadyExists, InvalidInput, NoSuchDataset, NoSuchTensor, ReadOnly
from lakefmt.testing import race_processes


@pytest.fixture
def url(mem_url: str) -> str:
    """A dataset with three rows."""
    with lakefmt.dataset(mem_url) as ds:
        ds.create_tensor("x", dtype="int64")
        ds.extend({"x": [1, 2, 3]})
    return mem_url


def test_refresh(url: str) -> None:
    a, b = lakefmt.load(url), lakefmt.load(url)
    b.append({"x": 4})
    b.flush()
    assert values(a) == [1, 2, 3], "a handle shows one version until it is told to look"
    a.refresh()
    assert values(a) == [1, 2, 3, 4]
    assert a.version_id == b.version_id


def test_refresh_stores_what_is_buffered(url: str) -> None:
    a, b = lakefmt.load(url), lakefmt.load(url)
    a.append({"x": 10})
    b.append({"x": 20})
    b.flush()
    a.refresh()
    assert values(a) == values(lakefmt.load(url)) == [1, 2, 3, 20, 10]


def test_refresh_sees_new_tensors(url: str) -> None:
    a, b = lakefmt.load(url), lakefmt.load(url)
    b.create_tensor("y", dtype="float32")
    b.y.extend([0.5, 1.5, 2.5])
    b.flush()
    assert "y" not in a
    a.refresh()
    assert contents(a) == {"x": [1, 2, 3], "y": [0.5, 1.5, 2.5]}


def test_buffered_rows_are_seen_by_their_handle_only(url: str) -> None:
    a, b = lakefmt.load(url), lakefmt.load(url)
    a.append({"x": 4})
    a.x[0] = 100
    assert values(a) == [100, 2, 3, 4]
    b.refresh()
    assert values(b) == [1, 2, 3]


def test_read_only(url: str) -> None:
    ds = lakefmt.load(url, read_only=True)
    assert ds.read_only
    for write in (
        lambda: ds.append({"x": 1}), lambda: ds.extend({"x": [1]}), lambda: ds.pop(), lambda: ds.create_tensor("y"),
        lambda: ds.x.append(1), lambda: ds.x.__setitem__(0, 1), lambda: ds.commit("m"), lambda: ds.info.update(a=1),
        lambda: ds.checkout("dev", create=True),
    ):  # fmt: skip
        with pytest.raises(ReadOnly, match="read_only=True"):
            write()
    assert values(ds) == [1, 2, 3]
    assert lakefmt.load(url).branches == ["main"]
    other = lakefmt.load(url)
    other.append({"x": 4})
    other.flush()
    ds.refresh()
    assert values(ds) == [1, 2, 3, 4]


def test_read_only_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(NoSuchDataset):
        lakefmt.dataset(tmp_path / "set", read_only=True)
    assert not (tmp_path / "set").exists()


# -- new class names in two handles at once ------------------------------------------------------------------------------


def _labels(ds: Any) -> list[Any]:
    texts: list[Any] = ds.label.data()["text"]
    return texts


@pytest.fixture
def labelled(mem_url: str) -> str:
    """Open labels, one known."""
    with lakefmt.dataset(mem_url) as ds:
        ds.create_tensor("label", htype="class_label")
        ds.append({"label": "known"})
    return mem_url


def test_class_names_merge(labelled: str) -> None:
    a, b = lakefmt.load(labelled), lakefmt.load(labelled)
    a.extend({"label": ["ape", "known", "ant"]})
    b.extend({"label": ["bee", "ant", "known"]})
    b.flush()
    a.flush()
    again = lakefmt.load(labelled)
    assert _labels(again) == _labels(a) == ["known", "bee", "ant", "known", "ape", "known", "ant"]
    assert again.label.class_names == ["known", "bee", "ant", "ape"]


def test_class_names_merge_in_rows_updates_and_lists(labelled: str) -> None:
    with lakefmt.load(labelled) as ds:
        ds.create_tensor("marks", htype="class_label")
        ds.marks.append(["p", "q"])
    a, b = lakefmt.load(labelled), lakefmt.load(labelled)
    a.append({"label": "ape", "marks": ["r", "p"]})
    a.label[0] = "ant"
    a.marks[0] = ["s", "q", "r"]
    b.append({"label": "bee", "marks": ["t"]})
    b.flush()
    a.flush()
    again = lakefmt.load(labelled)
    assert _labels(again) == ["ant", "bee", "ape"]
    assert again.marks.data()["text"] == [["s", "q", "r"], ["t"], ["r", "p"]]


def test_class_names_merge_with_missing_labels(labelled: str) -> None:
    a, b = lakefmt.load(labelled), lakefmt.load(labelled)
    a.extend({"label": [None, "ape", None]})
    b.extend({"label": ["bee"]})
    b.flush()
    a.flush()
    assert _labels(lakefmt.load(labelled)) == ["known", "bee", None, "ape", None]


def test_class_names_after_merging_are_known_to_the_handle(labelled: str) -> None:
    a, b = lakefmt.load(labelled), lakefmt.load(labelled)
    a.append({"label": "ape"})
    b.append({"label": "bee"})
    b.flush()
    a.flush()
    a.append({"label": "ape"})
    a.append({"label": "bee"})
    assert _labels(a)[-2:] == ["ape", "bee"]
    a.flush()
    assert _labels(lakefmt.load(labelled)) == ["known", "bee", "ape", "ape", "bee"]
    assert lakefmt.load(labelled).label.class_names == ["known", "bee", "ape"]


# -- travelling handles --------------------------------------------------------------------------------------------------


def _read_elsewhere(dataset: Any) -> tuple[list[Any], bool, str]:
    return values(dataset), dataset.read_only, dataset.version_id


def test_a_pickled_handle_stands_on_its_version(tmp_path: Path) -> None:
    ds = lakefmt.dataset(tmp_path / "set")
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [1, 2]})
    data = pickle.dumps(ds)
    assert values(lakefmt.load(tmp_path / "set")) == [1, 2], "what was buffered is stored, so that it can travel"
    version = ds.version_id
    ds.append({"x": 3})
    ds.flush()
    clone = pickle.loads(data)
    assert _read_elsewhere(clone) == ([1, 2], True, version)
    with pytest.raises(ReadOnly, match="stands on version"):
        clone.append({"x": 9})
    assert race_processes(_read_elsewhere, [(ds,), (clone,)]) == [([1, 2, 3], True, ds.version_id), ([1, 2], True, version)]


def _view_elsewhere(view: Any) -> tuple[list[Any], list[Any]]:
    return values(view), values(view, "v")


def test_a_pickled_view_shows_its_rows(tmp_path: Path) -> None:
    ds = lakefmt.dataset(tmp_path / "set")
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("v", dtype="float32")
    ds.extend({"x": np.arange(9), "v": np.arange(900, dtype="f4").reshape(9, 100)})
    ds.flush()
    view = ds[[7, 1]]
    expected = (values(view), values(view, "v"))
    ds.pop(1)
    assert race_processes(_view_elsewhere, [(view,)]) == [expected]
    assert _view_elsewhere(pickle.loads(pickle.dumps(view[0:1]))) == ([7], [expected[1][0]])


def test_rows_in_the_buffer_cannot_travel(url: str) -> None:
    ds = lakefmt.load(url)
    ds.append({"x": 4})
    with pytest.raises(InvalidInput, match="flush"):
        pickle.dumps(ds[2:4])
    ds.flush()
    assert values(pickle.loads(pickle.dumps(ds[2:4]))) == [3, 4]


def test_a_pickled_handle_on_s3(s3_bucket: str, s3_options: dict[str, Any]) -> None:
    ds = lakefmt.dataset(f"s3://{s3_bucket}/set", storage_options=s3_options)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [1, 2]})
    assert race_processes(_read_elsewhere, [(ds,)]) == [([1, 2], True, ds.version_id)]


# -- opening, replacing, deleting ----------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk"])
def place(request: Any, mem_url: str, tmp_path: Path) -> Any:
    """A place that holds a dataset with rows."""
    place = mem_url if request.param == "memory" else tmp_path / "set"
    with lakefmt.dataset(place) as ds:
        ds.create_tensor("x", dtype="int64")
        ds.extend({"x": [1, 2, 3]})
    return place


def test_dataset_opens_what_is_there(place: Any) -> None:
    assert values(lakefmt.dataset(place)) == [1, 2, 3]
    assert lakefmt.exists(place)


def test_empty_refuses_what_is_there(place: Any) -> None:
    with pytest.raises(AlreadyExists, match="overwrite=True"):
        lakefmt.empty(place)
    assert values(lakefmt.load(place)) == [1, 2, 3]


@pytest.mark.parametrize("make", [lakefmt.empty, lakefmt.dataset])
def test_overwrite(place: Any, make: Any) -> None:
    old = lakefmt.load(place)._log.claim.dataset
    ds = make(place, overwrite=True)
    assert (len(ds), list(ds.tensors)) == (0, [])
    assert ds._log.claim.dataset != old
    ds.create_tensor("y", dtype="int64")
    ds.append({"y": 5})
    ds.flush()
    assert contents(lakefmt.load(place)) == {"y": [5]}


def test_delete_and_make_again(place: Any) -> None:
    lakefmt.delete(place)
    assert not lakefmt.exists(place)
    with pytest.raises(NoSuchDataset):
        lakefmt.load(place)
    with pytest.raises(NoSuchDataset):
        lakefmt.delete(place)
    assert len(lakefmt.dataset(place)) == 0


def test_delete_spares_other_peoples_files(tmp_path: Path) -> None:
    lakefmt.dataset(tmp_path / "set").create_tensor("x")
    (tmp_path / "set" / "notes.txt").write_text("mine")
    lakefmt.delete(tmp_path / "set")
    assert (tmp_path / "set" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("leftover", ["_probe", "_probe/ab/object", "log", "refs/branches"])
def test_what_a_creator_that_died_left_does_not_block_the_place(tmp_path: Path, leftover: str) -> None:
    path = tmp_path / "set" / leftover
    if path.name == "object":
        path.parent.mkdir(parents=True)
        path.write_bytes(b"first")
    else:
        path.mkdir(parents=True)
    ds = lakefmt.dataset(tmp_path / "set")
    ds.create_tensor("x", dtype="int64")
    assert list(lakefmt.load(tmp_path / "set").tensors) == ["x"]


def test_a_handle_on_a_tensor_that_is_gone(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("l", htype="class_label")
    ds.extend({"x": [1], "l": ["a"]})
    x, label = ds.x, ds.l[0]
    ds.delete_tensor("x")
    ds.delete_tensor("l")
    for use in (
        lambda: x.dtype, lambda: x.htype, lambda: x.info, lambda: x.shape, lambda: repr(x), lambda: x.data(), lambda: x.numpy(),
        lambda: x.append(1), lambda: x.extend([1]), lambda: x.__setitem__(0, 1), lambda: len(x), lambda: x.class_names,
        lambda: label.data(), lambda: label.numpy(), lambda: label.shape, lambda: x.sample_compression, lambda: x.tobytes(),
    ):  # fmt: skip
        with pytest.raises(NoSuchTensor, match=r"'x'|'l'"):
            use()


def test_writing_to_a_view(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [1, 2]})
    view = ds[:1]
    for use in (
        lambda: view.update("true", {"x": 1}), lambda: view.delete("true"), lambda: view.pop(), lambda: view.commit("m"),
        lambda: view.append({"x": 1}), lambda: view.x.append(1), lambda: view.x.__setitem__(0, 1),
    ):  # fmt: skip
        with pytest.raises(ReadOnly, match="view is read-only"):
            use()
    for rows in (ds, view):
        for key in ("x", 0, slice(None)):
            with pytest.raises(InvalidInput, match=r"\[3\] = value"):
                rows[key] = 1
