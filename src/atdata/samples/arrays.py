"""The bytes of one array: the compact layout, and `.npy` for structured arrays.

Compact layout, as written by every atdata implementation:

| offset   | size | meaning                                     |
|----------|------|---------------------------------------------|
| 0        | 1    | L, length of the dtype string               |
| 1        | L    | ASCII `dtype.str`, for example `<f4`        |
| 1+L      | 1    | N, number of dimensions                     |
| 2+L      | 8N   | shape, little-endian signed 64-bit integers |
| 2+L+8N   | rest | raw elements in C order                     |

A structured array is a NumPy `.npy` file, version 1.0
(https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html). The two cannot be confused: the
magic of `.npy` begins with 0x93, which would be a dtype string of 147 characters.
"""

from __future__ import annotations

import io
import math
import re
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayError", "array_from_bytes", "array_header", "array_to_bytes", "parse_header", "raw_bytes"]

NPY_MAGIC = b"\x93NUMPY"
# What `numpy.dtype.str` can give for a plain dtype. Anything else from a stranger (field lists, "O",
# comma strings) is refused before NumPy sees it.
_DTYPE = re.compile(r"[<>|=][biufcmMSUV][0-9]+(\[[0-9]*[A-Za-z]+(/[0-9]+)?\])?", re.ASCII)
_MAX_NDIM = 32
_MAX_NPY_HEADER = 10_000  # NumPy reads no longer ones
# Elements of a dtype of no bytes (`|V0`, `<U0`): any number of them fits into nothing.
_MAX_SIZELESS = 1_000_000

Buffer = bytes | bytearray | memoryview


class ArrayError(ValueError):
    """Array bytes or an array that cannot be stored; the codec adds field and place."""


def array_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The compact layout's header for `dtype` and `shape`.

    Raises:
        ArrayError: object or structured dtypes, which the compact layout cannot hold.
    """
    if dtype.hasobject:
        raise ArrayError("arrays of Python objects cannot be stored; convert to a numeric or string dtype")
    name = dtype.str.encode("ascii")
    if dtype.names is not None or not _DTYPE.fullmatch(dtype.str) or len(name) > 255:
        raise ArrayError(f"dtype {dtype} has no compact form")
    if len(shape) > _MAX_NDIM:
        raise ArrayError(f"{len(shape)} dimensions, more than {_MAX_NDIM}")
    return struct.pack(f"<B{len(name)}sB{len(shape)}q", len(name), name, len(shape), *shape)


def raw_bytes(array: NDArray[Any]) -> bytes | memoryview:
    """The elements of `array` in C order; large contiguous arrays are not copied."""
    if array.nbytes > 16384 and array.flags.c_contiguous and array.dtype.kind not in "mM":
        # A view as bytes: works for every dtype, also those the buffer protocol has no letter for.
        return array.reshape(-1).view(np.uint8).data
    return array.tobytes()


def array_to_bytes(array: NDArray[Any]) -> bytes:
    """`array` in the compact layout, or as `.npy` when its dtype is structured.

    Args:
        array: any shape, also 0-d and empty; any dtype without Python objects. Byte order is kept.

    Raises:
        ArrayError: the dtype holds Python objects.

    Example:
        >>> array_to_bytes(np.array(3.5)).hex()
        '033c6638000000000000000c40'
    """
    if array.dtype.names is not None:
        if array.dtype.hasobject:
            raise ArrayError("structured arrays with object fields cannot be stored")
        return _to_npy(np.asarray(array, order="C"))
    return array_header(array.dtype, array.shape) + array.tobytes()


def parse_header(data: Buffer) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """dtype, shape and length of the compact header at the start of `data`.

    Raises:
        ArrayError: the header is cut short, or names a dtype or shape that cannot be.
    """
    try:
        n = data[0]
        ndim = data[1 + n]
        start = 2 + n + 8 * ndim
        name = bytes(data[1 : 1 + n]).decode("ascii")
        if len(data) < start:
            raise IndexError
        shape = struct.unpack_from(f"<{ndim}q", data, 2 + n)
    except (IndexError, UnicodeDecodeError):
        raise ArrayError("not an array: the header is cut short or not ASCII") from None
    if not _DTYPE.fullmatch(name):
        raise ArrayError(f"not an array: dtype {name!r} is not one that can be stored")
    if ndim > _MAX_NDIM or any(dim < 0 for dim in shape):
        raise ArrayError(f"not an array: shape {shape} is impossible")
    try:
        return np.dtype(name), shape, start
    except (TypeError, ValueError):
        raise ArrayError(f"not an array: dtype {name!r} is unknown") from None


def array_from_bytes(data: Buffer) -> NDArray[Any]:
    """The array stored in `data`, as a read-only view of it (no copy).

    Args:
        data: the compact layout, or a `.npy` file without pickled objects.

    Returns:
        An array that shares memory with `data`; it may be unaligned.

    Raises:
        ArrayError: not an array, or its shape and dtype do not account for the bytes there are.

    Example:
        >>> array_from_bytes(bytes.fromhex("037c62310102000000000000000100"))
        array([ True, False])
    """
    if bytes(data[:6]) == NPY_MAGIC:
        return _from_npy(data)
    dtype, shape, start = parse_header(data)
    return view(data, dtype, shape, start)


def view(data: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], start: int) -> NDArray[Any]:
    """The elements at `start` to the end of `data` as a read-only array; their number must be exact."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes != len(data) - start:
        raise ArrayError(f"shape {shape} of {dtype} needs {nbytes} bytes, but there are {len(data) - start}")
    if dtype.itemsize == 0 and math.prod(shape) > _MAX_SIZELESS:
        raise ArrayError(f"shape {shape} claims elements without bytes, more than {_MAX_SIZELESS} of them")
    try:
        array: NDArray[Any] = np.ndarray(shape, dtype, data if nbytes else b"", start if nbytes else 0)
    except ValueError as error:  # for example shape (2**62, 0)
        raise ArrayError(f"shape {shape} is impossible: {error}") from None
    array.flags.writeable = False
    return array


