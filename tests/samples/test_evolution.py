"""Schema evolution: what is said to be readable is read, with the same values; what is not is said field by field."""

import dataclasses
import enum
import json
import re
from collections.abc import Callable
from dataclasses import field
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import atdata
from atdata.errors import AtdataError, SampleDecodeError, SchemaError
from atdata.samples.evolution import Difference, check_readable, compare
from atdata.samples.fields import Shape
from atdata.samples.images import Image
from atdata.samples.packable import equal_values, pack, packable, unpack
from atdata.samples.schema import Schema
from atdata.testing import samples


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


class MoreColors(enum.Enum):
    RED = "r"
    BLUE = "b"
    GREEN = "g"


class Swapped(enum.Enum):
    RED = "b"
    BLUE = "r"


class Renamed(enum.Enum):
    CRIMSON = "r"
    BLUE = "b"
    RED = "r"  # noqa: PIE796 - the old name, kept


class Level(enum.IntEnum):
    LOW = 1


def cls(name: str, *fields: Any, doc: str | None = None) -> type:
    """A packable class of fields (name, annotation) or (name, annotation, default or `field`)."""
    made = dataclasses.make_dataclass(name, fields)
    made.__doc__ = doc
    return packable(made)


@packable
class Box:
    corner: NDArray[np.float64]
    label: str | None = None


BiggerBox = cls("Box", ("corner", NDArray[np.float64]), ("label", str | None, None), ("size", int, 1))
HarderBox = cls("Box", ("corner", NDArray[np.float64]), ("size", int))


@packable
class Tree:
    children: "list[Tree]"


@packable
class BigTree:
    children: "list[BigTree]"
    name: str = "root"


# -- one field ---------------------------------------------------------------------------------------------------

U8 = NDArray[np.uint8]
WIDER = [
    (int, int | None),
    (None, int | None),
    (int, Any),
    (str | None, Any),
    (list[int], Any),
    (dict[str, list[float]], Any),
    (Literal["a"], Literal["b", "a"]),
    (Literal["a", "b"], str),
    (Literal["a", None], str | None),
    (Literal["a"] | None, Literal["a", None]),
    (Literal[1, 2], int),
    (Literal[1, True], Any),
    (Color, MoreColors),
    (Color, Renamed),
    (U8, NDArray[Any]),
    (U8, np.ndarray),
    (Annotated[U8, Shape(3, 4)], Annotated[U8, Shape(3, None)]),
    (Annotated[U8, Shape(3, 4)], Annotated[U8, Shape("h", "w")]),
    (Annotated[U8, Shape(3, 4)], U8),
    (Annotated[U8 | None, Shape(3)], Annotated[NDArray[Any] | None, Shape(None)]),
    (list[int], list[int | None]),
    (tuple[int, int], tuple[int, ...]),
    (tuple[int, str], tuple[int | None, str]),
    (dict[str, int], dict[str, int | None]),
    (Box, BiggerBox),
    (list[Box], list[BiggerBox | None]),
    (Tree, BigTree),
]
OTHER = [
    (int, str),
    (int, float),
    (int, bool),
    (bool, int),
    (bytes, str),
    (bytes, Image),
    (datetime, str),
    (int, list[int]),
    (list[int], tuple[int, ...]),
    (Color, str),
    (str, Color),
    (Box, dict),
    (U8, Any),
    (U8, bytes),
    (Box, Any),
    (datetime, Any),
    (tuple[int, ...], Any),
    (list[datetime], Any),
    (U8, NDArray[np.uint16]),
    (U8, NDArray[np.int8]),
    (tuple[int, int], tuple[int]),
    (Literal[1], Literal[True]),
    (Literal[1], bool),
    (Literal["a"], Color),
    (list[int], list[str]),
    (dict[str, int], dict[str, str]),
]
NARROWER = [
    (int | None, int),
    (Any, int),
    (Any, dict),
    (Literal["a", "b"], Literal["a"]),
    (Literal["a", None], Literal["a"]),
    (Literal["a", None], str),
    (str, Literal["a"]),
    (MoreColors, Color),
    (Color, Swapped),
    (np.ndarray, U8),
    (U8, Annotated[U8, Shape(3)]),
    (Annotated[U8, Shape(None)], Annotated[U8, Shape(3)]),
    (Annotated[U8, Shape(3)], Annotated[U8, Shape(3, 3)]),
    (Annotated[U8, Shape("n", "m")], Annotated[U8, Shape("n", "n")]),
    (tuple[int, ...], tuple[int, int]),
    (list[int | None], list[int]),
]


