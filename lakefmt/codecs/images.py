"""JPEG and PNG.

JPEG goes through libjpeg-turbo (``simplejpeg``), which decodes and encodes without holding the interpreter lock; what it finds
odd, and PNG, go through Pillow. Decoding gives the image's own channels: gray (H, W), colour (H, W, 3), with alpha
(H, W, 4); CMYK and palettes become colour. dtype is always uint8.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from lakefmt.cells import Array
from lakefmt.errors import BadSample, InvalidInput, MissingExtra, ShapeError

#: Makes an array of a shape and dtype, contents undefined.
Allocate: TypeAlias = Callable[[tuple[int, ...], str], Array]

_MAGICS = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"))
_KEEP = {
    "L": "L", "RGB": "RGB", "RGBA": "RGBA", "1": "L", "LA": "RGBA", "La": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "RGBX": "RGB",
    "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB",
}  # fmt: skip
#: Quality for arrays encoded by us; bytes given as JPEG are kept verbatim.
JPEG_QUALITY = 95
#: Pixels a side that libjpeg goes to.
JPEG_SIDE_MAX = 65_500


def sniff(data: bytes | memoryview) -> str | None:
    """The codec of some bytes by their first bytes: ``jpeg``, ``png``, or ``None``."""
    head = bytes(data[:8])
    for magic, codec in _MAGICS:
        if head.startswith(magic):
            return codec
    return None


def read_header(codec: str, data: bytes | memoryview) -> tuple[int, ...]:
    """Shape an image will decode to, from its header alone.

    Raises:
        BadSample: the bytes are no image of this codec.
    """
    found = sniff(data)
    if found != codec:
        raise BadSample(
            f"these {len(data)} bytes are {'a ' + found.upper() if found else 'no image lakefmt knows'}, not a {codec.upper()}"
        )
    if codec == "jpeg":
        shape = _jpeg_header(data)
        if shape is not None:
            return shape
    with _open(codec, data) as image:
        return _shape(image.size, _mode(image))


def _jpeg_header(data: bytes | memoryview) -> tuple[int, ...] | None:
    simplejpeg = _simplejpeg()
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as e:
        raise BadSample(f"a JPEG of {len(data)} bytes with a damaged header ({e})") from e
    return (height, width) if colorspace == "Gray" else (height, width, 3)


def decode(codec: str, data: bytes | memoryview, allocate: Allocate | None = None) -> Array:
    """Decode an image.

    Args:
        codec: ``jpeg`` or ``png``.
        data: the encoded bytes.
        allocate: makes the array that a JPEG is decoded into, of a given shape and dtype; by default a fresh one.

    Returns:
        uint8 array (H, W), (H, W, 3) or (H, W, 4).

    Raises:
        BadSample: the bytes do not decode.
    """
    if codec == "jpeg":
        array = _decode_jpeg(data, allocate)
        if array is not None:
            return array
    elif codec != "png":
        raise InvalidInput(f"there is no image codec {codec!r}; known: 'jpeg', 'png'")
    with _open(codec, data) as image:
        return np.asarray(_converted(image, codec, data))


def decode_pil(codec: str, data: bytes | memoryview) -> Any:
    """Decode to a ``PIL.Image.Image`` in mode L, RGB or RGBA."""
    with _open(codec, data) as image:
        return _converted(image, codec, data)


def pil_pixels(image: Any) -> Array:
    """Pixels of a ``PIL.Image.Image``, as those of a file of the same image: palettes become colour, transparency stays.

    Raises:
        BadSample: it has more than 8 bits a channel, or its file does not decode.
    """
    mode = _mode(image)
    try:
        image = image.convert("LA") if image.mode == "La" else image
        return np.asarray(image if image.mode == mode else image.convert(mode))
    except (OSError, SyntaxError, ValueError) as e:
        raise BadSample(f"an image of mode {image.mode!r} that does not decode ({e})") from e


def decode_foreign(codec: str, data: bytes | memoryview) -> Array:
    """Decode what others encoded: a PNG of more pixels than Pillow opens is refused, as a small file can claim any size."""
    if codec == "png":
        refuse_huge(read_header(codec, data))
    return decode(codec, data)


def refuse_huge(shape: tuple[int, ...]) -> None:
    """Refuse more pixels than Pillow's own bound.

    Raises:
        BadSample: too many.
    """
    bound = _pillow().MAX_IMAGE_PIXELS
    if bound is not None and shape[0] * shape[1] > 2 * bound:
        raise BadSample(
            f"an image of {shape[1]} x {shape[0]} pixels, more than the {2 * bound} that Pillow opens; if it is genuine, give its "
            "pixels as an array, or raise PIL.Image.MAX_IMAGE_PIXELS"
        )


def _decode_jpeg(data: bytes | memoryview, allocate: Allocate | None) -> Array | None:
    simplejpeg = _simplejpeg()
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace in ("CMYK", "YCCK"):
            return None
        channels = 1 if colorspace == "Gray" else 3
        buffer = None if allocate is None else allocate((height, width, channels), "uint8")
        array: Array = simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", buffer=buffer)
        return array[:, :, 0] if channels == 1 else array
    except ValueError:
        return None  # odd or damaged: Pillow reads the odd ones and refuses the damaged


def encode(codec: str, array: Array, what: str = "an image") -> bytes:
    """Encode pixels.

    Args:
        codec: ``jpeg`` (lossy, quality 95) or ``png``.
        array: uint8 (H, W), (H, W, 1), (H, W, 3), or for PNG (H, W, 4).
        what: the place, for errors.
    """
    if array.dtype != np.uint8:
        raise InvalidInput(f"{what}: pixels must be uint8 to be encoded as {codec.upper()}, got {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    channels = array.shape[-1] if array.ndim == 3 else 1
    allowed = (1, 3) if codec == "jpeg" else (1, 3, 4)
    if array.ndim not in (2, 3) or channels not in allowed or 0 in array.shape:
        raise ShapeError(f"{what}: shape {array.shape} is no image that {codec.upper()} can hold; use (H, W) or (H, W, 3)")
    array = np.ascontiguousarray(array)
    if codec == "jpeg":
        if max(array.shape[:2]) > JPEG_SIDE_MAX:
            raise ShapeError(f"{what}: shape {array.shape} is more than the {JPEG_SIDE_MAX} pixels a side of a JPEG; use 'png'")
        space = "GRAY" if channels == 1 else "RGB"
        pixels = array[:, :, None] if channels == 1 else array
        return bytes(_simplejpeg().encode_jpeg(pixels, quality=JPEG_QUALITY, colorspace=space))
    out = io.BytesIO()
    _pillow().fromarray(array).save(out, format="PNG", compress_level=3)
    return out.getvalue()


def _converted(image: Any, codec: str, data: bytes | memoryview) -> Any:
    mode = _mode(image)
    try:
        image.load()
        return image.convert(mode) if image.mode != mode else image.copy()
    except (OSError, SyntaxError, ValueError) as e:
        raise BadSample(f"a {codec.upper()} of {len(data)} bytes does not decode ({e})") from e


def _open(codec: str, data: bytes | memoryview) -> Any:
    """A Pillow image whose header is read. Made by its class and not by ``Image.open``, which bounds the pixels: what we encoded
    ourselves may have any number of them.
    """
    _pillow()
    from PIL import JpegImagePlugin, PngImagePlugin

    try:
        return (PngImagePlugin.PngImageFile if codec == "png" else JpegImagePlugin.JpegImageFile)(io.BytesIO(data))
    except (OSError, SyntaxError, ValueError) as e:
        raise BadSample(f"{len(data)} bytes that do not decode as {codec.upper()} ({e})") from e


def _mode(image: Any) -> str:
    if image.mode == "P":
        return "RGBA" if "transparency" in image.info or getattr(image.palette, "mode", "") == "RGBA" else "RGB"
    if image.mode not in _KEEP:
        raise BadSample(
            f"an image of mode {image.mode!r} has more than 8 bits a channel; keep its pixels in a tensor of htype 'generic'"
        )
    return _KEEP[image.mode]


def _shape(size: tuple[int, int], mode: str) -> tuple[int, ...]:
    width, height = size
    return (height, width) if mode == "L" else (height, width, len(mode))


def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError as e:
        raise MissingExtra("reading and writing JPEG", "images") from e
    return simplejpeg


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as e:
        raise MissingExtra("reading and writing images", "images") from e
    return Image
