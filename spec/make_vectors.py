"""Writes the test vectors of the current format version: ``python spec/make_vectors.py spec/vectors/v0``.

Run once a format version, and never again for it: the files are what every later reader must still understand. Beside the dataset
lies ``expected.json``: for every named version and every tensor, each sample as (dtype, shape, bytes in hex), as text, or null.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import lakefmt
from lakefmt import Dataset
from lakefmt.codecs import encode

ROWS = 12


def samples(rng: np.random.Generator) -> dict[str, list[Any]]:
    """Samples that reach every layout."""
    picture = [rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8) for i in range(ROWS)]
    return {
        "scalar_i32": list(range(-3, ROWS - 3)),
        "scalar_missing": [None if i % 4 == 0 else i / 8 for i in range(ROWS)],
        "flag": [i % 3 == 0 for i in range(ROWS)],
        "small_f32": list(rng.random((ROWS, 4), dtype=np.float32)),
        "boxes": [None if i == 5 else rng.random((i % 4, 4), dtype=np.float32) for i in range(ROWS)],
        "pixels_u8": list(rng.integers(0, 255, (ROWS, 3, 16, 16), dtype=np.uint8)),
        "half": list(rng.random((ROWS, 100)).astype(np.float16)),
        "vector": list(rng.random((ROWS, 48), dtype=np.float32)),
        "ragged_f64": [None if i == 2 else rng.random((i + 1, 200)) for i in range(ROWS)],
        "label": ["cat", "dog", "owl"] * 4,
        "text": [None if i == 7 else f"text {i} \N{SNOWMAN}" for i in range(ROWS)],
        "document": ["lorem ipsum " * (120 + i) for i in range(ROWS)],
        "meta": [{"i": i, "tags": ["a", "b"][: i % 3]} for i in range(ROWS)],
        "group/jpeg": [lakefmt.read(encode("jpeg", p)) for p in picture],
        "group/png": [None if i == 9 else lakefmt.read(encode("png", p)) for i, p in enumerate(picture)],
    }


def create(ds: Dataset) -> None:
    """The tensors."""
    for name, options in {
        "scalar_i32": {"dtype": "int32"}, "scalar_missing": {"dtype": "float32"}, "flag": {"dtype": "bool"},
        "small_f32": {"dtype": "float32", "shape": (4,)}, "boxes": {"dtype": "float32", "shape": (None, 4)},
        "pixels_u8": {"dtype": "uint8"}, "half": {"dtype": "float16"}, "vector": {"htype": "embedding"},
        "ragged_f64": {"dtype": "float64"}, "label": {"htype": "class_label"}, "text": {"htype": "text"},
        "document": {"htype": "text"}, "meta": {"htype": "json"},
        "group/jpeg": {"htype": "image", "sample_compression": "jpeg"},
        "group/png": {"htype": "image", "sample_compression": "png"},
    }.items():  # fmt: skip
        ds.create_tensor(name, **options)  # type: ignore[arg-type]


def expected_of(ds: Any) -> dict[str, list[Any]]:
    """Every sample of every tensor."""
    return {name: [_sample(ds[i][name]) for i in range(len(ds))] for name in ds.tensors}


def _sample(sample: Any) -> Any:
    if sample.htype in ("text", "json"):
        text = sample.text()
        return None if text is None else str(text)
    data = sample.tobytes()
    if data is None:
        return None
    if sample.htype == "image":
        return data.hex()
    value = sample.numpy()
    return [value.dtype.name, list(value.shape), data.hex()]


def main(folder: Path) -> None:
    """Write the dataset and what is expected of it."""
    if folder.exists():
        raise SystemExit(f"{folder} is there already: vectors are written once")
    ds = lakefmt.dataset(folder / "dataset")
    create(ds)
    ds.extend(samples(np.random.default_rng(0)))
    versions = {ds.commit("rows"): expected_of(ds)}
    ds.checkout("changed", create=True)
    ds.label[3] = "owl"
    ds["group/png"][1] = np.zeros((9, 8), np.uint8)
    ds.pixels_u8[0] = np.full((3, 16, 16), 7, np.uint8)
    ds.pop([2, 10])
    ds.text.append("a row with nothing but text")
    versions[ds.commit("updates, deletions, a short row")] = expected_of(ds)
    ds.query("select text, scalar_i32 * 2 as twice where scalar_i32 > 4").save_view(id="big")
    (folder / "expected.json").write_text(json.dumps(versions))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
