"""Samples to msgpack and back: every field type, what other readers see, and every way the bytes can be wrong."""

import enum
import math
import struct
import threading
from dataclasses import field
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, Literal, Optional

import msgpack
import numpy as np
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from atdata.errors import SampleDecodeError, SampleTypeError
from atdata.samples import codec
from atdata.samples.arrays import array_to_bytes
from atdata.samples.fields import Shape
from atdata.samples.images import Image
from atdata.samples.packable import equal_values, pack, packable, unpack
from atdata.testing import samples


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Shade(str, enum.Enum):  # noqa: UP042 - the older way to write it
    DARK = "d"


class Mixed(enum.Enum):
    NUMBER = 1
    TEXT = "1"


@packable
class Box:
    corner: NDArray[np.float64]
    label: str | None = None


@packable
class Arrays:
    undeclared: np.ndarray
    declared: NDArray[np.float32]
    optional: NDArray[np.int16] | None
    text: NDArray[np.str_]
    times: NDArray[np.datetime64]
    records: NDArray[np.void]
    sized: Annotated[NDArray[np.uint8], Shape("h", "w", 3)]
    same: Annotated[NDArray[np.float64] | None, Shape("h", None)]


@packable
class Scalars:
    s: str
    i: int
    f: float
    b: bool
    raw: bytes
    nothing: None
    maybe: int | None
    when: datetime
    color: Color
    level: Level
    shade: Shade
    mixed: Mixed
    word: Literal["a", "b"]
    either: Literal["a", 1, True, None]
    picture: Image


@packable
class Nestings:
    numbers: list[int]
    arrays: list[NDArray[np.float32]]
    maybe: list[int | None]
    pair: tuple[int, str]
    many: tuple[NDArray[np.int8], ...]
    table: dict[str, NDArray]
    box: Box
    boxes: list[Box]
    by_name: dict[str, Box | None]
    deep: dict[str, list[tuple[Box, Color]]]
    nothing: tuple[()]


@packable
class Loose:
    value: Any
    items: list
    table: dict
    pair: tuple


@packable
class Tree:
    name: str
    children: list["Tree"]
    parent: Optional["Tree"] = None


# -- there and back --------------------------------------------------------------------------------------------------


@given(samples(Arrays))
def test_arrays_round_trip(sample):
    assert unpack(pack(sample), Arrays) == sample


@given(samples(Scalars))
def test_scalars_round_trip(sample):
    back = unpack(pack(sample), Scalars)
    assert back == sample
    for name in vars(sample):
        assert type(getattr(back, name)) is type(getattr(sample, name)), name


@given(samples(Nestings))
def test_nestings_round_trip(sample):
    assert unpack(pack(sample), Nestings) == sample


def _as_lists(value):
    """Without a declared type, a tuple comes back as the list it is in the bytes."""
    return list(value) if isinstance(value, tuple) else value


@given(samples(Loose))
def test_values_without_a_declared_type_round_trip(sample):
    back = unpack(pack(sample), Loose)
    assert equal_values(back.value, sample.value)
    assert equal_values(back.items, sample.items)
    assert equal_values(back.table, sample.table)
    assert equal_values(back.pair, sample.pair)


@given(samples(Tree))
def test_a_class_that_holds_itself_round_trips(sample):
    assert unpack(pack(sample), Tree) == sample


@given(st.one_of(samples(Arrays), samples(Scalars), samples(Nestings), samples(Loose)))
def test_other_msgpack_readers_see_a_plain_map_in_field_order(sample):
    data = pack(sample)
    names = [f.name for f in codec.plan(type(sample)).fields]
    for seen in (msgpack.unpackb(data), ormsgpack.unpackb(data)):
        assert list(seen) == names
        for name in names:
            value = getattr(sample, name)
            if isinstance(value, np.ndarray) and not isinstance(sample, Loose):
                assert seen[name] == array_to_bytes(value)
            elif isinstance(value, str | bool | bytes) or value is None:
                assert seen[name] == value
            elif isinstance(value, float):
                assert struct.pack(">d", seen[name]) == struct.pack(">d", value) or math.isnan(value)
    # The shortest form of every value, as `msgpack.packb` writes it, so equal samples are equal bytes everywhere.
    assert msgpack.packb(msgpack.unpackb(data)) == data


