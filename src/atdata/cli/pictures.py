"""Small pictures of arrays, drawn with characters: two pixels in each, one above the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atdata.samples.images import Image

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["can_draw", "picture"]

_SIDE = 24  # pixels
_MOST = 1 << 26  # elements
_SHADES = " ░▒▓█"


def can_draw(console: Console) -> bool:
    """Whether the console is a terminal that shows block characters."""
    return console.is_terminal and not console.is_dumb_terminal and console.encoding.lower().startswith("utf")


def picture(value: Any, console: Console) -> Text | None:
    """A drawing of `value`, where it is an array or an encoded image that looks like a picture; else None.

    Pictures are 2-D arrays of numbers, and (h, w, 3 or 4) arrays of uint8 or of floats from 0 to 1. Gray ones are
    stretched to their own range, so that faint ones can be seen.
    """
    pixels = _pixels(value)
    if pixels is None:
        return None
    return _blocks(pixels) if console.color_system is not None and not console.no_color else _shades(pixels)


def _pixels(value: Any) -> NDArray[np.uint8] | None:
    """uint8 of shape (h, w, 3), at most `_SIDE` on each side."""
    if isinstance(value, Image):
        try:
            value = value.decode()
        except (ImportError, ValueError):  # no Pillow, or no image: then there is no picture, only its size
            return None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or value.size > _MOST:
        return None
    color = value.ndim == 3 and value.shape[2] in (3, 4) and (value.dtype == np.uint8 or value.dtype.kind == "f")
    if not color and value.ndim != 2:
        return None
    h, w = value.shape[:2]
    if min(h, w) < 4 or max(h, w) > 8 * min(h, w):
        return None
    small = _shrunk(value[..., :3] if color else value)
    finite = np.isfinite(small)
    small = np.where(finite, small, 0.0)
    if color:
        scale = 1.0 if value.dtype == np.uint8 else 255.0
        return np.clip(small * scale, 0, 255).astype(np.uint8)
    low, high = (small[finite].min(), small[finite].max()) if finite.any() else (0.0, 0.0)
    span = high - low or 1.0
    gray = np.clip((small - low) / span * 255, 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def _shrunk(array: NDArray[Any]) -> NDArray[np.float64]:
    """Averages over blocks, so that the longer side is at most `_SIDE`."""
    step = max(1, max(array.shape[:2]) // (16 * _SIDE))  # no more than 16 by 16 elements make a pixel
    array = array[::step, ::step]
    h, w = array.shape[:2]
    shrink = max(1.0, max(h, w) / _SIDE)
    out = array.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for axis, n in ((0, h), (1, w)):
            edges = np.linspace(0, n, max(1, round(n / shrink)) + 1).astype(int)
            widths = np.diff(edges).reshape([-1 if a == axis else 1 for a in range(out.ndim)])
            out = np.add.reduceat(out, edges[:-1], axis=axis) / widths
    return out


def _blocks(pixels: NDArray[np.uint8]) -> Text:
    from rich.text import Text

    text = Text()
    h = len(pixels)
    for y in range(0, h, 2):
        for x in range(pixels.shape[1]):
            r, g, b = pixels[y, x].tolist()
            style = f"rgb({r},{g},{b})"
            if y + 1 < h:
                r, g, b = pixels[y + 1, x].tolist()
                style += f" on rgb({r},{g},{b})"
            text.append("▀", style)
        if y + 2 < h:
            text.append("\n")
    return text


def _shades(pixels: NDArray[np.uint8]) -> Text:
    from rich.text import Text

    gray = pixels.mean(axis=2)
    if len(gray) % 2:
        gray = np.concatenate([gray, gray[-1:]])
    pairs = (gray[0::2] + gray[1::2]) / 2
    levels = np.minimum((pairs / 256 * len(_SHADES)).astype(int), len(_SHADES) - 1)
    return Text("\n".join("".join(_SHADES[v] for v in row) for row in levels.tolist()))