def _to_npy(array: NDArray[Any]) -> bytes:
    """`array`, in C order, as `.npy` version 1.0."""
    try:
        fields = np.lib.format.header_data_from_array_1_0(array)
        # Field names beyond ASCII as escapes: version 1.0 knows Latin-1 only, and NumPy reads a Python literal.
        text = repr({**fields, "fortran_order": False}).encode("ascii", "backslashreplace")
    except ValueError as error:  # fields that overlap
        raise ArrayError(f"dtype {array.dtype} has no .npy form: {error}") from None
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    if len(text) > _MAX_NPY_HEADER:
        raise ArrayError(f"the fields of dtype take {len(text)} bytes to describe, more than {_MAX_NPY_HEADER}")
    return NPY_MAGIC + b"\x01\x00" + struct.pack("<H", len(text)) + text + array.tobytes()


def _from_npy(data: Buffer) -> NDArray[Any]:
    head = io.BytesIO(bytes(data[: _MAX_NPY_HEADER + 16]))
    try:
        version = np.lib.format.read_magic(head)
        if version == (3, 0):  # as 2.0, but UTF-8
            n = int.from_bytes(head.read(4), "little")
            text = head.read(n).decode().encode("ascii", "backslashreplace")
            start = 12 + n
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(
                io.BytesIO(len(text).to_bytes(4, "little") + text)
            )
        else:
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, dtype = read(head)
            start = head.tell()
    except Exception as error:  # NumPy evaluates a literal and builds a dtype from it: much can go wrong
        raise ArrayError(f"not a readable .npy array: {error}") from None
    if dtype.hasobject:
        raise ArrayError("a .npy array of Python objects is refused: it could run code when read")
    if any(dim < 0 for dim in shape):
        raise ArrayError(f"not a readable .npy array: shape {shape} is impossible")
    array = view(data, dtype, shape[::-1] if fortran else shape, start)
    return array.T if fortran else array