def test_the_published_sample():
    @packable
    class A:
        image: NDArray[np.float32]
        label: str
        conf: float

    a = A(np.arange(6, dtype=np.float32).reshape(2, 3), "x", 0.5)
    text = (
        "83a5696d616765c42d033c66340202000000000000000300000000000000000000000000803f"
        "0000004000004040000080400000a040a56c6162656ca178a4636f6e66cb3fe0000000000000"
    )
    assert pack(a).hex() == text
    assert unpack(bytes.fromhex(text), A) == a


def test_the_bytes_of_a_nested_sample_and_of_a_tagged_array():
    assert msgpack.unpackb(pack(Box(np.zeros(1), "x"))) == {"corner": array_to_bytes(np.zeros(1)), "label": "x"}
    loose = Loose({"a": np.ones(2)}, [np.ones(1)], {}, ())
    assert msgpack.unpackb(pack(loose))["value"] == {"a": {"__ndarray__": array_to_bytes(np.ones(2))}}
    assert np.array_equal(unpack(pack(loose), Loose).items[0], np.ones(1))


def test_arrays_of_a_decoded_sample_are_views_of_its_bytes():
    data = pack(Box(np.arange(1000.0)))
    for payload in (data, memoryview(data), bytearray(data)):
        corner = unpack(payload, Box).corner
        assert np.shares_memory(corner, np.frombuffer(payload, np.uint8))
        assert not corner.flags.writeable
        again = unpack(payload, Box).corner  # by the remembered header
        assert not again.flags.writeable


def test_offsets_point_at_the_raw_elements():
    sample = Arrays(
        np.arange(3000.0),
        np.ones((2, 2), np.float32),
        None,
        np.array(["a"]),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, [("a", "<i4")]),
        np.zeros((4, 5, 3), np.uint8),
        np.zeros((4, 0)),
    )
    data, values, raw, kinds = codec.plan(Arrays).encode(sample)
    assert data == pack(sample)
    names = codec.plan(Arrays).array_fields
    assert len(values) == 8
    for name, start, kind in zip(names, raw, kinds, strict=True):
        array = getattr(sample, name)
        if array is None or array.dtype.names:
            assert start == -1
        else:
            assert data[start : start + array.nbytes] == array.tobytes()
            assert kind == (array.dtype, array.shape)


def test_numpy_scalars_and_subclasses_stand_for_plain_values():
    @packable
    class S:
        i: int
        f: float
        s: str
        b: bool
        a: Any

    plain = S(3, 2.5, "d", True, "d")
    assert pack(S(np.int8(3), np.float32(2.5), np.str_("d"), np.bool_(True), Shade.DARK)) == pack(plain)
    assert pack(S(3, 2.5, Shade.DARK, True, np.str_("d"))) == pack(plain)
    assert unpack(pack(S(Level.HIGH, 1, "", False, np.float16(0.5))), S) == S(2, 1.0, "", False, 0.5)


