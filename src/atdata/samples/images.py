"""Images kept as the encoded bytes they came in."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Image"]

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
)


class Image:
    """An encoded image (PNG, JPEG, …): its bytes are stored and copied as they are.

    Args:
        data: the encoded file, at least one byte.

    Example:
        >>> picture = Image.encode(np.zeros((2, 3), np.uint8))
        >>> picture.format, picture.decode().shape
        ('png', (2, 3))
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"an Image takes the bytes of an encoded image, not {type(data).__name__}")
        self.data = bytes(data)

    @property
    def format(self) -> str | None:
        """`png`, `jpeg`, `webp`, `gif`, `bmp` or `tiff` by the first bytes; None when unknown."""
        for magic, name in _MAGIC:
            if self.data.startswith(magic):
                return name
        return "webp" if self.data[:4] == b"RIFF" and self.data[8:12] == b"WEBP" else None

    def decode(self) -> NDArray[Any]:
        """Pixels as an array of shape (height, width) or (height, width, channels), usually uint8.

        Raises:
            ImportError: Pillow is missing (`pip install 'atdata[images]'`).
            ValueError: the bytes are no image that Pillow can read.
        """
        pillow = _pillow()
        try:
            with pillow.open(io.BytesIO(self.data)) as image:
                if image.mode in ("P", "PA"):  # palette numbers are not pixels
                    image = image.convert("RGBA" if "transparency" in image.info else "RGB")
                return np.asarray(image)
        except (OSError, SyntaxError, pillow.DecompressionBombError) as error:
            raise ValueError(f"not a readable image: {error}") from error

    @classmethod
    def encode(cls, pixels: NDArray[np.uint8], format: str = "png") -> Image:
        """Encode pixels of shape (height, width) or (height, width, 3 or 4), uint8.

        Raises:
            ImportError: Pillow is missing (`pip install 'atdata[images]'`).
        """
        out = io.BytesIO()
        _pillow().fromarray(pixels).save(out, format=format)
        return cls(out.getvalue())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.data)

    def __repr__(self) -> str:
        return f"Image({self.format or 'unknown format'}, {len(self.data)} bytes)"


def _pillow() -> Any:
    try:
        import PIL.Image
    except ImportError:
        raise ImportError("decoding images needs Pillow: pip install 'atdata[images]'") from None
    return PIL.Image
