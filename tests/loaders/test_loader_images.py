"""Encoded images, decode methods, and bad samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loader_fake import FakeSource, numbers
from PIL import Image

from lakefmt.codecs import encode
from lakefmt.errors import BadSample, Corrupt, InvalidInput, ShapeError
from lakefmt.htypes import define_tensor
from lakefmt.loaders import dataloader

PIXELS = [np.full((4 + i % 3, 6, 3), i, np.uint8) for i in range(30)]
FILES = [encode("png", p) for p in PIXELS]


def images(bad: tuple[int, ...] = (), **options: Any) -> FakeSource:
    files = [b"\x89PNG broken" if i in bad else f for i, f in enumerate(FILES)]
    return FakeSource({"image": files, "label": np.arange(30)}, **options)


@pytest.mark.parametrize("threads", [0, 3])
def test_decoded_images_are_a_list(threads: int) -> None:
    for batch in dataloader(images()).batch(1).numpy(num_threads=threads):
        assert isinstance(batch["image"], list)  # also where a batch happens to hold one shape
    loader = dataloader(images()).shuffle(seed=1).batch(7).numpy(num_threads=threads)
    for batch in loader:
        for pixels, label in zip(batch["image"], batch["label"].tolist(), strict=True):
            assert np.array_equal(pixels, PIXELS[label])


def test_a_declared_shape_is_stacked() -> None:
    definition = define_tensor(0, "image", htype="image", sample_compression="png", shape=(4, 6, 3))
    same = [encode("png", np.full((4, 6, 3), i, np.uint8)) for i in range(10)]
    source = FakeSource({"image": same}, definitions={"image": definition})
    batch = next(iter(dataloader(source).batch(10).numpy()))
    assert batch["image"].shape == (10, 4, 6, 3)
    assert batch["image"][:, 0, 0, 0].tolist() == list(range(10))
    odd = FakeSource({"image": [*same, FILES[1]]}, definitions={"image": definition})
    with pytest.raises(ShapeError) as caught:
        list(dataloader(odd).batch(11).numpy())
    assert "(5, 6, 3)" in str(caught.value)
    gap = FakeSource({"image": [*same, None]}, definitions={"image": definition})
    with pytest.raises(InvalidInput, match=r"row 10 .*missing"):
        list(dataloader(gap).batch(11).numpy())


def test_decode_methods() -> None:
    def one(method: str, **columns: Any) -> Any:
        chain = dataloader(images() if not columns else FakeSource(columns)).batch(2)
        return next(iter(chain.numpy(decode_method={next(iter(columns or ["image"])): method})))

    assert one("tobytes")["image"] == FILES[:2]
    pil = one("pil")["image"]
    assert isinstance(pil[0], Image.Image)
    assert np.array_equal(np.asarray(pil[1]), PIXELS[1])
    data = one("data")["image"][1]
    assert np.array_equal(data["value"], PIXELS[1])
    assert data["shape"] == (5, 6, 3)
    assert one("tobytes", text=["ä", "b"])["text"] == ["ä".encode(), b"b"]
    assert one("tobytes", v=np.arange(2, dtype="<i4"))["v"] == [b"\0\0\0\0", b"\1\0\0\0"]
    label = FakeSource(
        {"label": np.array([1, 0], np.uint32)},
        definitions={"label": define_tensor(0, "label", htype="class_label", class_names=["cat", "dog"])},
    )
    batch = next(iter(dataloader(label).batch(2).numpy(decode_method={"label": "data"})))
    assert [d["text"] for d in batch["label"]] == ["dog", "cat"]
    with pytest.raises(InvalidInput, match="'pil' is for jpeg and png"):
        dataloader(images()).numpy(decode_method={"label": "pil"})
    with pytest.raises(InvalidInput, match="decode_method of 'image'"):
        dataloader(images()).numpy(decode_method={"image": "numpi"})


def test_a_bad_image_says_where() -> None:
    with pytest.raises(BadSample, match=r"row 5 \(id 1005\), tensor 'image'"):
        list(dataloader(images(bad=(5,))).batch(4).numpy())


@pytest.mark.parametrize("threads", [0, 2])
def test_bad_images_can_be_left_out(threads: int) -> None:
    chain = dataloader(images(bad=(5, 8, 9, 10, 11))).batch(4)
    for policy in ("skip", "collect"):
        loader = chain.numpy(on_error=policy, num_threads=threads)
        batches = list(loader)
        assert [b["label"].tolist() for b in batches[:3]] == [[0, 1, 2, 3], [4, 6, 7], [12, 13, 14, 15]]
        assert all(len(b["image"]) == len(b["label"]) for b in batches)
        assert loader.errors.total == 5
        expected = [(r, r + 1000, "image") for r in (5, 8, 9, 10, 11)] if policy == "collect" else []
        assert [(f.row, f.row_id, f.tensor) for f in loader.errors] == expected
    with pytest.raises(InvalidInput, match="on_error"):
        chain.numpy(on_error="ignore")


def test_a_failing_transform_is_a_bad_sample_too() -> None:
    loader = dataloader(numbers(6)).transform({"label": lambda v: 6 // int(v)}).batch(6).numpy(on_error="collect")
    assert next(iter(loader))["label"].tolist() == [6, 3, 2, 1, 1]
    assert loader.errors[0].error.startswith("ZeroDivisionError")


def test_unreadable_rows_can_be_left_out() -> None:
    source = numbers(12, corrupt_rows=(2, 3))
    with pytest.raises(Corrupt):
        list(dataloader(source).batch(4).numpy())
    loader = dataloader(source).batch(4).numpy(on_error="collect", return_index=True)
    assert [b["index"].tolist() for b in loader] == [[0, 1], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [f.row for f in loader.errors] == [2, 3]


def test_ranks_stay_in_step_over_bad_samples() -> None:
    chain = dataloader(images(bad=(1,))).batch(5)
    sizes = [[len(b["label"]) for b in chain.numpy(on_error="skip", shard=(r, 2))] for r in range(2)]
    assert sizes == [[5, 5, 5], [5, 5, 5]]
    assert next(iter(chain.numpy(on_error="skip", shard=(0, 2))))["label"].tolist() == [0, 0, 2, 3, 4]


def test_resuming_single_rows_past_bad_ones() -> None:
    chain = dataloader(images(bad=(2, 7)))
    good = [i for i in range(30) if i not in (2, 7)]
    for stop in (2, 3, 6):
        running = chain.numpy(on_error="skip")
        rows = iter(running)
        seen = [int(next(rows)["label"]) for _ in range(stop)]
        resumed = chain.numpy(on_error="skip")
        resumed.load_state_dict(running.state_dict())
        assert seen + [int(r["label"]) for r in resumed] == good
