"""Appending and extending: everything a user may give for samples, and what is read back, before and after it is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dataset_tools import contents, values

import lakefmt


@pytest.fixture
def ds(mem_url: str) -> Any:
    """A dataset with tensors of several kinds."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("v", dtype="float32", shape=(3,))
    ds.create_tensor("t", htype="text")
    ds.create_tensor("label", htype="class_label", class_names=["cat", "dog"])
    return ds


_EXPECTED = {"x": [1, 2], "v": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "t": ["a", "b"], "label": [1, 0]}
_V = [[1, 2, 3], [4, 5, 6]]


def _fixed(values: list[list[int]]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(values), pa.float32()), 3)


_WAYS: dict[str, Callable[[Any], None]] = {
    "rows": lambda ds: [ds.append({"x": i + 1, "v": _V[i], "t": "ab"[i], "label": [1, "cat"][i]}) for i in range(2)],
    "numpy rows": lambda ds: [
        ds.append({"x": np.int64(1), "v": np.array(_V[0], "f4"), "t": np.str_("a"), "label": np.uint8(1)}),
        ds.append({"x": np.array(2), "v": np.array(_V[1], "f4"), "t": np.array("b"), "label": np.array("cat")}),
    ],
    "lists": lambda ds: ds.extend({"x": [1, 2], "v": _V, "t": ["a", "b"], "label": ["dog", "cat"]}),
    "arrays": lambda ds: ds.extend(
        {"x": np.array([1, 2]), "v": np.array(_V, "f4"), "t": np.array(["a", "b"]), "label": np.array([1, 0], "u1")}
    ),
    "tuples": lambda ds: ds.extend({"x": (1, 2), "v": tuple(_V), "t": ("a", "b"), "label": ("dog", "cat")}),
    "arrow": lambda ds: ds.extend(pa.table({"x": [1, 2], "v": _fixed(_V), "t": ["a", "b"], "label": ["dog", "cat"]})),
    "arrow batch": lambda ds: ds.extend(
        pa.record_batch({"x": [1, 2], "v": pa.array(_V, pa.list_(pa.int32())), "t": ["a", "b"], "label": pa.array([1, 0], "u1")})
    ),
    "arrow chunks": lambda ds: ds.extend(
        pa.concat_tables(pa.table({"x": [i + 1], "v": _fixed([_V[i]]), "t": ["ab"[i]], "label": [1 - i]}) for i in range(2))
    ),
    "data frame": lambda ds: ds.extend(pd.DataFrame({"x": [1, 2], "v": _V, "t": ["a", "b"], "label": ["dog", "cat"]})),
    "data frame with an index": lambda ds: ds.extend(
        pd.DataFrame({"x": [1, 2], "v": _V, "t": ["a", "b"], "label": [1, 0]}, index=[7, 3])
    ),
    "series": lambda ds: ds.extend(
        {"x": pd.Series([1, 2]), "v": _V, "t": pd.Series(["a", "b"]), "label": pd.Categorical(["dog", "cat"])}
    ),
    "several": lambda ds: [ds.extend({"x": [i + 1], "v": [_V[i]], "t": ["ab"[i]], "label": [1 - i]}) for i in range(2)],
    "tensor by tensor": lambda ds: [
        ds.x.extend([1, 2]), ds.v.append(_V[0]), ds.v.append(_V[1]), ds.t.extend(["a", "b"]), ds.label.extend(["dog", "cat"]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("way", list(_WAYS))
def test_ways(ds: Any, mem_url: str, way: str) -> None:
    _WAYS[way](ds)
    assert contents(ds) == _EXPECTED, "buffered rows are readable"
    assert len(ds) == 2
    ds.flush()
    assert contents(ds) == contents(lakefmt.load(mem_url)) == _EXPECTED


def test_torch_tensors(mem_url: str) -> None:
    torch = pytest.importorskip("torch")
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x")
    ds.append({"x": torch.tensor([1.5, 2.5])})
    ds.extend({"x": torch.arange(4, dtype=torch.float32).reshape(2, 2)})
    assert values(ds) == [[1.5, 2.5], [0.0, 1.0], [2.0, 3.0]]
    assert ds.x.dtype == "float32"


def test_generators_of_samples_go_to_one_tensor(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.x.extend(i * i for i in range(4))
    assert values(ds) == [0, 1, 4, 9]


def test_what_the_caller_does_with_an_array_afterwards_changes_nothing(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    block, row = np.arange(3), np.array(7)
    ds.extend({"x": block})
    ds.append({"x": row})
    block[:], row[()] = -1, -1
    assert values(ds) == [0, 1, 2, 7]
    got = ds.x.numpy()
    got[:] = -2
    assert values(ds) == [0, 1, 2, 7]
    ds.flush()
    assert values(lakefmt.load(mem_url)) == [0, 1, 2, 7]


@pytest.mark.parametrize("stored", [False, True])
def test_missing_samples(ds: Any, stored: bool) -> None:
    ds.append({"x": None, "v": None, "t": None, "label": None})
    ds.append({"x": 1, "v": _V[0], "t": "a", "label": "dog"})
    ds.extend({"x": [None, 2], "v": [_V[1], None], "t": [None, "b"], "label": ["cat", None]})
    if stored:
        ds.flush()
    assert contents(ds) == {
        "x": [None, 1, None, 2], "v": [None, [1, 2, 3], [4, 5, 6], None], "t": [None, "a", None, "b"], "label": [None, 1, 0, None],
    }  # fmt: skip
    assert ds.x[0].numpy() is None
    assert ds.t[0].text() is None
    assert ds.x[0].shape is None
    assert ds.label[0].data() == {"value": None, "text": None}
    assert ds.t.text() == [None, "a", None, "b"]


@pytest.mark.parametrize("stored", [False, True])
def test_missing_images(mem_url: str, jpeg_bytes: bytes, stored: bool) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("i", htype="image", sample_compression="jpeg")
    ds.extend({"i": [None, lakefmt.read(jpeg_bytes)]})
    if stored:
        ds.flush()
    assert ds.i.tobytes() == [None, jpeg_bytes]
    assert [None if a is None else a.shape for a in ds.i.numpy(aslist=True)] == [None, (24, 32, 3)]


def test_pandas_missing_values(ds: Any) -> None:
    frame = pd.DataFrame({"x": pd.array([1, None], "Int64"), "v": [None, _V[0]], "t": ["a", None], "label": ["dog", None]})
    ds.extend(frame)
    ds.flush()
    assert contents(ds) == {"x": [1, None], "v": [None, [1, 2, 3]], "t": ["a", None], "label": [1, None]}


def test_arrow_nulls(ds: Any) -> None:
    vectors = pa.array([None, _V[0]], pa.list_(pa.float32(), 3))
    ds.extend(pa.table({"x": pa.array([1, None]), "v": vectors, "t": ["a", None], "label": ["dog", None]}))
    ds.flush()
    assert contents(ds) == {"x": [1, None], "v": [None, [1, 2, 3]], "t": ["a", None], "label": [1, None]}


def test_nothing_but_missing_samples_then_the_first_real_one(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x")
    ds.extend({"x": [None, None]})
    ds.flush()
    assert values(ds) == [None, None]
    ds.append({"x": np.array([1, 2], "i2")})
    ds.append({"x": None})
    ds.flush()
    assert values(lakefmt.load(mem_url)) == [None, None, [1, 2], None]
    assert lakefmt.load(mem_url).x.dtype == "int16"


def test_missing_first_and_typed_later_in_one_buffer(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x")
    ds.append({"x": None})
    ds.append({"x": np.array([1, 2], "i2")})
    assert values(ds) == [None, [1, 2]]
    ds.flush()
    assert values(lakefmt.load(mem_url)) == [None, [1, 2]]
    assert ds.x.dtype == "int16"


def test_empty_input_does_nothing(ds: Any) -> None:
    version = ds.version_id
    ds.extend({"x": [], "v": [], "t": [], "label": []})
    ds.extend({"x": np.empty(0, "i8"), "v": np.empty((0, 3), "f4"), "t": [], "label": []})
    ds.x.extend([])
    ds.flush()
    assert (len(ds), ds.version_id) == (0, version)


@pytest.mark.parametrize("stored", [False, True])
def test_uneven_tensors(mem_url: str, stored: bool) -> None:
    ds = lakefmt.dataset(mem_url)
    for name in "abc":
        ds.create_tensor(name, dtype="int64")
    ds.a.extend([1, 2, 3])
    ds.b.append(10)
    if stored:
        ds.flush()
    assert (len(ds.a), len(ds.b), len(ds.c)) == (3, 1, 0)
    assert (len(ds), ds.max_len, ds.min_len) == (3, 3, 0)
    assert ds[0].b.numpy() == 10
    assert ds[2].b.numpy() is None
    assert values(ds[0:3], "b") == [10, None, None]
    ds.b.extend([20, 30, 40])
    if stored:
        ds.flush()
    assert values(ds[:], "a") == [1, 2, 3, None]
    assert values(ds[:], "b") == [10, 20, 30, 40]
    assert (len(ds), len(ds.a)) == (4, 3)
    ds.flush()
    again = lakefmt.load(mem_url)
    assert values(again[:], "b") == [10, 20, 30, 40]
    assert (len(again.a), len(again.b), len(again.c)) == (3, 4, 0)
    again.append({"a": 5, "b": 50, "c": 500})
    again.flush()
    assert values(again[:], "a") == [1, 2, 3, None, 5]
    assert values(again[:], "c") == [None, None, None, None, 500]


def test_rows_with_some_tensors_only(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("a", dtype="int64")
    ds.create_tensor("b", dtype="int64")
    ds.append({"a": 1}, skip_ok=True)
    assert (len(ds.a), len(ds.b)) == (1, 0)
    ds.append({"a": 2}, append_empty=True)
    assert (len(ds.a), len(ds.b)) == (2, 2)
    ds.extend({"b": [30, 40]}, append_empty=True)
    ds.flush()
    assert values(ds[:], "a") == [1, 2, None, None]
    assert values(ds[:], "b") == [None, None, 30, 40]


def test_a_tensor_made_later_lacks_the_rows_there_are(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("a", dtype="int64")
    ds.extend({"a": [1, 2]})
    ds.create_tensor("b", dtype="int64")
    assert values(ds[:], "b") == [None, None]
    ds.append({"a": 3, "b": 30})
    assert values(ds[:], "b") == [None, None, 30]
    ds.flush()
    assert values(ds[:], "b") == values(lakefmt.load(mem_url)[:], "b") == [None, None, 30]


def test_filling_a_tensor_made_later(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("a", dtype="int64")
    for i in range(3):  # three fragments
        ds.extend({"a": [10 * i, 10 * i + 1]})
        ds.flush()
    ds.pop(2)
    ds.create_tensor("b", dtype="int64")
    ds.b.extend([1, 2, 3, 4, 5])
    assert values(ds[:], "b") == [1, 2, 3, 4, 5]
    ds.flush()
    again = lakefmt.load(mem_url)
    assert values(again, "a") == [0, 1, 11, 20, 21]
    assert values(again, "b") == [1, 2, 3, 4, 5]


def test_groups(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("boxes/left", dtype="int64")
    ds.create_tensor("boxes/deep/right", dtype="int64")
    ds.create_tensor("top", dtype="int64")
    ds.append({"boxes/left": 1, "boxes/deep/right": 2, "top": 3})
    ds.flush()
    assert ds.groups == ["boxes"]
    assert ds.boxes.left[0].numpy() == ds["boxes/left"][0].numpy() == ds["boxes"]["left"][0].numpy() == 1
    assert ds.boxes.deep.right[0].numpy() == ds.boxes["deep/right"][0].numpy() == 2
    assert list(ds.boxes.tensors) == ["left", "deep/right"]
    assert ds[0].boxes.left.numpy() == 1


def test_json(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("j", htype="json")
    documents = [{"a": [1, 2.5, None, True], "ü": {"b": "c"}}, [], "text", 5, {"n": np.int64(3)}]
    ds.extend({"j": documents})
    ds.append({"j": None})
    for _ in range(2):
        assert ds.j.dict() == [*documents, None]
        assert ds.j[0].dict() == documents[0]
        assert ds.j[0].data() == {"value": documents[0]}
        ds.flush()


def test_images_given_in_every_way(mem_url: str, jpeg_bytes: bytes, png_bytes: bytes, pixels: Any, tmp_path: Any) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("jpeg", htype="image", sample_compression="jpeg")
    ds.create_tensor("png", htype="image", sample_compression="png")
    ds.create_tensor("raw", htype="image", sample_compression=None)
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes)
    image = pytest.importorskip("PIL.Image").fromarray(pixels)
    given = [lakefmt.read(str(tmp_path / "a.jpg")), lakefmt.read(jpeg_bytes), jpeg_bytes, lakefmt.read(png_bytes), pixels, image]
    ds.extend({"jpeg": given, "png": [lakefmt.read(png_bytes), png_bytes, pixels, image, lakefmt.read(png_bytes), pixels],
               "raw": [pixels] * 6})  # fmt: skip
    ds.flush()
    assert ds.jpeg.tobytes()[:3] == [jpeg_bytes] * 3, "kept verbatim"
    assert ds.png.tobytes()[:2] == [png_bytes] * 2
    assert ds.jpeg.shape == ds.png.shape == ds.raw.shape == (6, 24, 32, 3)
    for i in range(6):
        assert np.array_equal(ds.png[i].numpy(), pixels), "PNG loses nothing"
        assert np.array_equal(ds.raw[i].numpy(), pixels)
        assert np.abs(ds.jpeg[i].numpy().astype(int) - pixels).mean() < 12


def test_real_images(mem_url: str, real_data: Any) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("i", htype="image", sample_compression="jpeg")
    files = sorted((real_data / "imagenet").glob("*.JPEG"))[:12]
    ds.extend({"i": [lakefmt.read(str(f)) for f in files]})
    ds.commit("real")
    image = pytest.importorskip("PIL.Image")
    for i, file in enumerate(files):
        assert ds.i[i].tobytes() == file.read_bytes()
        with image.open(file) as opened:
            assert ds.i[i].shape[:2] == opened.size[::-1]
        assert ds.i[i].numpy().shape == ds.i[i].shape
