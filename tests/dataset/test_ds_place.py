"""Where a dataset may be built: not among other people's files, nor in the folders of another dataset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from dataset_tools import values

import lakefmt
from lakefmt.errors import InvalidInput, LakeError, NoSuchDataset
from lakefmt.place import COPIED, check_free
from lakefmt.storage import open_store


def _ints(path: Any) -> Any:
    ds = lakefmt.empty(path)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [1, 2, 3]})
    ds.commit("rows")
    return ds


@pytest.mark.parametrize("use", [lakefmt.dataset, lakefmt.empty])
@pytest.mark.parametrize("inside", ["data", "data/inner", "meta/a/b", "log/x", "refs/x", "_probe"])
def test_no_dataset_in_the_folders_of_another(tmp_path: Path, use: Any, inside: str) -> None:
    ds = _ints(tmp_path / "outer")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidInput, match=r"of the dataset .*outer"):
        use(tmp_path / "outer" / inside)
    assert sorted(tmp_path.rglob("*")) == before
    assert values(ds) == [1, 2, 3]


def test_nor_by_way_of_a_link(tmp_path: Path) -> None:
    _ints(tmp_path / "outer")
    os.symlink(tmp_path / "outer" / "data", tmp_path / "short")
    with pytest.raises(InvalidInput, match=r"of the dataset .*outer"):
        lakefmt.dataset(tmp_path / "short" / "inner")


@pytest.mark.parametrize("place", ["outer/inner", "data/log/refs"])
def test_other_folders_are_free(tmp_path: Path, place: str) -> None:
    """Beside a dataset's own folders, and in folders that are only called like these."""
    _ints(tmp_path / "outer")
    assert values(_ints(tmp_path / place)) == [1, 2, 3]
    lakefmt.load(tmp_path / "outer").expire(older_than=0)
    assert values(lakefmt.load(tmp_path / place)) == [1, 2, 3]


@pytest.mark.parametrize("make", [lakefmt.dataset, lakefmt.empty])
def test_overwriting_beside_other_files_makes_a_new_one(tmp_path: Path, make: Any) -> None:
    """What is refused deletes nothing, and this is not refused: the files were there with the old dataset."""
    _ints(tmp_path / "set")
    (tmp_path / "set" / "README.txt").write_text("mine")
    assert list(make(tmp_path / "set", overwrite=True).tensors) == []
    assert list(lakefmt.load(tmp_path / "set").tensors) == []
    assert (tmp_path / "set" / "README.txt").read_text() == "mine"


def test_what_a_copy_may_find(tmp_path: Path) -> None:
    place = tmp_path / "copy"
    (place / "data").mkdir(parents=True)
    store = open_store(str(place))
    check_free(store, str(place), COPIED)
    with pytest.raises(NoSuchDataset, match="other files"):
        check_free(store, str(place))
    (place / "thesis.tex").write_text("mine")
    with pytest.raises(NoSuchDataset, match=r"other files \('thesis.tex'\)"):
        check_free(store, str(place), COPIED)


@pytest.mark.parametrize("url", ["mem://somewhere/data/x", "memory://y"])
def test_places_that_are_no_folders_are_free(url: str) -> None:
    check_free(open_store(url), url)


@pytest.mark.skipif(os.getuid() == 0, reason="the superuser may look everywhere")
def test_a_folder_that_may_not_be_looked_into(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    with pytest.raises(LakeError, match="closed"):
        lakefmt.dataset(tmp_path / "closed")


@pytest.mark.parametrize("how", ["copy", "deepcopy"])
def test_copies_are_not_made_among_other_files(tmp_path: Path, how: str) -> None:
    ds = lakefmt.empty(tmp_path / "ds")
    ds.create_tensor("x", dtype="int64")
    ds.append({"x": 1})
    ds.commit()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "letter.txt").write_text("dear")
    with pytest.raises(NoSuchDataset, match=r"letter\.txt"):
        getattr(ds, how)(tmp_path / "theirs")
    with pytest.raises(InvalidInput, match="lies in 'data'"):
        getattr(ds, how)(tmp_path / "ds" / "data" / "inner")
    assert sorted(p.name for p in (tmp_path / "theirs").iterdir()) == ["letter.txt"]
    getattr(ds, how)(tmp_path / "theirs" / "inner")
    assert lakefmt.load(tmp_path / "theirs" / "inner").x.numpy().tolist() == [1]
