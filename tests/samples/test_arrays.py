"""The bytes of one array: published vectors, every dtype and layout, and bytes that only look like an array."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from atdata.samples.arrays import ArrayError, array_from_bytes, array_header, array_to_bytes
from atdata.samples.packable import equal_values

VECTORS = [
    (np.array(3.5), "033c6638000000000000000c40"),
    (np.zeros((0, 3), "<i4"), "033c69340200000000000000000300000000000000"),
    (np.array(["ab", "c"]), "033c553201020000000000000061000000620000006300000000000000"),
    (np.array([True, False]), "037c62310102000000000000000100"),
    (np.array([0, 1, 2], ">i2"), "033e6932010300000000000000000000010002"),
    (
        np.arange(6, dtype="<f4").reshape(2, 3),
        "033c66340202000000000000000300000000000000000000000000803f0000004000004040000080400000a040",
    ),
]


@pytest.mark.parametrize(("array", "text"), VECTORS)
def test_published_vectors(array, text):
    assert array_to_bytes(array).hex() == text
    back = array_from_bytes(bytes.fromhex(text))
    assert equal_values(back, array)
    assert back.dtype.str == array.dtype.str  # byte order is kept


plain = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(endianness="?"),
    hnp.unicode_string_dtypes(endianness="?", min_len=1),
    hnp.byte_string_dtypes(min_len=1),
    hnp.datetime64_dtypes(endianness="?"),
    hnp.timedelta64_dtypes(endianness="?"),
)
shapes = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)


@given(hnp.arrays(plain, shapes), st.sampled_from("CF"))
def test_every_plain_array_round_trips(array, order):
    array = np.array(array, order=order)
    data = array_to_bytes(array)
    back = array_from_bytes(data)
    assert equal_values(back, array)
    assert back.dtype.str == array.dtype.str
    assert data == array_to_bytes(np.ascontiguousarray(array).reshape(array.shape))  # order leaves no trace
    # Header, and raw elements in C order, nothing else.
    assert data == array_header(array.dtype, array.shape) + array.tobytes()


@given(hnp.arrays(hnp.array_dtypes(max_size=3), shapes))
def test_every_structured_array_round_trips_as_npy(array):
    data = array_to_bytes(array)
    assert data[:8] == b"\x93NUMPY\x01\x00"
    back = array_from_bytes(data)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert np.load(io.BytesIO(data), allow_pickle=False).shape == array.shape


def test_a_structured_array_without_dimensions_keeps_none():
    one = np.array((1, 2.5), dtype=[("a", "<i4"), ("b", "<f8")])
    assert array_from_bytes(array_to_bytes(one)).shape == ()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_legacy_npy_of_any_order_and_version_is_read(order, version):
    array = np.array(np.arange(6.0).reshape(2, 3), order=order)
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=version)
    back = array_from_bytes(out.getvalue())
    assert np.array_equal(back, array)
    assert not back.flags.writeable


def test_field_names_beyond_latin_1():
    array = np.array([(1, 2.0)], dtype=[("größe", "<i4"), ("大小", "<f8")])
    data = array_to_bytes(array)
    assert array_from_bytes(data).dtype == array.dtype
    assert np.load(io.BytesIO(data)).dtype == array.dtype
    out = io.BytesIO()
    with pytest.warns(UserWarning, match="format 3.0"):
        np.save(out, array)
    assert equal_values(array_from_bytes(out.getvalue()), array)


def test_a_structured_dtype_too_long_for_npy_is_refused_when_written():
    fits = np.zeros(1, [(f"f{i}", "<i4") for i in range(500)])
    assert array_from_bytes(array_to_bytes(fits)).dtype == fits.dtype
    with pytest.raises(ArrayError, match="to describe, more than 10000"):
        array_to_bytes(np.zeros(1, [(f"f{i}", "<i4") for i in range(1000)]))


def test_views_of_other_arrays_are_written_by_value():
    base = np.arange(24).reshape(4, 6)
    for view in (base[::2], base[:, 1::3], base[::-1], base.T, np.broadcast_to(base[0], (3, 6))):
        assert np.array_equal(array_from_bytes(array_to_bytes(view)), view)


@pytest.mark.parametrize("buffer", [bytes, bytearray, lambda data: memoryview(data), lambda data: memoryview(data)[:]])
def test_reading_copies_nothing_and_gives_read_only_arrays(buffer):
    data = buffer(array_to_bytes(np.arange(100, dtype="<f8")))
    back = array_from_bytes(data)
    assert np.shares_memory(back, np.frombuffer(data, np.uint8))
    assert not back.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 1


def test_empty_arrays_are_read_only_and_keep_their_shape():
    for shape in ((0,), (3, 0, 2), (0,) * 32):
        back = array_from_bytes(array_to_bytes(np.empty(shape, "<U7")))
        assert (back.shape, back.dtype.str, back.flags.writeable) == (shape, "<U7", False)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([object()]), "arrays of Python objects cannot be stored"),
        (np.array([(1, None)], dtype=[("a", "i4"), ("o", "O")]), "structured arrays with object fields cannot"),
        (np.array([[1], [2, 3]], dtype=object), "arrays of Python objects cannot be stored"),
    ],
)
def test_what_cannot_be_written(array, message):
    with pytest.raises(ArrayError, match=message):
        array_to_bytes(array)


def compact(dtype: bytes, shape: tuple[int, ...], payload: bytes = b"") -> bytes:
    return bytes([len(dtype)]) + dtype + bytes([len(shape)]) + struct.pack(f"<{len(shape)}q", *shape) + payload


HOSTILE = [
    (b"", "cut short"),
    (b"\x03", "cut short"),
    (b"\x03<f4", "cut short"),
    (b"\x03<f4\x02" + bytes(8), "cut short"),
    (b"\xff" + bytes(20), "cut short"),
    (compact(b"<f\xff", ()), "not ASCII"),
    (compact(b"|O", (1,), bytes(8)), "dtype '|O' is not one that can be stored"),
    (compact(b"|O8", (1,), bytes(8)), "dtype '|O8' is not one that can be stored"),
    (compact(b"f4,f4", (1,), bytes(8)), "is not one that can be stored"),
    (compact(b"<f3", (1,), bytes(3)), "dtype '<f3' is unknown"),
    (compact(b"<U99999999999", (0,)), "is unknown"),
    (compact(b"<M8[xx]", (1,), bytes(8)), "is unknown"),
    (compact(b"", (1,), bytes(8)), "is not one that can be stored"),
    (compact(b"<f4", (-1,), bytes(4)), r"shape \(-1,\) is impossible"),
    (compact(b"<f4", (-1, -1), bytes(4)), r"shape \(-1, -1\) is impossible"),
    (compact(b"<f4", (2,), bytes(4)), r"shape \(2,\) of float32 needs 8 bytes, but there are 4"),
    (compact(b"<f4", (1,), bytes(5)), "needs 4 bytes, but there are 5"),
    (compact(b"<f4", (), b""), "needs 4 bytes, but there are 0"),
    (compact(b"<f8", (2**62, 2**62), bytes(8)), "bytes, but there are 8"),
    (compact(b"<f8", (2**62, 0)), "is impossible"),
    (compact(b"|V0", (2**40,)), "claims elements without bytes"),
    (compact(b"<f8", (1,) * 33, bytes(8)), "is impossible"),
    (b"\x93NUMPY\x01\x00", "not a readable .npy"),
    (b"\x93NUMPY\x07\x00" + bytes(100), "not a readable .npy"),
    (b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4',", "not a readable .npy"),
]


def npy(header: str, payload: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + payload


HOSTILE += [
    (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\nsystem\n."), "could run code"),
    (npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}", bytes(8)), "could run code"),
    (npy("__import__('os').system('true')"), "not a readable .npy"),
    (npy("(" * 5000), "not a readable .npy"),
    (npy("-" * 5000 + "1"), "not a readable .npy"),
    (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", bytes(4)), "is impossible"),
    (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", bytes(4)), "needs 12 bytes, but there are 4"),
    (npy("{'descr': 5, 'fortran_order': False, 'shape': (1,)}", bytes(4)), "not a readable .npy"),
]


@pytest.mark.parametrize(("data", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_bytes_that_are_no_array(data, message):
    with pytest.raises(ArrayError, match=message):
        array_from_bytes(data)


@given(st.binary(max_size=60))
def test_any_bytes_give_an_array_or_an_array_error(data):
    try:
        array = array_from_bytes(data)
    except ArrayError:
        return
    assert array.nbytes <= len(data)


@given(hnp.arrays(plain, shapes), st.data())
def test_flipping_or_cutting_never_escapes_as_another_error(array, data):
    raw = bytearray(array_to_bytes(array))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for blob in (bytes(raw), bytes(raw)[: data.draw(st.integers(0, len(raw)))]):
        try:
            back = array_from_bytes(blob)
        except ArrayError:
            continue
        assert back.nbytes <= len(blob)
