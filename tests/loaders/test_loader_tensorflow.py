"""The TensorFlow front end is a tf.data.Dataset with known types and length."""

from __future__ import annotations

import gc
import os
import threading
import time
import uuid
from typing import Any

import numpy as np
import pytest
from loader_fake import FakeSource, numbers

import lakefmt
from lakefmt.codecs import encode
from lakefmt.errors import InvalidInput
from lakefmt.htypes import define_tensor
from lakefmt.loaders import dataloader, tensorflow_rows

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow")

PIXELS = [np.full((4 + i % 3, 5 + i % 2, 3), i, np.uint8) for i in range(13)]


def mixed() -> FakeSource:
    return FakeSource(
        {
            "x": np.arange(78, dtype=np.float32).reshape(13, 2, 3),
            "text": [f"t{i}" for i in range(13)],
            "image": [encode("png", p) for p in PIXELS],
            "boxes": [np.full((i % 3, 4), i, np.int32) for i in range(13)],
            "spans": [None if i == 2 else np.arange(i) for i in range(13)],
        },
        definitions={"boxes": define_tensor(3, "boxes", dtype="int32", shape=(None, 4))},
    )


def test_batches() -> None:
    dataset = dataloader(mixed()).batch(4).tensorflow()
    assert isinstance(dataset, tf.data.Dataset)
    assert int(dataset.cardinality()) == 4
    assert dataset.element_spec["x"] == tf.TensorSpec((None, 2, 3), tf.float32)
    assert dataset.element_spec["text"] == tf.TensorSpec((None,), tf.string)
    assert dataset.element_spec["image"].shape.as_list() == [None, None, None, 3]
    assert dataset.element_spec["boxes"].shape.as_list() == [None, None, 4]
    row = 0
    for batch in dataset:
        for i in range(len(batch["text"])):
            assert batch["text"][i].numpy() == f"t{row}".encode()
            assert batch["x"][i, 0, 0] == 6 * row
            assert np.array_equal(batch["image"][i].to_tensor().numpy(), PIXELS[row])
            assert batch["boxes"][i].shape == (row % 3, 4)
            assert batch["spans"][i].numpy().tolist() == ([] if row == 2 else list(range(row)))
            row += 1
    assert row == 13


def test_rows_for_a_batch_of_the_users_own() -> None:
    dataset = tensorflow_rows(mixed())
    assert int(dataset.cardinality()) == 13
    assert dataset.element_spec["image"] == tf.TensorSpec((None, None, 3), tf.uint8)
    for row, element in enumerate(dataset):
        assert np.array_equal(element["image"].numpy(), PIXELS[row])
        assert element["boxes"].shape == (row % 3, 4)
    sizes = [len(b["label"]) for b in tensorflow_rows(numbers(10)).batch(4)]
    assert sizes == [4, 4, 2]
    assert [k for b in tensorflow_rows(numbers(600), tensors=["label"]) for k in b] == ["label"] * 600


def test_shuffling_changes_with_the_epoch() -> None:
    dataset = dataloader(numbers(40)).shuffle(seed=1).batch(8).tensorflow()
    epochs = [[int(v) for b in dataset for v in b["label"]] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(40))
    assert epochs[0] != epochs[1]
    expected = [int(v) for b in dataloader(numbers(40)).shuffle(seed=1).batch(8).numpy() for v in b["label"]]
    assert epochs[0] == expected


def test_transforms_decide_types() -> None:
    chain = dataloader(mixed()).transform({"image": lambda v: v[:4, :5] / 255, "text": lambda t: len(t)}).batch(4)
    batch = next(iter(chain.tensorflow()))
    assert batch["image"].dtype == tf.float64
    assert batch["image"].shape == (4, 4, 5, 3)
    assert batch["text"].numpy().tolist() == [2, 2, 2, 2]
    row = next(iter(dataloader(mixed()).transform(lambda r: {"sum": r["x"].sum(), "t": r["text"]}).tensorflow()))
    assert row["sum"].shape == ()
    assert row["t"].numpy() == b"t0"


def test_other_forms() -> None:
    chain = dataloader(mixed()).batch(4)
    batch = next(iter(chain.tensorflow(tensors=["spans", "boxes"], ragged="pad", return_index=True)))
    assert batch["spans"].shape == batch["spans_mask"].shape == (4, 3)
    assert batch["boxes"].shape == (4, 2, 4)
    assert batch["index"].numpy().tolist() == [0, 1, 2, 3]
    batch = next(iter(chain.tensorflow(tensors=["boxes"], ragged="flat")))
    assert batch["boxes_offsets"].numpy().tolist() == [0, 0, 1, 3, 3]
    batch = next(iter(chain.tensorflow(tensors=["image"], decode_method={"image": "tobytes"})))
    assert np.array_equal(tf.io.decode_png(batch["image"][1]).numpy(), PIXELS[1])
    json = FakeSource({"m": ['{"a": 1}', "[]"]}, definitions={"m": define_tensor(0, "m", htype="json")})
    assert next(iter(dataloader(json).batch(2).tensorflow()))["m"].numpy().tolist() == [b'{"a": 1}', b"[]"]


