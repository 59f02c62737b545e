"""Every likely mistake gives an error of its own type that names the place and the remedy, and changes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_tools import stored, unchanged

import lakefmt
from lakefmt.errors import (
    AlreadyExists,
    BadSample,
    Corrupt,
    DtypeError,
    InvalidInput,
    LakeError,
    NoSuchDataset,
    NoSuchTensor,
    NotFound,
    RowIndexError,
    ShapeError,
    UnequalLengths,
    UnknownClass,
    UnsupportedFormat,
)


@pytest.fixture
def ds(tmp_path: Path, jpeg_bytes: bytes) -> Any:
    """Two stored rows of six tensors, on disk."""
    ds = lakefmt.dataset(tmp_path / "set")
    ds.create_tensor("count", dtype="uint8")
    ds.create_tensor("vector", dtype="float32", shape=(3,))
    ds.create_tensor("image", htype="image", sample_compression="jpeg")
    ds.create_tensor("label", htype="class_label", class_names=["cat", "dog"])
    ds.create_tensor("caption", htype="text")
    ds.create_tensor("meta", htype="json")
    row = {"count": 1, "vector": [1, 2, 3], "image": lakefmt.read(jpeg_bytes), "label": "cat", "caption": "a", "meta": {}}
    ds.extend({n: [v, v] for n, v in row.items()})
    ds.commit("two rows")
    return ds


def _row(jpeg: bytes, **changes: Any) -> dict[str, Any]:
    row = {"count": 1, "vector": [1, 2, 3], "image": lakefmt.read(jpeg), "label": "cat", "caption": "a", "meta": {}, **changes}
    return {n: v for n, v in row.items() if v is not ...}


def _says(error: LakeError, *words: str) -> None:
    text = str(error)
    missing = [w for w in words if not re.search(w, text)]
    assert not missing, f"the message lacks {missing}: {text}"
    assert error.code
    assert error.code != "lake"


_CASES: dict[str, tuple[dict[str, Any], type[LakeError], tuple[str, ...]]] = {
    "a fraction for an integer": ({"count": 1.5}, DtypeError, ("'count'", "row 2", "float64", "uint8", "astype")),
    "a number too large": ({"count": 300}, DtypeError, ("'count'", "row 2", "300", "uint8", "255")),
    "a negative number": ({"count": -1}, DtypeError, ("'count'", "row 2", "-1", "uint8")),
    "a word for a number": ({"count": "many"}, DtypeError, ("'count'", "row 2", "'many'", "uint8")),
    "an object for a number": ({"count": object()}, DtypeError, ("'count'", "row 2", "object")),
    "a complex number": ({"count": 1 + 2j}, DtypeError, ("'count'", "row 2")),
    "a wrong shape": ({"vector": [1, 2]}, ShapeError, ("'vector'", "row 2", r"\(2,\)", r"\(3,\)", "None")),
    "too many dimensions": ({"vector": [[1, 2, 3]]}, ShapeError, ("'vector'", "row 2", r"\(1, 3\)")),
    "a sample ragged inside": ({"vector": [[1], [2, 3]]}, ShapeError, ("'vector'", "row 2", "ragged", "rectangular")),
    "a missing tensor": ({"caption": ...}, NoSuchTensor, ("'caption'", "append_empty=True", "skip_ok=True")),
    "an unknown tensor": ({"captoin": "a"}, NoSuchTensor, ("'captoin'", "did you mean 'caption'", "create_tensor")),
    "an unknown class": ({"label": "cot"}, UnknownClass, ("'label'", "row 2", "'cot'", "did you mean 'cat'", "add_class_names")),
    "an unknown class id": ({"label": 5}, UnknownClass, ("'label'", "row 2", "5", "0 to 1", "add_class_names")),
    "a fraction for a class": ({"label": 0.5}, DtypeError, ("'label'", "row 2", "0.5", "name or an integer")),
    "a path for an image": ({"image": "cat.jpg"}, DtypeError, ("'image'", "row 2", "cat.jpg", r"lakefmt\.read\('cat\.jpg'\)")),
    "bytes that are no image": ({"image": b"GIF89a...."}, BadSample, ("'image'", "row 2", "JPEG or PNG|no JPEG", "repair|Leave")),
    "pixels of floats": ({"image": np.zeros((4, 4, 3))}, InvalidInput, ("'image'", "row 2", "uint8", "float64")),
    "pixels of a wrong shape": (
        {"image": np.zeros((4, 4, 7), "u1")}, ShapeError, ("'image'", "row 2", r"\(4, 4, 7\)", r"\(H, W, 3\)"),
    ),
    "an image of no size": ({"image": np.zeros((0, 4, 3), "u1")}, ShapeError, ("'image'", "row 2", r"\(0, 4, 3\)")),
    "a file that is not there": ({"image": lakefmt.read("/no/such/file.jpg")}, NotFound, ("/no/such/file.jpg",)),
    "a number for text": ({"caption": 5}, DtypeError, ("'caption'", "row 2", "str", "int")),
    "bytes for text": ({"caption": b"raw"}, DtypeError, ("'caption'", "row 2", "str", "bytes")),
    "what is no JSON": ({"meta": {1, 2}}, DtypeError, ("'meta'", "row 2", "JSON")),
    "NaN in JSON": ({"meta": float("nan")}, DtypeError, ("'meta'", "row 2", "JSON")),
}  # fmt: skip


@pytest.mark.parametrize("case", list(_CASES))
def test_append(ds: Any, jpeg_bytes: bytes, case: str) -> None:
    changes, kind, words = _CASES[case]
    with unchanged(ds), pytest.raises(LakeError) as caught:
        ds.append(_row(jpeg_bytes, **changes))
    assert isinstance(caught.value, kind)
    _says(caught.value, *words)


@pytest.mark.parametrize("case", list(_CASES))
def test_extend(ds: Any, jpeg_bytes: bytes, case: str) -> None:
    """The same among good rows: the message names the row."""
    changes, kind, words = _CASES[case]
    rows = [_row(jpeg_bytes), _row(jpeg_bytes, **changes), _row(jpeg_bytes)]
    names = [n for n in rows[1] if n in rows[1]]
    columns = {n: [r.get(n) for r in rows] for n in names}
    with unchanged(ds), pytest.raises(LakeError) as caught:
        ds.extend(columns)
    assert isinstance(caught.value, kind)
    _says(caught.value, *(w.replace("row 2", "row 3") for w in words))


@pytest.mark.parametrize("case", [c for c, (changes, _, _) in _CASES.items() if "tensor" not in c])
def test_assign(ds: Any, case: str) -> None:
    changes, kind, words = _CASES[case]
    ((name, value),) = changes.items()
    with unchanged(ds), pytest.raises(LakeError) as caught:
        ds[name][1] = value
    assert isinstance(caught.value, kind)
    _says(caught.value, *(w.replace("row 2", "row 1") for w in words))


def test_a_ragged_list_for_a_fixed_shape(ds: Any) -> None:
    with unchanged(ds), pytest.raises(ShapeError) as caught:
        ds.vector.extend([[1, 2, 3], [1, 2]])
    _says(caught.value, "'vector'", "row 3", r"\(2,\)", r"\(3,\)")


def test_unequal_lengths(ds: Any, jpeg_bytes: bytes) -> None:
    columns = {n: [v, v] for n, v in _row(jpeg_bytes).items()}
    columns["count"] = [1, 2, 3]
    with unchanged(ds), pytest.raises(UnequalLengths) as caught:
        ds.extend(columns)
    _says(caught.value, "'count': 3", "'label': 2", "as many samples")


@pytest.mark.parametrize("rows", [[1, 2], "text", 5, None])
def test_a_row_that_is_no_dict(ds: Any, rows: Any) -> None:
    with unchanged(ds), pytest.raises(InvalidInput, match="dict"):
        ds.append(rows)
    with unchanged(ds), pytest.raises(InvalidInput, match="dict"):
        ds.extend(rows)


def test_one_sample_given_to_extend(ds: Any, jpeg_bytes: bytes) -> None:
    with unchanged(ds), pytest.raises(InvalidInput) as caught:
        ds.extend({n: [v] if n != "caption" else "one text" for n, v in _row(jpeg_bytes).items()})
    _says(caught.value, "'caption'", "str", "append")
    with unchanged(ds), pytest.raises(InvalidInput) as caught:
        ds.caption.extend("one text")
    _says(caught.value, "'caption'", "str", "append")


# -- images ----------------------------------------------------------------------------------------------------------------


def _damaged_images(jpeg: bytes, png: bytes) -> dict[str, bytes]:
    return {
        "empty": b"", "no image": b"not an image at all",
        "jpeg without a body": jpeg[:3], "jpeg with a damaged header": jpeg[:20] + b"\0" * 40,
        "png without a body": png[:8], "png with a damaged header": png[:8] + b"\0" * 40,
    }  # fmt: skip


@pytest.mark.parametrize("codec", ["jpeg", "png"])
@pytest.mark.parametrize(
    "kind",
    ["empty", "no image", "jpeg without a body", "jpeg with a damaged header", "png without a body", "png with a damaged header"],
)
def test_damaged_images(tmp_path: Path, jpeg_bytes: bytes, png_bytes: bytes, codec: str, kind: str) -> None:
    data = _damaged_images(jpeg_bytes, png_bytes)[kind]
    file = tmp_path / "broken.img"
    file.write_bytes(data)
    ds = lakefmt.dataset(tmp_path / "set")
    ds.create_tensor("i", htype="image", sample_compression=codec)
    for given in (data, lakefmt.read(data), lakefmt.read(str(file))):
        with unchanged(ds), pytest.raises(BadSample) as caught:
            ds.append({"i": given})
        _says(caught.value, "'i'", "row 0", "Leave the file out|repair")
    with pytest.raises(BadSample, match=r"broken\.img"):
        lakefmt.read(str(file), verify=True)


@pytest.mark.parametrize(("name", "codec"), [("corrupt_jpeg.jpeg", "jpeg"), ("corrupt_png.png", "png")])
def test_real_corrupt_images(tmp_path: Path, real_data: Path, name: str, codec: str) -> None:
    """Damage in the header is found by append, deeper damage by verify=True and by reading: always BadSample, naming the place."""
    path = str(real_data / "media" / "images" / name)
    with pytest.raises(BadSample, match=re.escape(name)):
        lakefmt.read(path, verify=True)
    ds = lakefmt.dataset(tmp_path / "set")
    ds.create_tensor("i", htype="image", sample_compression=codec)
    try:
        ds.append({"i": lakefmt.read(path)})
    except BadSample as e:
        _says(e, "'i'", "row 0", "repair")
        assert len(ds) == 0
        return
    ds.flush()
    with pytest.raises(BadSample) as caught:
        ds.i[0].numpy()
    _says(caught.value, "'i'", "row 0", r"lakefmt\.read")
    assert ds.i[0].tobytes() == Path(path).read_bytes()


def test_damage_deep_in_an_image_is_found_when_it_is_read(tmp_path: Path, png_bytes: bytes) -> None:
    ds = lakefmt.dataset(tmp_path / "set")
    ds.create_tensor("i", htype="image", sample_compression="png")
    bad = png_bytes[: len(png_bytes) // 2]
    ds.extend({"i": [png_bytes, bad]})
    ds.flush()
    assert ds.i[0].numpy().shape == (24, 32, 3)
    with pytest.raises(BadSample) as caught:
        ds.i.numpy()
    _says(caught.value, "'i'", "row 1", r"ds\['i'\]\[1\] = lakefmt\.read")


# -- rows and tensors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [2, -3, 10**20])
def test_rows_outside(ds: Any, row: int) -> None:
    for use in (lambda: ds[row], lambda: ds.count[row], lambda: ds.count.__setitem__(row, 1), lambda: ds.pop(row)):
        with unchanged(ds), pytest.raises(RowIndexError) as caught:
            use()
        _says(caught.value, str(row), "outside the 2 rows")


@pytest.mark.parametrize("name", ["", "1x", "a b/", "/a", "a//b", "a\n", 5, None, "x/", "é-"])
def test_names_that_no_tensor_can_have(ds: Any, name: Any) -> None:
    with unchanged(ds), pytest.raises(InvalidInput) as caught:
        ds.create_tensor(name)
    _says(caught.value, "name", re.escape(repr(name)))


@pytest.mark.parametrize("name", ["append", "tensors", "query", "info", "read_only", "path"])
def test_names_that_would_hide_an_attribute(ds: Any, name: str) -> None:
    with unchanged(ds), pytest.raises(InvalidInput, match=rf"{name}.*choose another"):
        ds.create_tensor(name)


def test_a_tensor_that_exists(ds: Any) -> None:
    with unchanged(ds), pytest.raises(AlreadyExists, match=r"'count'.*exist_ok=True"):
        ds.create_tensor("count")
    with unchanged(ds):
        ds.create_tensor("count", exist_ok=True)
    with unchanged(ds), pytest.raises(AlreadyExists, match="tensor and a group"):
        ds.create_tensor("count/inner")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"htype": "imgae"}, InvalidInput, ("imgae", "did you mean 'image'")),
        ({"htype": "image"}, InvalidInput, ("sample_compression", "'jpeg'", "'png'", "None")),
        ({"htype": "image", "sample_compression": "webp"}, InvalidInput, ("webp", "'jpeg'")),
        ({"sample_compression": "jpeg"}, InvalidInput, ("generic", "sample_compression")),
        ({"dtype": "complex64"}, DtypeError, ("complex64", "float64")),
        ({"dtype": "nonsense"}, DtypeError, ("nonsense", "NumPy")),
        ({"dtype": object}, DtypeError, ("object",)),
        ({"htype": "text", "dtype": "int64"}, DtypeError, ("text", "int64")),
        ({"htype": "class_label", "dtype": "float32"}, DtypeError, ("labels are integers", "float32")),
        ({"htype": "text", "shape": (3,)}, ShapeError, ("text", "shape")),
        ({"shape": (3, -1)}, ShapeError, ("-1", "negative")),
        ({"htype": "embedding", "shape": (3, 3)}, ShapeError, ("embedding", "dimensions")),
        ({"nonsense": 1}, InvalidInput, ("nonsense",)),
    ],
    ids=str,
)
def test_create_tensor(ds: Any, options: dict[str, Any], kind: type[LakeError], words: tuple[str, ...]) -> None:
    with unchanged(ds), pytest.raises(LakeError) as caught:
        ds.create_tensor("fresh", **options)
    assert isinstance(caught.value, kind)
    _says(caught.value, *words)


# -- places ----------------------------------------------------------------------------------------------------------------


def test_a_path_that_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(NoSuchDataset) as caught:
        lakefmt.load(tmp_path / "nothing")
    _says(caught.value, "nothing", r"lakefmt\.(dataset|empty)")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("use", [lakefmt.load, lakefmt.dataset, lakefmt.empty])
def test_a_path_that_is_a_file(tmp_path: Path, use: Any) -> None:
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(NoSuchDataset) as caught:
        use(tmp_path / "file.txt")
    _says(caught.value, "file.txt")
    assert (tmp_path / "file.txt").read_text() == "mine"


@pytest.mark.parametrize("use", [lakefmt.load, lakefmt.dataset, lakefmt.empty])
def test_a_path_inside_a_file(tmp_path: Path, use: Any) -> None:
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(LakeError) as caught:
        use(tmp_path / "file.txt" / "set")
    _says(caught.value, "file.txt")


@pytest.mark.parametrize("use", [lakefmt.dataset, lakefmt.empty])
def test_a_folder_with_other_files(tmp_path: Path, use: Any) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(NoSuchDataset) as caught:
        use(tmp_path)
    _says(caught.value, re.escape(str(tmp_path)), "other files", "empty or a new folder")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("use", [lakefmt.dataset, lakefmt.empty])
def test_overwrite_of_a_folder_with_other_files(tmp_path: Path, use: Any) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "photo.raw").write_text("mine")
    with pytest.raises(NoSuchDataset):
        use(tmp_path, overwrite=True)
    assert (tmp_path / "data" / "photo.raw").read_text() == "mine", "what is no dataset is not lakefmt's to delete"


def test_an_empty_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_text("")
    assert len(lakefmt.dataset(tmp_path)) == 0


# -- damaged and newer -----------------------------------------------------------------------------------------------------


def _parquet(ds: Any) -> list[Path]:
    return sorted((Path(ds.path) / "data").rglob("*.parquet"))


def test_a_truncated_file(ds: Any) -> None:
    before = stored(ds.path)
    for file in _parquet(ds):
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
        with pytest.raises(Corrupt) as caught:
            stored(ds.path)
        _says(caught.value, re.escape(file.name), "truncated|replaced", "restore")
        file.write_bytes(data)
    assert stored(ds.path) == before


def test_a_missing_file(ds: Any) -> None:
    before = stored(ds.path)
    for file in _parquet(ds):
        data = file.read_bytes()
        file.unlink()
        with pytest.raises(Corrupt) as caught:
            stored(ds.path)
        _says(caught.value, re.escape(file.name), "missing", "restore")
        file.write_bytes(data)
    assert stored(ds.path) == before


def test_an_unknown_format_version(ds: Any) -> None:
    claim = Path(ds.path) / "_lakefmt.json"
    text = claim.read_text()
    claim.write_text(text.replace('"format_version":0', '"format_version":12'))
    for use in (lakefmt.load, lakefmt.dataset):
        with pytest.raises(UnsupportedFormat) as caught:
            use(ds.path)
        _says(caught.value, "version 12", "upgrade", "_lakefmt.json")
    claim.write_text(text)
    assert len(lakefmt.load(ds.path)) == 2


def test_a_damaged_version_object(ds: Any) -> None:
    newest = sorted(Path(ds.path).glob("log/*/*.json"))[-1]
    data = newest.read_bytes()
    newest.write_bytes(data[:-20])
    with pytest.raises(Corrupt) as caught:
        lakefmt.load(ds.path)
    _says(caught.value, re.escape(newest.name), "checksum", "restore")
    newest.write_bytes(data)
    assert len(lakefmt.load(ds.path)) == 2
