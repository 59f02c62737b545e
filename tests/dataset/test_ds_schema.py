"""Tensors are deleted, renamed, widened and given another htype; every reader sees the samples as they should be from then on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_tools import contents, unchanged, values

import lakefmt
from lakefmt.errors import AlreadyExists, Conflict, DtypeError, InvalidInput, LakeError, NoSuchTensor, ReadOnly, UnknownClass


def made(url: str, **tensors: dict[str, Any]) -> Any:
    """A new dataset with some tensors."""
    ds = lakefmt.dataset(url)
    for name, options in tensors.items():
        ds.create_tensor(name, **options)
    return ds


@pytest.fixture
def ds(mem_url: str) -> Any:
    """Two tensors, three committed rows."""
    ds = made(mem_url, x={"dtype": "int64"}, y={"htype": "text"})
    ds.extend({"x": [1, 2, 3], "y": ["a", "b", None]})
    ds.commit("base")
    return ds


def batches(ds: Any, name: str = "x", size: int = 2) -> list[np.ndarray[Any, Any]]:
    """One tensor as the loader gives it."""
    return [b[name] for b in ds.dataloader().batch(size).numpy()]


# -- deleting ----------------------------------------------------------------------------------------------------------


def test_a_deleted_tensor_is_gone_everywhere_but_in_older_versions(ds: Any, mem_url: str) -> None:
    before = ds.version_id
    ds.append({"x": 4, "y": "buffered"})
    ds.delete_tensor("y")
    for one in (ds, lakefmt.load(mem_url)):
        assert list(one.tensors) == ["x"]
        assert values(one) == [1, 2, 3, 4]
        with pytest.raises(NoSuchTensor, match="'y'"):
            _ = one["y"]
        with pytest.raises(AttributeError):
            _ = one.y
        with pytest.raises(LakeError, match="y"):
            one.query("select * where y == 'a'")
        assert [list(b.keys()) for b in one.dataloader().batch(4).numpy()] == [["x"]]
        assert values(one.query("select * where x > 2")) == [3, 4]
    assert values(lakefmt.load(f"{mem_url}@{before}"), "y") == ["a", "b", None]
    ds.append({"x": 5})
    with pytest.raises(NoSuchTensor):
        ds.append({"x": 6, "y": "f"})
    ds.compact()
    assert values(ds) == [1, 2, 3, 4, 5]
    assert values(lakefmt.load(f"{mem_url}@{before}"), "y") == ["a", "b", None]
    with pytest.raises(NoSuchTensor, match="'y'"):
        ds.delete_tensor("y")


@pytest.mark.parametrize("compacted", [False, True])
def test_a_tensor_made_anew_has_none_of_the_old_samples(ds: Any, mem_url: str, compacted: bool) -> None:
    before = ds.version_id
    ds.delete_tensor("y")
    if compacted:
        ds.compact()
    ds.create_tensor("y", dtype="float32")
    assert (len(ds.y), values(ds, "y")) == (0, [])
    ds.append({"x": 4, "y": 0.5})
    for one in (ds, lakefmt.load(mem_url)):
        if one is not ds:
            ds.commit("again")
            one.refresh()
        assert values(one, "y") == [None, None, None, 0.5]
        assert one.y.dtype == np.float32
        assert values(one.query("select * where y > 0"), "x") == [4]
    assert values(lakefmt.load(f"{mem_url}@{before}"), "y") == ["a", "b", None]
    ds.y[0] = 1.5
    ds.compact()
    assert values(ds, "y") == [1.5, None, None, 0.5]
    difference = ds.diff(before).as_dict()
    assert (difference["created"], difference["removed"]) == (["y"], ["y"])


def test_the_last_tensor_may_be_deleted(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"})
    ds.extend({"x": [1, 2]})
    ds.delete_tensor("x")
    assert list(ds.tensors) == []
    ds.create_tensor("z", dtype="int64")
    ds.z.extend([5, 6])
    ds.flush()
    assert values(lakefmt.load(mem_url), "z") == [5, 6]
    assert len(ds) == 2
    ds.verify()


def test_a_tensor_of_another_handle_that_writes_it_was_deleted(ds: Any, mem_url: str) -> None:
    other = lakefmt.load(mem_url)
    other.append({"x": 4, "y": "d"})
    ds.delete_tensor("y")
    with pytest.raises(Conflict):
        other.flush()
    assert values(lakefmt.load(mem_url)) == [1, 2, 3]
    other.discard()
    other.refresh()
    other.append({"x": 4})
    other.flush()
    assert contents(lakefmt.load(mem_url)) == {"x": [1, 2, 3, 4]}


def test_a_read_only_handle_changes_no_tensors(ds: Any, mem_url: str) -> None:
    reader = lakefmt.load(mem_url, read_only=True)
    for call in (
        lambda: reader.delete_tensor("y"), lambda: reader.rename_tensor("y", "z"),
        lambda: reader.alter_tensor("x", dtype="float64"),
    ):  # fmt: skip
        with unchanged(ds), pytest.raises(ReadOnly):
            call()


# -- renaming ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", ["z", "group/z", "deep/er/z", "y2"])
def test_a_renamed_tensor_is_found_by_its_new_name_only(ds: Any, mem_url: str, new: str) -> None:
    before = ds.version_id
    ds.append({"x": 4, "y": "d"})
    ds.x[0] = 10
    ds.rename_tensor("x", new)
    for one in (ds, lakefmt.load(mem_url)):
        assert values(one, new) == [10, 2, 3, 4]
        with pytest.raises(NoSuchTensor):
            _ = one["x"]
        quoted = f'"{new}"'
        assert values(one.query(f"select * where {quoted} > 2"), new) == [10, 3, 4]
        assert np.concatenate(batches(one.query(f"select {quoted}"), new)).tolist() == [10, 2, 3, 4]
    ds.append({new: 5, "y": "e"})
    ds[new][1] = 20
    ds.commit("later")
    ds.compact()
    assert values(lakefmt.load(mem_url), new) == [10, 20, 3, 4, 5]
    assert values(lakefmt.load(f"{mem_url}@{before}"), "x") == [1, 2, 3]
    assert ds.diff(before).renamed == {"x": new}


def test_two_tensors_exchange_names(ds: Any) -> None:
    for old, new in (("x", "t"), ("y", "x"), ("t", "y")):
        ds.rename_tensor(old, new)
    assert contents(ds) == {"y": [1, 2, 3], "x": ["a", "b", None]}
    ds.append({"x": "d", "y": 4})
    ds.commit("exchanged")
    assert contents(ds) == {"y": [1, 2, 3, 4], "x": ["a", "b", None, "d"]}


def test_names_that_a_tensor_cannot_take(ds: Any) -> None:
    ds.create_tensor("g/a")
    for new, error in (
        ("y", AlreadyExists), ("g", AlreadyExists), ("y/a", AlreadyExists), ("query", InvalidInput), ("", InvalidInput),
        (None, InvalidInput), ("info", InvalidInput), ("/x", InvalidInput), ("x", AlreadyExists),
    ):  # fmt: skip
        with unchanged(ds), pytest.raises(error):
            ds.rename_tensor("x", new)
    with unchanged(ds), pytest.raises(NoSuchTensor):
        ds.rename_tensor("nope", "z")


def test_a_tensor_moves_into_a_group_of_its_own_name(ds: Any) -> None:
    ds.rename_tensor("x", "x/values")
    assert values(ds, "x/values") == [1, 2, 3]
    ds.rename_tensor("x/values", "x")
    assert values(ds, "x") == [1, 2, 3]


def test_saved_views_open_as_they_were_saved(ds: Any) -> None:
    ds.query("select * where x > 1").save_view("high")
    ds.query("select x * 2 as double, y where x > 1").save_view("double")
    ds.rename_tensor("x", "g/z")
    ds.delete_tensor("y")
    ds.create_tensor("x", htype="text")
    ds.commit("all changed")
    assert contents(ds.load_view("high")) == {"x": [2, 3], "y": ["b", None]}
    view = ds.load_view("double")
    assert (values(view, "double"), values(view, "y")) == ([4, 6], ["b", None])


def test_another_handle_writes_a_tensor_while_it_is_renamed(ds: Any, mem_url: str) -> None:
    other = lakefmt.load(mem_url)
    other.append({"x": 4, "y": "d"})
    other.x[0] = 10
    ds.rename_tensor("x", "z")
    other.flush()
    assert values(other, "z") == values(lakefmt.load(mem_url), "z") == [10, 2, 3, 4]


def test_two_handles_rename_tensors_to_one_name(ds: Any, mem_url: str) -> None:
    other = lakefmt.load(mem_url)
    ds.rename_tensor("x", "z")
    with pytest.raises((Conflict, AlreadyExists)):
        other.rename_tensor("y", "z")
    assert list(lakefmt.load(mem_url).tensors) == ["z", "y"]


# -- widening ----------------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, list[Any]] = {
    "scalars": [1, 2, 255],
    "scalars with missing": [1, None, 255],
    "flat": [np.array([1, 2], "u1"), np.array([3, 4], "u1"), np.array([254, 255], "u1")],
    "ragged": [np.array([1], "u1"), np.array([], "u1"), np.array([254, 255], "u1")],
    "ragged in dimensions": [np.array(1, "u1"), np.array([[2]], "u1"), None],
    "all missing": [None, None, None],
}


def same(one: list[Any], other: list[Any]) -> bool:
    """Equal samples, whatever dtype."""
    return all(
        (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stored", ["buffered", "flushed", "committed", "updated", "compacted"])
@pytest.mark.parametrize("dtypes", [("int16",), ("float32",), ("uint16", "int64"), ("int32", "float64")])
def test_a_widened_tensor_reads_as_if_it_had_always_been_so(
    mem_url: str, layout: str, stored: str, dtypes: tuple[str, ...]
) -> None:
    ds = made(mem_url, x={"dtype": "uint8"})
    samples = list(LAYOUTS[layout])
    ds.extend({"x": samples})
    if stored in ("committed", "updated", "compacted"):
        ds.commit("narrow")
    elif stored == "flushed":
        ds.flush()
    if stored in ("updated", "compacted"):
        ds.x[0] = samples[0] = np.full_like(samples[0], 7) if isinstance(samples[0], np.ndarray) else 7
    if stored == "compacted":
        ds.compact()
    for dtype in dtypes:
        ds.alter_tensor("x", dtype=dtype)
    dtype = dtypes[-1]
    for one in (ds, lakefmt.load(mem_url)):
        assert one.x.dtype == np.dtype(dtype)
        read = one.x.numpy(aslist=True)
        assert same(read, samples)
        assert {v.dtype for v in read if v is not None} <= {np.dtype(dtype)}
        assert same(one.x[1:].numpy(aslist=True), samples[1:])
        assert same([one.x[2].numpy()] if samples[2] is not None else [None], samples[2:])
        for batch in one.dataloader().batch(2).numpy():
            column = batch["x"]
            parts = [column] if isinstance(column, np.ndarray) and column.dtype != object else [v for v in column if v is not None]
            assert {p.dtype for p in parts} <= {np.dtype(dtype)}
    big = np.array(300, dtype) if "scalars" in layout or layout == "all missing" else np.array([300, 301], dtype)
    ds.append({"x": big})
    samples.append(big)
    ds.x[1] = samples[1] = big
    assert same(ds.x.numpy(aslist=True), samples)
    ds.commit("wide")
    assert same(lakefmt.load(mem_url).x.numpy(aslist=True), samples)
    ds.pop(0)
    ds.compact()
    assert same(lakefmt.load(mem_url).x.numpy(aslist=True), samples[1:])
    ds.verify()


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("updated", [False, True])
def test_conditions_on_a_widened_tensor(mem_url: str, compacted: bool, updated: bool) -> None:
    ds = made(mem_url, x={"dtype": "uint8"}, k={"dtype": "int64"})
    ds.extend({"x": list(range(200)), "k": list(range(200))})
    ds.commit("narrow")
    ds.alter_tensor("x", dtype="float32")
    if updated:
        ds.x[5] = -0.5
    ds.extend({"x": [0.25, 1000.5, None], "k": [200, 201, 202]})
    ds.commit("wide")
    if compacted:
        ds.compact()
    x = {k: float(k) for k in range(200)} | {200: 0.25, 201: 1000.5} | ({5: -0.5} if updated else {})
    for condition, wanted in (
        ("x == 0.25", lambda v: v == 0.25), ("x < 0.75", lambda v: v < 0.75), ("x > 199", lambda v: v > 199),
        ("x > 1000", lambda v: v > 1000), ("x - 10 < 0", lambda v: v < 10),
        ("x >= 198.5 and x < 1000", lambda v: 198.5 <= v < 1000),
        ("x in (3, 0.25)", lambda v: v in (3, 0.25)), ("x < 0", lambda v: v < 0), ("x * 300 > 58000", lambda v: v * 300 > 58000),
        ("not x > 1", lambda v: not v > 1),
    ):  # fmt: skip
        found = ds.query(f"select * where {condition}")
        assert sorted(k for k in values(found, "k") if k != 202) == [k for k, v in x.items() if wanted(v)], condition
    top = ds.query("select * where x >= 0 order by x desc limit 3")
    assert values(top, "k") == [201, 199, 198]
    assert values(ds.query("select x - 300 as z where k == 1"), "z") == [-299]


def test_signs_and_overflow_follow_the_wider_dtype_in_queries(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "uint8"})
    ds.extend({"x": [1, 200]})
    ds.commit("narrow")
    ds.alter_tensor("x", dtype="int32")
    assert values(ds.query("select x - 5 as x")) == [-4, 195]
    assert values(ds.query("select x * 1000 as x")) == [1000, 200000]
    assert values(ds.query("select * where x + 100 > 255")) == [200]


def test_several_labels_and_one_label_are_widened(mem_url: str) -> None:
    ds = made(mem_url, l={"htype": "class_label", "dtype": "uint8"})
    ds.extend({"l": ["a", ["b", "a"], None, []]})
    ds.commit("narrow")
    ds.alter_tensor("l", dtype="uint32")
    ds.append({"l": ["c", "a"]})
    ds.flush()
    assert ds.l.data()["text"] == lakefmt.load(mem_url).l.data()["text"] == ["a", ["b", "a"], None, [], ["c", "a"]]
    assert {v.dtype for v in ds.l.numpy(aslist=True) if v is not None} == {np.dtype("uint32")}
    with pytest.raises(DtypeError):
        ds.alter_tensor("l", dtype="float64")


def test_more_classes_than_the_narrow_dtype_holds(mem_url: str) -> None:
    ds = made(mem_url, l={"htype": "class_label", "dtype": "uint8"})
    ds.extend({"l": [f"c{i}" for i in range(256)]})
    ds.flush()
    with unchanged(ds), pytest.raises(LakeError):
        ds.append({"l": "one too many"})
    with unchanged(ds), pytest.raises(LakeError):
        ds.extend({"l": ["two", "too many"]})
    ds.alter_tensor("l", dtype="uint16")
    ds.append({"l": "one more"})
    ds.commit("more")
    assert lakefmt.load(mem_url).l.data()["text"] == [*(f"c{i}" for i in range(256)), "one more"]


def test_classes_of_two_handles_together_are_more_than_the_dtype_holds(mem_url: str) -> None:
    ds = made(mem_url, l={"htype": "class_label", "dtype": "uint8"})
    other = lakefmt.load(mem_url)
    ds.extend({"l": [f"a{i}" for i in range(200)]})
    other.extend({"l": [f"b{i}" for i in range(200)]})
    ds.flush()
    expected = [f"{k}{i}" for k in "ab" for i in range(200)]
    try:
        other.flush()
    except LakeError:  # refused, or (as good) the dtype is widened
        other.discard()
        expected = expected[:200]
    assert lakefmt.load(mem_url).l.data()["text"] == expected, "no label becomes another"


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [
        ("int64", "int32"), ("int64", "uint64"), ("int64", "float32"), ("uint8", "int8"), ("float64", "float32"),
        ("float32", "int64"), ("int32", "float32"), ("uint8", "bool"), ("int64", "int64x"), ("int64", "str"),
        ("int64", "datetime64[s]"), ("int64", object),
    ],
)  # fmt: skip
def test_a_dtype_that_does_not_hold_every_value_is_refused(mem_url: str, dtype: str, wrong: Any) -> None:
    ds = made(mem_url, x={"dtype": dtype})
    ds.extend({"x": [1, 0]})
    ds.flush()
    with unchanged(ds), pytest.raises(DtypeError, match="'x'"):
        ds.alter_tensor("x", dtype=wrong)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_long_integers_do_not_become_floats_that_cannot_hold_them(mem_url: str, dtype: str) -> None:
    ds = made(mem_url, x={"dtype": dtype})
    ds.extend({"x": np.array([2**53 + 1, 2**62 + 1], dtype)})
    ds.flush()
    with pytest.raises(DtypeError, match="does not hold"):
        ds.alter_tensor("x", dtype="float64")
    assert values(ds) == [2**53 + 1, 2**62 + 1]


def test_tensors_that_have_one_dtype_only(mem_url: str, png_bytes: bytes) -> None:
    ds = made(
        mem_url, i={"htype": "image", "sample_compression": "png"}, r={"htype": "image", "sample_compression": None},
        t={"htype": "text"}, j={"htype": "json"},
    )  # fmt: skip
    for name in ds.tensors:
        with unchanged(ds), pytest.raises(DtypeError, match=f"'{name}'"):
            ds.alter_tensor(name, dtype="int32")


def test_wrong_arguments_of_alter(ds: Any) -> None:
    for arguments in ({}, {"dtype": "float64", "htype": "generic"}):
        with unchanged(ds), pytest.raises(InvalidInput):
            ds.alter_tensor("x", **arguments)
    with unchanged(ds), pytest.raises(NoSuchTensor):
        ds.alter_tensor("nope", dtype="float64")


def test_older_versions_keep_their_dtype(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "uint8"})
    ds.extend({"x": [1, 2]})
    first = ds.commit("narrow")
    ds.alter_tensor("x", dtype="float32")
    ds.append({"x": 0.5})
    ds.commit("wide")
    old = lakefmt.load(f"{mem_url}@{first}")
    assert (old.x.dtype, old.x.numpy().dtype, values(old)) == (np.uint8, np.uint8, [1, 2])
    assert ds.diff(first).edited == ("x",)
    assert ds.diff(first).as_dict()["tensors"]["x"]["updated"] == []


def test_another_handle_goes_on_with_narrow_samples(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "uint8"})
    ds.extend({"x": [1, 2]})
    ds.commit("narrow")
    other = lakefmt.load(mem_url)
    other.append({"x": 3})
    other.x[0] = 9
    ds.alter_tensor("x", dtype="int16")
    ds.append({"x": -5})
    ds.flush()
    other.flush()
    assert values(other) == values(lakefmt.load(mem_url)) == [9, 2, -5, 3]
    assert other.x.numpy().dtype == np.int16
    other.append({"x": 300})
    other.flush()
    assert values(lakefmt.load(mem_url)) == [9, 2, -5, 3, 300]


def test_updates_buffered_before_widening_are_kept(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "uint8"})
    ds.extend({"x": [1, 2]})
    ds.commit("narrow")
    ds.x[0] = 7
    ds.append({"x": 3})
    ds.alter_tensor("x", dtype="int16")
    ds.x[1] = -300
    ds.append({"x": 400})
    assert values(ds) == [7, -300, 3, 400]
    ds.commit("wide")
    assert values(lakefmt.load(mem_url)) == [7, -300, 3, 400]


def test_an_old_reader_is_warned_off_by_a_feature(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "uint8"})
    ds.extend({"x": [1, 2]})
    ds.alter_tensor("x", dtype="int16")
    assert "widened" in ds.history()[0].readers
    ds.checkout("dev", create=True)
    ds.append({"x": 3})
    ds.commit("dev")
    assert "widened" in ds.history()[0].readers
    ds.squash()
    assert "widened" in ds.history()[0].readers


# -- htypes ------------------------------------------------------------------------------------------------------------


def test_integers_become_class_labels(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"})
    ds.extend({"x": [0, 1, None]})
    ds.commit("integers")
    ds.alter_tensor("x", htype="class_label")
    ds.x.add_class_names("cat", "dog")
    ds.append({"x": "dog"})
    ds.append({"x": "bird"})
    ds.commit("labels")
    again = lakefmt.load(mem_url)
    assert again.x.htype == "class_label"
    assert again.x.data()["text"] == ["cat", "dog", None, "dog", "bird"]
    assert values(again.query("select * where x == 'dog'")) == [1, 1]
    ds.alter_tensor("x", htype="generic")
    assert (ds.x.htype, values(ds)) == ("generic", [0, 1, None, 1, 2])
    ds.append({"x": -7})
    assert values(ds)[-1] == -7


def test_vectors_become_embeddings(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "float32"})
    ds.extend({"x": np.eye(3, dtype="f4")})
    ds.commit("vectors")
    ds.alter_tensor("x", htype="embedding")
    assert (ds.x.htype, ds.x.numpy().tolist()) == ("embedding", np.eye(3).tolist())
    ds.append({"x": np.ones(3, "f4")})
    assert len(ds.query("select * order by cosine_similarity(x, array[1, 0, 0]) desc limit 1")) == 1
    with pytest.raises(LakeError):
        ds.append({"x": np.ones((3, 3), "f4")})
    ds.alter_tensor("x", htype="generic")
    ds.append({"x": np.ones((3, 3), "f4")})


def test_htypes_that_the_samples_do_not_fit(mem_url: str) -> None:
    ds = made(
        mem_url, f={"dtype": "float32"}, n={"dtype": "int64"}, m={"dtype": "int64"}, t={"htype": "text"},
        i={"htype": "image", "sample_compression": "png"},
    )  # fmt: skip
    ds.extend({"f": [0.5], "n": [-1], "m": [np.zeros((2, 2), "i8")], "t": ["a"], "i": [np.zeros((2, 2, 3), "u1")]})
    ds.flush()
    for name, htype, error in (
        ("f", "class_label", DtypeError), ("n", "class_label", UnknownClass), ("m", "embedding", InvalidInput),
        ("f", "text", InvalidInput), ("f", "image", InvalidInput), ("f", "json", InvalidInput), ("f", "nope", InvalidInput),
        ("t", "json", InvalidInput), ("t", "generic", InvalidInput), ("i", "generic", InvalidInput),
        ("m", "class_label", InvalidInput), ("f", "embedding", InvalidInput),
    ):  # fmt: skip
        with unchanged(ds), pytest.raises(error, match=f"'{name}'"):
            ds.alter_tensor(name, htype=htype)


def test_an_embedding_with_a_declared_shape_stays_as_it_is(mem_url: str) -> None:
    ds = made(mem_url, e={"htype": "embedding", "shape": (3,)})
    ds.append({"e": np.ones(3, "f4")})
    ds.alter_tensor("e", htype="generic")
    with pytest.raises(LakeError):
        ds.append({"e": np.ones(4, "f4")})
    assert values(ds, "e") == [[1, 1, 1]]