def one(old: Any, new: Any) -> list[Difference]:
    before, now = cls("T", ("x", old)), cls("T", ("x", new))
    return list(compare(Schema.of(before), Schema.of(now)).differences)


@pytest.mark.parametrize(("old", "new"), WIDER, ids=str)
def test_a_wider_type_is_readable(old: Any, new: Any) -> None:
    found = compare(Schema.of(cls("T", ("x", old))), Schema.of(cls("T", ("x", new))))
    assert found.readable
    assert found.change == "minor"
    assert [d.kind for d in found.differences] in (["widened"], ["added"])
    assert all(d.readable for d in found.differences)


@pytest.mark.parametrize(("old", "new"), NARROWER, ids=str)
def test_a_narrower_type_is_not(old: Any, new: Any) -> None:
    (found,) = [d for d in one(old, new) if not d.readable]
    assert (found.kind, found.readable) == ("type" if (old, new) == (str, Literal["a"]) else "narrowed", False)
    assert found.path in ("x", "x[]")


@pytest.mark.parametrize(("old", "new"), OTHER, ids=str)
def test_another_type_is_not(old: Any, new: Any) -> None:
    (found,) = one(old, new)
    assert not found.readable
    assert found.kind in ("type", "narrowed")
    assert compare(Schema.of(cls("T", ("x", old))), Schema.of(cls("T", ("x", new)))).change == "major"


@pytest.mark.parametrize("hint", sorted({h for pair in [*WIDER, *OTHER, *NARROWER] for h in pair}, key=str), ids=str)
def test_the_same_type_has_no_difference(hint: Any) -> None:
    schema = Schema.of(cls("T", ("x", hint)))
    built = Schema.from_record(json.loads(json.dumps(schema.to_record())))
    assert Schema.of(built.sample_type()).cid == schema.cid
    for old, new in ((schema, built), (built, schema)):
        found = compare(old, new)
        assert (found.readable, found.change, found.differences) == (True, None, ())


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_what_is_readable_is_read_with_the_same_values(data: st.DataObject) -> None:
    old, new = data.draw(st.sampled_from([*WIDER, *OTHER, *NARROWER]))
    before, now = cls("T", ("x", old), ("same", int)), cls("T", ("x", new), ("same", int), ("extra", str, "e"))
    readable = compare(Schema.of(before), Schema.of(now)).readable
    sample = data.draw(samples(before))
    packed = pack(sample)
    if readable:
        back = unpack(packed, now)
        assert back.extra == "e"
        assert covers(msgspec.msgpack.decode(pack(back)), msgspec.msgpack.decode(packed))
        assert alike(back.x, unpack(packed, before).x)