def test_what_tensorflow_cannot_hold() -> None:
    numbers_gap = FakeSource(
        {"v": [np.array(1.0), np.array(2.0), None]},
        definitions={"v": define_tensor(0, "v", dtype="float64", shape=())},
    )
    with pytest.raises(tf.errors.OpError, match="'v' has a missing sample"):
        list(dataloader(numbers_gap).batch(3).tensorflow())
    with pytest.raises(tf.errors.OpError, match="'t' has a missing sample"):
        list(dataloader(FakeSource({"t": ["a", "b", None]})).batch(3).tensorflow())
    with pytest.raises(InvalidInput, match="no TensorFlow type"):
        dataloader(mixed()).batch(3).tensorflow(tensors=["image"], decode_method={"image": "pil"})
    with pytest.raises(InvalidInput, match="torch"):
        dataloader(mixed()).batch(3).tensorflow(ragged="nested")


def images(shapes: list[tuple[int, ...]]) -> Any:
    """A dataset of images of these shapes, each full of its row."""
    made = lakefmt.empty(f"mem://{uuid.uuid4().hex}")
    made.create_tensor("image", htype="image", sample_compression="png")
    made.create_tensor("gray", dtype="bool")
    made.extend({"image": [np.full(s, i, np.uint8) for i, s in enumerate(shapes)], "gray": [len(s) == 2 for s in shapes]})
    made.commit()
    return made


def test_gray_images_among_others_are_refused_at_once() -> None:
    ds = images([(4, 5, 3)] * 5 + [(6, 5)] + [(4, 5, 3)] * 4)
    for make in (
        lambda: ds.dataloader().batch(4).tensorflow(),
        lambda: ds.tensorflow(),
        lambda: ds.dataloader().shuffle().tensorflow(),
    ):
        with pytest.raises(InvalidInput, match=r"'image': row 0 has shape \(4, 5, 3\) and row 5 has shape \(6, 5\).*np\.stack"):
            make()
    # the rows that are loaded decide
    assert len(list(ds[:5].dataloader().batch(4).tensorflow())) == 2
    assert ds[5:6].dataloader().batch(4).tensorflow().element_spec["image"].shape.as_list() == [None, None, None]
    assert len(list(ds.query("select * where gray == False").dataloader().batch(4).tensorflow())) == 3
    same = ds.dataloader().transform({"image": lambda v: (v if v.ndim == 3 else np.stack([v] * 3, -1))[:4]}).batch(10)
    assert next(iter(same.tensorflow()))["image"].shape == (10, 4, 5, 3)
    ds.pop(5)
    ds.commit()
    assert sum(len(b["gray"]) for b in ds.dataloader().batch(4).tensorflow()) == 9