def test_bytes_from_several_threads():
    sample = Nestings(
        [1], [np.ones(2, np.float32)], [None], (1, "a"), (), {}, Box(np.ones(1)), [Box(np.ones(2))], {}, {}, ()
    )
    expected, seen = pack(sample), []

    def work():
        seen.extend(pack(unpack(expected, Nestings)) for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert set(seen) == {expected}


# -- datetimes -------------------------------------------------------------------------------------------------------


def test_datetimes_keep_microseconds_and_zone():
    @packable
    class T:
        at: datetime

    for at in (datetime(2020, 1, 2, 3, 4, 5, 6), datetime(1, 1, 1, tzinfo=UTC), datetime.max):
        back = unpack(pack(T(at)), T).at
        assert (back, back.tzinfo) == (at, at.tzinfo)
    zone = timezone(timedelta(hours=-3, minutes=-30))
    assert unpack(pack(T(datetime(2020, 1, 1, tzinfo=zone))), T).at.utcoffset() == timedelta(hours=-3, minutes=-30)
    assert unpack(msgpack.packb({"at": "2020-01-01T00:00:00Z"}), T).at == datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(SampleDecodeError, match=r"^T\.at: expected datetime, got the text 'yesterday'"):
        unpack(msgpack.packb({"at": "yesterday"}), T)


# -- what cannot be written ------------------------------------------------------------------------------------------


@packable
class Digit:
    image: NDArray
    label: int
    name: str = ""
    score: float = 0.0
    ok: bool = True
    raw: bytes = b""
    table: dict[str, int] = field(default_factory=dict)
    box: Box | None = None
    boxes: list[Box] = field(default_factory=list)
    pair: tuple[int, str] = (0, "")
    color: Color = Color.RED
    word: Literal["a", 1] = "a"
    picture: Image | None = None
    when: datetime | None = None
    anything: Any = None
    pixels: NDArray[np.uint8] | None = None
    sized: Annotated[NDArray[np.float32] | None, Shape(2, "n", None)] = None
    same: Annotated[NDArray[np.float32] | None, Shape("n")] = None


IMAGE = np.zeros((2, 2))
f32 = np.float32
loop: list[Any] = []
loop.append(loop)

UNWRITABLE = [
    ({"image": "x"}, "Digit.image: expected ndarray, got str"),
    ({"image": None}, "Digit.image: expected ndarray, got NoneType"),
    ({"image": [1, 2]}, "Digit.image: expected ndarray, got list"),
    ({"image": np.float64(1)}, "Digit.image: expected ndarray, got float64"),
    ({"image": np.array([None])}, "Digit.image: arrays of Python objects cannot be stored"),
    ({"image": np.ma.array([1, 2], mask=[0, 1])}, "Digit.image: the mask of a masked array cannot be stored"),
    ({"label": "1"}, "Digit.label: expected int, got str"),
    ({"label": True}, "Digit.label: expected int, got bool"),
    ({"label": np.bool_(True)}, "Digit.label: expected int, got bool"),
    ({"label": 1.0}, "Digit.label: expected int, got float"),
    ({"label": None}, "Digit.label: expected int, got NoneType"),
    ({"label": 2**64}, "Digit.label: 18446744073709551616 does not fit into 64 bits"),
    ({"label": -(2**63) - 1}, "Digit.label: -9223372036854775809 does not fit into 64 bits"),
    ({"name": b"x"}, "Digit.name: expected str, got bytes"),
    ({"name": "\ud800"}, "Digit.name: text with a lone surrogate cannot be stored"),
    ({"score": "1"}, "Digit.score: expected float, got str"),
    ({"score": True}, "Digit.score: expected float, got bool"),
    ({"score": 10**400}, "Digit.score: an int too large for a float"),
    ({"ok": 1}, "Digit.ok: expected bool, got int"),
    ({"raw": "x"}, "Digit.raw: expected bytes, got str"),
    ({"table": {1: 2}}, "Digit.table: keys must be str, got int 1"),
    ({"table": {"a": "b"}}, "Digit.table['a']: expected int, got str"),
    ({"table": {"\udfff": 1}}, "text with a lone surrogate cannot be stored"),
    ({"table": [1]}, "Digit.table: expected dict[str, int], got list"),
    ({"box": 1}, "Digit.box: expected Box, got int"),
    ({"box": Box([1])}, "Digit.box.corner: expected ndarray, got list"),
    ({"boxes": [Box(IMAGE), Box(IMAGE, 5)]}, "Digit.boxes[1].label: expected str, got int"),
    ({"boxes": "ab"}, "Digit.boxes: expected list[Box], got str"),
    ({"boxes": None}, "Digit.boxes: expected list[Box], got NoneType"),
    ({"pair": (1,)}, "Digit.pair: expected 2 items, got 1"),
    ({"pair": ("a", 1)}, "Digit.pair[0]: expected int, got str"),
    ({"color": "r"}, "Digit.color: expected Color, got str"),
    ({"word": "c"}, "Digit.word: expected one of 'a', 1, got 'c'"),
    ({"word": True}, "Digit.word: expected one of 'a', 1, got True"),
    ({"word": [1]}, "Digit.word: expected one of 'a', 1, got [1]"),
    ({"picture": b"x"}, "Digit.picture: expected Image, got bytes"),
    ({"when": "2020"}, "Digit.when: expected datetime, got str"),
    ({"anything": {1, 2}}, "Digit.anything: a value of type set cannot be stored without a declared type"),
    ({"anything": {"a": [object()]}}, "Digit.anything['a'][0]: a value of type object cannot be stored"),
    ({"anything": {"a": {1: 2}}}, "Digit.anything['a']: keys must be str, got int 1"),
    ({"anything": {"__ndarray__": b""}}, "a dict with the single key '__ndarray__' is reserved for arrays"),
    ({"anything": [2**64]}, "Digit.anything[0]: 18446744073709551616 does not fit into 64 bits"),
    ({"anything": np.array([None])}, "Digit.anything: arrays of Python objects cannot be stored"),
    ({"anything": loop}, "nested more than 100 deep"),
    ({"anything": 1j}, "Digit.anything: a value of type complex cannot be stored"),
    ({"pixels": np.zeros(2)}, "Digit.pixels: expected uint8 array, got float64"),
    ({"pixels": np.zeros(2, [("a", "u1")])}, "Digit.pixels: expected uint8 array, got structured"),
    ({"sized": np.zeros((2, 2), f32)}, "Digit.sized: expected shape Shape(2, 'n', None), got (2, 2)"),
    ({"sized": np.zeros((3, 2, 1), f32)}, "Digit.sized: expected shape Shape(2, 'n', None), got (3, 2, 1)"),
    (
        {"sized": np.zeros((2, 5, 1), f32), "same": np.zeros(4, f32)},
        "Digit.same: dimension 'n' is 4 here, but 5 before",
    ),
]


@pytest.mark.parametrize(("change", "message"), UNWRITABLE, ids=[m[:40] for _, m in UNWRITABLE])
def test_what_cannot_be_written(change, message):
    sample = Digit(**{"image": IMAGE, "label": 1, **change})
    with pytest.raises(SampleTypeError) as caught:
        pack(sample)
    assert message in str(caught.value)
    assert str(caught.value).startswith(caught.value.field)
    assert isinstance(caught.value, TypeError)


def test_the_class_is_usable_after_a_refused_sample():
    bad, good = Digit("no", 1), Digit(IMAGE, 1)
    for _ in range(3):
        with pytest.raises(SampleTypeError):
            pack(bad)
        assert unpack(pack(good), Digit) == good


def test_a_dtype_seen_before_is_still_checked_against_the_declared_one():
    for _ in range(2):
        pack(Digit(IMAGE, 1, pixels=np.zeros(2, np.uint8)))
        with pytest.raises(SampleTypeError, match="expected uint8 array, got uint16"):
            pack(Digit(IMAGE, 1, pixels=np.zeros(2, np.uint16)))


def test_a_missing_attribute_and_another_class():
    sample = Digit(IMAGE, 1)
    del sample.label
    with pytest.raises(SampleTypeError, match=r"^Digit: .*'label'"):
        pack(sample)
    with pytest.raises(SampleTypeError, match="expected a Digit, got Box"):
        codec.plan(Digit).encode(Box(IMAGE))


def test_a_sample_that_holds_itself_is_refused():
    tree = Tree("a", [])
    tree.children.append(tree)
    with pytest.raises(SampleTypeError, match="nested more than 64 deep"):
        pack(tree)


def test_what_is_nested_as_deeply_as_can_be_written_can_be_read():
    tree = Tree("leaf", [])
    for _ in range(64):
        tree = Tree("inner", [tree])
    assert unpack(pack(tree), Tree) == tree
    with pytest.raises(SampleTypeError, match="nested more than 64 deep"):
        pack(Tree("root", [tree]))
    value: Any = 1
    for _ in range(100):
        value = [value]
    assert unpack(pack(Loose(value, [], {}, ())), Loose).value == value


def test_named_dimensions_agree_inside_a_nested_sample():
    @packable
    class Pair:
        a: Annotated[NDArray[np.float64], Shape("n")]
        b: Annotated[NDArray[np.float64], Shape("n")]

    @packable
    class Holder:
        pairs: list[Pair]

    pack(Holder([Pair(np.zeros(2), np.zeros(2)), Pair(np.zeros(3), np.zeros(3))]))
    with pytest.raises(SampleTypeError, match=r"^Holder\.pairs\[1\]\.b: dimension 'n' is 2 here, but 3 before"):
        pack(Holder([Pair(np.zeros(2), np.zeros(2)), Pair(np.zeros(3), np.zeros(2))]))


# -- bytes that are not a sample -------------------------------------------------------------------------------------

GOOD = msgpack.unpackb(pack(Digit(IMAGE, 1, boxes=[Box(IMAGE)])))
BOX = GOOD["boxes"][0]
ZEROS = array_to_bytes(np.zeros(3))

UNREADABLE = [
    ({"image": "x"}, "Digit.image: expected ndarray, got str"),
    ({"image": None}, "Digit.image: expected ndarray, got None"),
    ({"image": b"x"}, "Digit.image: not an array: the header is cut short or not ASCII"),
    ({"image": ZEROS[:-1]}, "Digit.image: shape (3,) of float64 needs 24 bytes, but there are 23"),
    ({"image": ZEROS + b"x"}, "Digit.image: shape (3,) of float64 needs 24 bytes, but there are 25"),
    ({"label": "1"}, "Digit.label: expected int, got str"),
    ({"label": True}, "Digit.label: expected int, got bool"),
    ({"label": 1.0}, "Digit.label: expected int, got float"),
    ({"name": b"x"}, "Digit.name: expected str, got bytes"),
    ({"name": None}, "Digit.name: expected str, got None"),
    ({"score": "1"}, "Digit.score: expected float, got str"),
    ({"ok": 0}, "Digit.ok: expected bool, got int"),
    ({"raw": "x"}, "Digit.raw: expected bytes, got str"),
    ({"table": [1]}, "Digit.table: expected dict[str, int], got list"),
    ({"table": {"a": "x"}}, "Digit.table[...]: expected int, got str"),
    ({"box": 1}, "Digit.box: expected dict, got int"),
    ({"box": {}}, "Digit.box.corner: missing"),
    ({"box": {**BOX, "x": 1}}, "Digit.box.x: is not a field of the sample type"),
    ({"boxes": [BOX, {**BOX, "label": 5}]}, "Digit.boxes[1].label: expected str or None, got int"),
    ({"boxes": [{"corner": b"zz"}]}, "Digit.boxes[0].corner: not an array"),
    ({"pair": [1]}, "Digit.pair: expected 2 items, got 1"),
    ({"pair": ["a", "b"]}, "Digit.pair[0]: expected int, got str"),
    ({"color": "x"}, "Digit.color: 'x' is not a member of Color"),
    ({"color": 1}, "Digit.color: expected Color, got int"),
    ({"word": "x"}, "Digit.word: expected one of 'a', 1, got 'x'"),
    ({"when": 5}, "Digit.when: expected datetime or None, got int"),
    ({"picture": "x"}, "Digit.picture: expected Image or None, got str"),
    ({"anything": {"__ndarray__": b"xx"}}, "Digit.anything: not an array"),
    ({"pixels": ZEROS}, "Digit.pixels: expected uint8 array, got float64"),
    ({"sized": array_to_bytes(np.zeros(3, f32))}, "Digit.sized: expected shape Shape(2, 'n', None), got (3,)"),
    ({"more": 1}, "Digit.more: is not a field of the sample type"),
]


@pytest.mark.parametrize(("change", "message"), UNREADABLE, ids=[m[:40] for _, m in UNREADABLE])
def test_bytes_that_do_not_fit_the_class(change, message):
    with pytest.raises(SampleDecodeError) as caught:
        unpack(msgpack.packb({**GOOD, **change}), Digit)
    assert message in str(caught.value)
    assert str(caught.value).startswith(caught.value.field)
    assert isinstance(caught.value, ValueError)


def test_missing_fields():
    assert unpack(msgpack.packb({"image": GOOD["image"], "label": 1}), Digit) == Digit(IMAGE, 1)
    for name in ("image", "label"):
        with pytest.raises(SampleDecodeError, match=rf"^Digit\.{name}: missing$"):
            unpack(msgpack.packb({k: v for k, v in GOOD.items() if k != name}), Digit)


def test_a_default_made_by_a_factory_is_new_for_each_sample():
    data = msgpack.packb({"image": GOOD["image"], "label": 1})
    one, other = unpack(data, Digit), unpack(data, Digit)
    one.boxes.append(1)
    assert other.boxes == []


def lying(n: int) -> bytes:
    """A sample whose `raw` claims `n` bytes and has few."""
    return b"\x81\xa3raw\xc6" + n.to_bytes(4, "big") + b"x" * 80


HOSTILE = [
    (b"", "Input data was truncated"),
    (b"\xc1", "not a msgpack map"),
    (b"\x90", "expected dict, got list"),
    (b"\x05", "expected dict, got int"),
    (lying(2**31), "Input data was truncated"),
    (lying(2**32 - 1), "Input data was truncated"),
    (b"\x81\xa5boxes\xdd\xff\xff\xff\xff", "Input data was truncated"),
    (b"\x81\xa5table\xdf\xff\xff\xff\xff", "Input data was truncated"),
    (b"\xdf\xff\xff\xff\xff", "Input data was truncated"),
    (b"\x81\xa8anything" + b"\x91" * 10_000 + b"\x01", "nested too deeply"),
    (b"\x81\xa8anything" + b"\x81\xa1a" * 10_000 + b"\x01", "nested too deeply"),
    (b"\x81\xa5boxes" + b"\x91" * 10_000 + b"\x01", "Digit"),
    (b"\x81\xa4name\xa2\xff\xfe", "text that is not UTF-8"),
    (b"\x81\xa4name\xa3\xed\xa0\x80", "text that is not UTF-8"),
    (b"\x81\xa2\xff\xfe\x01", "Digit"),
    (b"\x81\x01\x02", "expected str, got int"),
    (b"\x81\xa8anything\x81\x90\x02", "Digit"),
    (b"\x81\xa5label\xd4\x05x", "Digit.label"),
    (msgpack.packb(GOOD) + b"\x00", "trailing characters"),
]


@pytest.mark.parametrize(("data", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes(data, message):
    with pytest.raises(SampleDecodeError) as caught:
        unpack(data, Digit)
    assert message in str(caught.value)


@given(st.data())
def test_no_damage_escapes_as_another_error(data):
    raw = bytearray(pack(Digit(IMAGE, 1, "n", boxes=[Box(IMAGE, "x")], anything=[{"a": np.ones(2)}], color=Color.BLUE)))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    blob = bytes(raw)[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else bytes(raw)
    try:
        sample = unpack(blob, Digit)
    except SampleDecodeError:
        return
    assert isinstance(sample, Digit)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_sample_or_a_decode_error(data):
    with pytest.raises(SampleDecodeError):
        unpack(data, Digit)  # no 40 bytes hold an image and a label


def test_many_shapes_do_not_pile_up():
    @packable
    class R:
        x: NDArray[np.uint8]

    for n in range(3000):
        x = np.zeros(n, np.uint8)
        assert unpack(pack(R(x)), R).x.shape == (n,)


def test_a_large_array_is_copied_when_packed():
    big = np.zeros(100_000)
    data = pack(Box(big))
    big[:] = 1
    assert not unpack(data, Box).corner.any()
