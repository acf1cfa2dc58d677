"""A contact sheet: many small images in one PNG."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["contact_sheet"]


def contact_sheet(
    images: NDArray[np.uint8], path: Path, *, columns: int, top: int, zoom: int = 5, gap: int = 4
) -> None:
    """Draw `images` row by row and save them at `path`, whole or not at all.

    Args:
        images: shape (n, h, w), values from 0 to `top`; dark ink on white.
        columns: images in a row.
        zoom: pixels on the sheet for one of an image's.
        gap: pixels between images.
    """
    from PIL import Image

    n, h, w = images.shape
    rows = -(-n // columns)
    tall, wide = h * zoom + gap, w * zoom + gap
    sheet = np.full((rows * tall + gap, columns * wide + gap), 255, np.uint8)
    ink = 255 - np.clip(images.astype(np.float64) * 255 / top, 0, 255).astype(np.uint8)
    for i, image in enumerate(ink):
        y, x = gap + i // columns * tall, gap + i % columns * wide
        sheet[y : y + h * zoom, x : x + w * zoom] = np.kron(image, np.ones((zoom, zoom), np.uint8))
    temporary = path.with_name(f".{path.name}.new")
    Image.fromarray(sheet).save(temporary, format="png")
    os.replace(temporary, path)
