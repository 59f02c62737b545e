"""Draws the small images that ship with lakefmt for ``lakefmt demo``: four kinds of shapes, of many sizes, some gray.

Run it only to change them: python examples/draw_demo_images.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

KINDS = ("circle", "square", "triangle", "stripes")
EACH = 12
OUT = Path(__file__).parent.parent / "lakefmt" / "demo_images"


def draw(kind: str, rng: np.random.Generator) -> Image.Image:
    """One image: a shape of one colour on a soft gradient of another."""
    width, height = (int(v) for v in rng.integers(160, 460, 2))
    low, high = rng.integers(0, 120, 3), rng.integers(120, 255, 3)
    ramp = np.linspace(0, 1, width)[None, :, None] * np.linspace(0.5, 1, height)[:, None, None]
    image = Image.fromarray((low + (high - low) * ramp * 0.6).astype(np.uint8))
    pen, ink = ImageDraw.Draw(image), tuple(int(v) for v in rng.integers(60, 255, 3))
    size = int(min(width, height) * rng.uniform(0.35, 0.7))
    x, y = (int(rng.integers(0, side - size)) for side in (width, height))
    if kind == "circle":
        pen.ellipse((x, y, x + size, y + size), fill=ink)
    elif kind == "square":
        pen.rectangle((x, y, x + size, y + size), fill=ink)
    elif kind == "triangle":
        pen.polygon([(x, y + size), (x + size, y + size), (x + size // 2, y)], fill=ink)
    else:
        for i in range(0, size, max(8, size // 6)):
            pen.rectangle((x, y + i, x + size, y + i + size // 14), fill=ink)
    return image.convert("L") if rng.random() < 0.15 else image


def main() -> None:
    """Write all of them."""
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*.jpg"):
        old.unlink()
    rng = np.random.default_rng(7)
    for kind in KINDS:
        for i in range(EACH):
            draw(kind, rng).save(OUT / f"{kind}_{i:02d}.jpg", quality=80)


if __name__ == "__main__":
    main()