def test_channels_that_vary_are_not_relied_on() -> None:
    shapes = [(4, 5, 3)] * 5 + [(6, 5, 4)] + [(4, 7, 3)]
    dataset = images(shapes).dataloader().batch(4).tensorflow(tensors=["image"])
    assert dataset.element_spec["image"].shape.as_list() == [None, None, None, None]
    got = [sample for batch in dataset for sample in batch["image"]]
    for i, (sample, shape) in enumerate(zip(got, shapes, strict=True)):
        assert np.array_equal(sample.to_tensor().numpy() if hasattr(sample, "to_tensor") else sample.numpy(), np.full(shape, i))
    rows = list(images(shapes).tensorflow(tensors=["image"]))
    assert [tuple(r["image"].shape) for r in rows] == shapes


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_shapes_are_looked_at_in_blocks(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    from lakefmt.loaders import tensorflow as front

    monkeypatch.setattr(front, "SHAPES_AT_ONCE", at_once)
    shapes = [None, (4, 5, 3), (4, 7, 3), None, (4, 5, 3), (2, 5, 3), None]

    class Shapes:
        def __init__(self, *more: tuple[int, ...] | None) -> None:
            self.known = [*shapes, *more]

        def __len__(self) -> int:
            return len(self.known)

        def shapes(self, name: str, rows: Any) -> list[tuple[int, ...] | None]:
            assert len(rows) <= at_once
            return [self.known[r] for r in rows]

    assert front._bounds_of_rows(Shapes(), "x") == ((2, 5, 3), (4, 7, 3))
    with pytest.raises(InvalidInput, match=r"row 1 has shape \(4, 5, 3\) and row 8 has shape \(6, 5\), and.*np\.stack"):
        front._bounds_of_rows(Shapes(None, (6, 5), (6, 6), (4, 5, 3)), "x")
    shapes = [None, None]
    assert front._bounds_of_rows(Shapes(), "x") is None
    assert front._bounds_of_rows(Shapes(()), "x") == ((), ())


def test_other_tensors_of_differing_ranks() -> None:
    ds = lakefmt.empty(f"mem://{uuid.uuid4().hex}")
    ds.create_tensor("v", dtype="int64")
    ds.extend({"v": [np.zeros(3, int)] * 4 + [np.zeros((2, 2), int)]})
    ds.commit()
    with pytest.raises(InvalidInput, match=r"row 0 has shape \(3,\) and row 4 has shape \(2, 2\)"):
        ds.dataloader().batch(2).tensorflow()


@pytest.mark.parametrize(
    ("early", "late", "said"),
    [
        (lambda v: int(v), lambda v: v + 0.5, "float64.*told int64"),
        (lambda v: np.int8(1), lambda v: np.int64(300), "int64.*told int8"),
        (lambda v: np.float32(v), lambda v: 0.1, "float64.*told float32"),
        (lambda v: 1, lambda v: float("nan"), "float64.*told int64"),
        (lambda v: 1.5, lambda v: 2**53 + 1, "int64.*told float64"),
        (lambda v: 1.5, lambda v: 1j, "complex128.*told float64"),
        (lambda v: 1, lambda v: 2**70, r"objects \(int\)"),
        (lambda v: np.uint8(v), lambda v: np.int8(-1), "int8.*told uint8"),
        (lambda v: np.int64(v), lambda v: np.uint64(2**64 - 1), "uint64.*told int64"),
        (lambda v: np.zeros(3, np.uint16), lambda v: np.array([1, -1, 1], np.int16), "int16.*told uint16"),
        (lambda v: np.uint64(v), lambda v: 2.0**64, "float64.*told uint64"),
        (lambda v: np.int64(v), lambda v: np.float32(2.0**63), "float32.*told int64"),
        (lambda v: np.float32(v), lambda v: np.uint64(2**64 - 1), "uint64.*told float32"),
        (lambda v: np.int64(v), lambda v: float("inf"), "float64.*told int64"),
        (lambda v: np.zeros(3), lambda v: np.zeros(4), r"shape \(4,\).*told shape \(3,\)"),
        (lambda v: np.zeros(3), lambda v: np.zeros((3, 1)), r"shape \(3, 1\).*told shape \(3,\)"),
        (lambda v: "a", lambda v: [1], "list, TensorFlow was told text"),
        (lambda v: "a", lambda v: None, "missing sample"),
    ],
)
def test_what_later_rows_become_is_never_bent_to_what_the_first_were(early: Any, late: Any, said: str) -> None:
    chain = dataloader(numbers(10)).transform({"label": lambda v: early(v) if v < 5 else late(v)}).batch(5)
    with pytest.raises(tf.errors.OpError, match=f"row 5.*'label'.*{said}"):
        list(chain.tensorflow())


def test_what_fits_exactly_is_taken() -> None:
    chain = dataloader(numbers(10)).transform({"label": lambda v: np.float64(v) if v < 5 else int(v)}).batch(5)
    assert [v for b in chain.tensorflow() for v in b["label"].numpy().tolist()] == list(range(10))


@pytest.mark.parametrize(
    ("early", "late"),
    [(np.uint8(1), np.int8(127)), (np.int64(1), np.uint64(2**63 - 1)), (np.int8(1), -128.0), (np.float16(1), 0), (1, -(2.0**63))],
)
def test_ends_of_a_dtype_fit(early: Any, late: Any) -> None:
    chain = dataloader(numbers(10)).transform({"label": lambda v: early if v < 5 else late}).batch(5)
    assert [v for b in chain.tensorflow() for v in b["label"].numpy().tolist()] == [early] * 5 + [late] * 5


def test_keys_stay() -> None:
    chain = dataloader(numbers(10)).transform(lambda r: {"a": 1} if r["label"] < 5 else {"a": 1, "b": 2}).batch(5)
    with pytest.raises(tf.errors.OpError, match=r"row 5: .*\['a', 'b'\].*\['a'\]"):
        list(chain.tensorflow())


def test_large_batches_keep_their_contents() -> None:
    # large enough for leased blocks, which TensorFlow shares: nothing held may ever be written again
    x = np.arange(200 * 4096, dtype=np.float32).reshape(200, 4096)
    dataset = dataloader(FakeSource({"x": x})).batch(20).tensorflow()
    for _ in range(3):
        held = []
        for number, batch in enumerate(dataset):
            if number % 2:
                held.append(batch["x"])
        gc.collect()
        list(dataset)
        for number, kept in enumerate(held):
            assert np.array_equal(kept.numpy(), x[20 * (2 * number + 1) :][:20])


def test_memory_is_not_shared_between_batches() -> None:
    held = list(dataloader(numbers(2000)).batch(10).tensorflow())
    values = np.concatenate([b["x"][:, 0].numpy() for b in held])
    assert values.tolist() == list(range(2000))


def test_threads_end_with_the_iterator() -> None:
    def slow(value: Any) -> Any:
        time.sleep(0.001)
        return value

    def ours() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith("lakefmt")]

    dataset = dataloader(numbers(2000)).transform({"label": slow}).batch(10).tensorflow(num_threads=2)
    iterator = iter(dataset)
    next(iterator)
    assert ours()
    del iterator
    deadline = time.monotonic() + 10
    while ours() and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert ours() == []


def test_trains_with_keras_style_pairs() -> None:
    dataset = dataloader(numbers(64)).batch(16).tensorflow().map(lambda b: (b["x"], b["label"]))
    for x, y in dataset:
        assert x.shape == (16, 3)
        assert y.shape == (16,)