def covers(new: Any, old: Any) -> bool:
    """Whether the bytes written again say the same, with added fields."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(k in new and covers(new[k], v) for k, v in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and len(new) == len(old) and all(map(covers, new, old))
    return type(new) is type(old) and (new == old or new != new)


def alike(a: Any, b: Any) -> bool:
    """Whether two values are the same, up to classes and enums that were defined twice."""
    if isinstance(a, enum.Enum):
        return a.name == b.name or a.value == b.value
    if dataclasses.is_dataclass(b) and not isinstance(b, Image):
        return all(alike(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(b))
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict):
        return type(a) is type(b) and a.keys() == b.keys() and all(alike(v, b[k]) for k, v in a.items())
    return type(a) is type(b) and equal_values(a, b)


# -- several fields ----------------------------------------------------------------------------------------------


def test_the_report_has_every_field_of_either() -> None:
    old = Schema.of(cls("T", ("a", int), ("gone", str), ("b", int, 1)))
    new = Schema.of(cls("T", ("a", int | None), ("b", int, 2), ("fresh", list[int], field(default_factory=list))))
    found = compare(old, new)
    assert [(f.name, f.old and f.old.name, f.new and f.new.name) for f in found.fields] == [
        ("a", "a", "a"),
        ("b", "b", "b"),
        ("fresh", None, "fresh"),
        ("gone", "gone", None),
    ]
    assert [(f.name, f.readable, [d.kind for d in f.differences]) for f in found.fields] == [
        ("a", True, ["widened"]),
        ("b", True, ["default"]),
        ("fresh", True, ["added"]),
        ("gone", False, ["removed"]),
    ]
    assert str(found).splitlines() == [
        "T 1.0.0 -> 1.0.0: major, older data cannot be read",
        "  ~ a: int -> int or None",
        "  ~ b: default 1 -> default 2",
        "  + fresh: list[int], with a default (list)",
        "  - gone: str, no default (older data has it)",
    ]


@pytest.mark.parametrize(
    ("old", "new", "change", "kinds"),
    [
        ([("x", int)], [("x", int), ("y", int)], "major", ["added"]),
        ([("x", int)], [("x", int), ("y", int, 0)], "minor", ["added"]),
        ([("x", int), ("y", int)], [("x", int)], "major", ["removed"]),
        ([("x", int, 1)], [("x", int)], "major", ["default"]),
        ([("x", int)], [("x", int, 1)], "minor", ["default"]),
        ([("x", int, 1)], [("x", int, 2)], "minor", ["default"]),
        ([("x", int), ("y", int)], [("y", int), ("x", int)], "minor", []),
        ([("x", int), ("y", str)], [("x", str), ("y", int)], "major", ["type", "type"]),
        ([("x", int)], [("x", int, field(kw_only=True))], None, []),
    ],
)
def test_changes_of_fields(old: list[Any], new: list[Any], change: str | None, kinds: list[str]) -> None:
    found = compare(Schema.of(cls("T", *old)), Schema.of(cls("T", *new)))
    assert found.change == change
    assert found.readable == (change != "major")
    assert [d.kind for d in found.differences] == kinds


def test_a_description_is_no_change() -> None:
    old, new = (Schema.of(cls("T", ("x", int), doc=doc)) for doc in ("Before.", "Now."))
    assert old != new
    assert (compare(old, new).change, compare(old, new).readable) == (None, True)


def test_differences_inside_nested_classes_have_their_path() -> None:
    old = Schema.of(cls("T", ("box", Box), ("boxes", dict[str, list[Box]])))
    new = Schema.of(cls("T", ("box", HarderBox), ("boxes", dict[str, list[HarderBox]])))
    found = compare(old, new)
    expected = [("size", "added"), ("label", "removed")]
    assert [(d.path, d.kind) for d in found.fields[0].differences] == [(f"box.{n}", k) for n, k in expected]
    assert [(d.path, d.kind) for d in found.fields[1].differences] == [(f"boxes{{}}[].{n}", k) for n, k in expected]
    assert not found.fields[1].readable  # also where the same class was looked at before


def test_dimensions_that_are_tied_together_narrow() -> None:
    free = [("image", Annotated[U8, Shape(None, None)]), ("mask", Annotated[U8, Shape("h", None)])]
    tied = [("image", Annotated[U8, Shape("h", "w")]), ("mask", Annotated[U8, Shape("h", "w")])]
    other = [("image", Annotated[U8, Shape("y", "x")]), ("mask", Annotated[U8, Shape("y", "x")])]
    fixed = [("image", Annotated[U8, Shape(4, 5)]), ("mask", Annotated[U8, Shape(4, 5)])]
    schemas = {
        k: Schema.of(cls("T", *v)) for k, v in {"free": free, "tied": tied, "other": other, "fixed": fixed}.items()
    }
    found = compare(schemas["free"], schemas["tied"])
    assert [(d.path, d.kind, d.readable) for d in found.differences if not d.readable] == [
        ("mask", "narrowed", False),
        ("mask", "narrowed", False),
    ]
    assert "dimension 'h' is also one of image" in found.differences[-2].reason
    for a, b in (("tied", "other"), ("fixed", "tied"), ("tied", "free")):
        assert compare(schemas[a], schemas[b]).readable, (a, b)
    assert not compare(schemas["tied"], schemas["fixed"]).readable


def test_classes_that_hold_each_other_end() -> None:
    found = compare(Schema.of(BigTree), Schema.of(Tree))
    assert [(d.path, d.kind) for d in found.differences] == [("children[].name", "removed"), ("name", "removed")]


def test_ten_thousand_fields_are_compared() -> None:
    old = Schema.of(cls("T", *((f"f{i}", int) for i in range(10_000))))
    new = Schema.of(cls("T", *((f"f{i}", int | None) for i in range(10_000))))
    assert len(compare(old, new).differences) == 10_000


# -- reading -----------------------------------------------------------------------------------------------------

V1 = cls("Digit", ("image", U8), ("label", int))
V2 = cls(
    "Digit",
    ("image", U8),
    ("label", int | None),
    ("note", str, "none"),
    ("boxes", list[Box], field(default_factory=list)),
)


def v1(n: int) -> list[Any]:
    return [V1(np.full((2, 2), i, np.uint8), i) for i in range(n)]


@pytest.mark.parametrize("manifest", [True, False])
def test_old_data_is_read_with_a_newer_class(tmp_path: Any, manifest: bool) -> None:
    store = atdata.LocalDiskStore(tmp_path)
    urls = store.write_shards(atdata.Dataset.from_samples(v1(7), V1), prefix="d", maxcount=3, manifest=manifest)
    newer = atdata.Dataset(urls, sample_type=V2)
    expected = [V2(s.image, s.label) for s in v1(7)]
    assert list(newer) == expected
    assert [newer[i] for i in range(7)] == expected
    assert newer[0].boxes is not newer[0].boxes
    batches = list(newer.ordered(batch_size=4))
    assert [b.note for b in batches] == [["none"] * 4, ["none"] * 3]
    assert [b.label for b in batches] == [[0, 1, 2, 3], [4, 5, 6]]
    assert batches[0].image.shape == (4, 2, 2)
    assert newer.to_arrow()["note"].to_pylist() == ["none"] * 7
    assert [s.note for s in newer.select_fields("note", "label")] == ["none"] * 7


def test_new_data_is_not_read_with_an_older_class_except_field_by_field(tmp_path: Any) -> None:
    store = atdata.LocalDiskStore(tmp_path)
    urls = store.write_shards(atdata.Dataset.from_samples([V2(s.image, s.label) for s in v1(3)], V2), prefix="d")
    with pytest.raises(SampleDecodeError, match="is not a field of the sample type"):
        list(atdata.Dataset(urls, sample_type=V1))
    few = atdata.Dataset(urls, sample_type=V2).select_fields("label", "image")
    assert [s.label for s in few] == [0, 1, 2]


def test_a_class_is_checked_against_data() -> None:
    check_readable(Schema.of(V1), V1)
    check_readable(Schema.of(V1), V2)
    with pytest.raises(SchemaError) as error:
        check_readable(Schema.of(V2, version="2.1.0"), V1, url="digits")
    assert str(error.value) == (
        "the data (Digit 2.1.0) cannot be read as Digit: label is int or None in the data and int in Digit (None is "
        "not allowed any more); note is not a field of Digit; add it, or read without a class and use select_fields; "
        "boxes is not a field of Digit; add it, or read without a class and use select_fields [digits]"
    )
    wanted = cls("Wanted", ("image", NDArray[np.float32]), ("label", int))
    with pytest.raises(SchemaError, match=re.escape("image is ndarray[uint8] in the data and ndarray[float32] in")):
        check_readable(Schema.of(V1), wanted)
    with pytest.raises(SchemaError, match="name is not in the data, and has no default in More") as error:
        check_readable(Schema.of(V1), cls("More", ("image", U8), ("label", int), ("name", str)))
    assert error.value.field == "More.name"
    many = cls("Many", *((f"f{i}", int) for i in range(20)))
    with pytest.raises(SchemaError, match=r"f4 is not in the data, and has no default in Many; and 17 more$"):
        check_readable(Schema.of(V1), many)


def test_a_default_that_no_schema_can_hold_is_a_default() -> None:
    timed = cls("Digit", ("image", U8), ("label", int), ("at", datetime, field(default_factory=datetime.now)))
    check_readable(Schema.of(V1), timed)
    assert isinstance(unpack(pack(v1(1)[0]), timed).at, datetime)
    wrong = cls("Digit", ("image", U8), ("label", int), ("size", int, "large"))
    check_readable(Schema.of(V1), wrong)
    with pytest.raises(SchemaError):
        check_readable(Schema.of(V1), int)


# -- classes out of schemas --------------------------------------------------------------------------------------

LEAVES = [
    str, int, float, bool, bytes, None, datetime, Image, Color, Level, Any, list, dict, tuple, Box, Tree, np.ndarray,
    U8, NDArray[np.str_], NDArray[np.datetime64], NDArray[np.void], Annotated[U8, Shape("h", "w", 3)],
    Annotated[NDArray[np.float32] | None, Shape("h", None)], Literal["a", 1, True, None], Literal[2**60],
]  # fmt: skip


def wrapped(hints: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        hints.map(lambda h: h if h in (None, Any) else h | None),
        hints.map(lambda h: list[h]),
        hints.map(lambda h: dict[str, h]),
        hints.map(lambda h: tuple[h, ...]),
        st.lists(hints, max_size=3).map(lambda hs: tuple[tuple(hs)] if hs else tuple[()]),
        st.lists(hints, min_size=1, max_size=2).map(lambda hs: cls("Inner", *((f"i{i}", h) for i, h in enumerate(hs)))),
    )


HINTS = st.recursive(st.sampled_from(LEAVES), wrapped, max_leaves=4)


@st.composite
def types_with_samples(draw: Callable[..., Any]) -> tuple[type, Any, set[str]]:
    """A class of any fields, some with defaults; a sample of it; and the fields that have one."""
    hints = draw(st.lists(HINTS, min_size=1, max_size=4))
    plain = cls("Sample", *((f"f{i}", h) for i, h in enumerate(hints)))
    optional = draw(st.sets(st.sampled_from([f"f{i}" for i in range(len(hints))])))
    usual = draw(samples(plain))
    fields: list[Any] = []
    for i, hint in enumerate(hints):
        if f"f{i}" in optional:
            default = getattr(usual, f"f{i}")
            fields.append((f"f{i}", hint, field(default_factory=lambda d=default: d)))
        else:
            fields.append((f"f{i}", hint, field(kw_only=bool(optional))))
    made = cls("Sample", *fields)
    return made, draw(samples(made)), optional


@given(types_with_samples(), st.booleans(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_class_out_of_a_schema_behaves_like_the_original(
    made: tuple[type, Any, set[str]], network: bool, data: st.DataObject
) -> None:
    original, sample, optional = made
    try:
        schema = Schema.of(original)
    except SchemaError:
        assume(False)  # a default too large to be stored, or of lone surrogates
        raise
    record = schema.to_network_record("2025-01-02T03:04:05Z") if network else schema.to_record()
    built = Schema.from_record(json.loads(json.dumps(record, sort_keys=network))).sample_type()
    packed = pack(sample)

    back = unpack(packed, built)
    assert pack(back) == packed  # what the one writes the other reads, and writes the same
    assert alike(back, unpack(packed, original))
    assert back == unpack(packed, built)
    again = built(**{f.name: getattr(back, f.name) for f in dataclasses.fields(built)})
    assert pack(again) == packed

    lacking = msgspec.msgpack.decode(packed)
    for name in optional:
        del lacking[name]
    if lacking or not optional:
        less = msgspec.msgpack.encode(lacking)
        assert pack(unpack(less, built)) == pack(unpack(less, original))

    damaged = msgspec.msgpack.decode(packed)
    name = data.draw(st.sampled_from(sorted(damaged)))
    damaged[name] = data.draw(st.sampled_from([0, 1.5, "?", b"?", None, [], {}, [1, "x"], {"k": 1}]))
    assert outcome(msgspec.msgpack.encode(damaged), built) == outcome(msgspec.msgpack.encode(damaged), original)


def outcome(data: bytes, sample_type: type) -> Any:
    """The bytes written again, or what was wrong with them."""
    try:
        return pack(unpack(data, sample_type))
    except AtdataError as error:
        return str(error)
