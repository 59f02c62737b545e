"""Images of all kinds that Pillow makes: stored as a file of the same image would be, or refused; never clipped or flattened."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from dataset_tools import unchanged

import lakefmt
from lakefmt.errors import BadSample, DtypeError, ShapeError

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("simplejpeg")


@pytest.fixture
def ds(mem_url: str) -> Any:
    """PNG, JPEG and raw pixels."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("png", htype="image", sample_compression="png")
    ds.create_tensor("jpeg", htype="image", sample_compression="jpeg")
    ds.create_tensor("raw", htype="image", sample_compression=None)
    ds.append({}, append_empty=True)
    ds.commit("a row")
    return ds


_RNG = np.random.default_rng(0)
_RGBA = _RNG.integers(0, 256, (5, 6, 4)).astype(np.uint8)


def _image(mode: str) -> Any:
    colour = Image.fromarray(_RGBA)
    if mode in ("LA", "La"):
        both = Image.merge("LA", [Image.fromarray(np.ascontiguousarray(_RGBA[:, :, i])) for i in (0, 3)])
        return both.convert(mode)
    if mode in ("P", "P+t", "PA"):
        image = colour.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
        if mode == "P+t":
            image.info["transparency"] = 0
        return image.convert("PA") if mode == "PA" else image
    return colour.convert(mode)


def _bytes(image: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "P+t", "LA"])
@pytest.mark.parametrize("name", ["png", "raw"])
def test_as_a_file_of_the_same_image(ds: Any, mode: str, name: str) -> None:
    image = _image(mode)
    ds[name].append(image)
    ds[name].append(lakefmt.read(_bytes(image)))
    ds.flush()
    given, read = ds[name][1:].numpy(aslist=True)
    assert given.tolist() == read.tolist()


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("La", 4), ("RGBa", 4), ("PA", 4), ("CMYK", 3), ("YCbCr", 3), ("HSV", 3), ("LAB", 3), ("RGBX", 3)],
)
def test_other_modes_become_colour(ds: Any, mode: str, channels: int) -> None:
    image = _image(mode)
    ds.png.append(image)
    ds.raw.append(image)
    assert ds.png[1].shape == ds.raw[1].shape == (5, 6, channels)
    assert ds.png[1].numpy().tolist() == ds.raw[1].numpy().tolist()
    if mode in ("La", "RGBa"):
        assert ds.png[1].numpy()[:, :, 3].tolist() == _RGBA[:, :, 3].tolist()


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_more_than_8_bits_are_refused(ds: Any, dtype: str) -> None:
    deep = Image.fromarray(np.array([[0, 300], [70, 60_000]], dtype))
    for name in ("png", "jpeg", "raw"):
        t = ds[name]
        for use in (lambda t=t: t.append(deep), lambda t=t: t.extend([deep]), lambda t=t: t.__setitem__(0, deep)):
            with unchanged(ds), pytest.raises(BadSample, match=rf"'{name}', row \d.*8 bits"):
                use()


def test_alpha_does_not_go_into_a_jpeg_unseen(ds: Any) -> None:
    for mode in ("RGBA", "LA", "P+t"):
        with unchanged(ds), pytest.raises(ShapeError, match="JPEG"):
            ds.jpeg.append(_image(mode))
    ds.jpeg.append(_image("P"))


def test_masked_pixels(ds: Any) -> None:
    masked = np.ma.masked_array(np.zeros((4, 4), np.uint8), np.eye(4, dtype=bool))
    for name in ("png", "jpeg", "raw"):
        t = ds[name]
        for use in (lambda t=t: t.append(masked), lambda t=t: t.extend(masked[None]), lambda t=t: t.extend([masked])):
            with unchanged(ds), pytest.raises(DtypeError, match="masked"):
                use()


def test_more_pixels_than_pillow_opens(ds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels of ours are stored and read whatever Pillow's bound is; files of others are held to it."""
    pixels = _RNG.integers(0, 256, (40, 50)).astype(np.uint8)
    data = _bytes(Image.fromarray(pixels))
    small = np.zeros((30, 50), np.uint8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    for name in ("png", "jpeg", "raw"):
        for value in (data, lakefmt.read(data)):
            if name == "raw" and value is data:
                continue
            with unchanged(ds), pytest.raises(BadSample, match=r"50 x 40 pixels.*MAX_IMAGE_PIXELS"):
                ds[name].append(value)
    with pytest.raises(BadSample, match="50 x 40"):
        lakefmt.read(data, verify=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds.png.append(pixels)
        ds.png.append(_bytes(Image.fromarray(small)))
        ds.flush()
        assert ds.png[1].numpy().tolist() == pixels.tolist()
        assert ds.png[2].shape == (30, 50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    ds.png.append(data)


@pytest.mark.parametrize("shape", [(1, 65_501), (70_000, 1, 3)])
def test_sides_that_no_jpeg_has(ds: Any, shape: tuple[int, ...]) -> None:
    wide = np.zeros(shape, np.uint8)
    with unchanged(ds), pytest.raises(ShapeError, match=r"'jpeg', row 1.*65500.*png"):
        ds.jpeg.append(wide)
    ds.png.append(wide)
    ds.jpeg.append(np.zeros((1, 65_500), np.uint8))
    assert ds.jpeg[1].numpy().shape == (1, 65_500)


def test_what_is_no_image_is_said_once(ds: Any) -> None:
    for value in (b"no image", lakefmt.read(b"no image")):
        with pytest.raises(BadSample) as caught:
            ds.png.append(value)
        assert str(caught.value).count("the sample") == 1
    with pytest.raises(BadSample) as caught:
        _ = lakefmt.read(b"no image").array
    assert str(caught.value).count("the sample") == 1
