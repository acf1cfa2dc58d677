"""Schemas: class to record to class without loss, in both forms; foreign records; hostile records."""

import base64
import concurrent.futures
import copy
import dataclasses
import enum
import gc
import inspect
import json
import multiprocessing
import pickle
import subprocess
import sys
import typing
import weakref
from dataclasses import field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Optional

import cloudpickle
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from atdata.errors import SampleDecodeError, SchemaError
from atdata.samples.arrays import array_to_bytes
from atdata.samples.fields import Array, ListOf, OptionalOf, Primitive, Shape
from atdata.samples.images import Image
from atdata.samples.packable import equal_values, pack, packable, unpack
from atdata.samples.schema import Schema, SchemaField
from atdata.testing import samples

NOW = "2025-01-02T03:04:05.000006+00:00"


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"
    ROUGE = "r"  # noqa: PIE796 - an alias


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2**60


class Word(enum.StrEnum):
    YES = "yes"


class Shade(str, enum.Enum):  # noqa: UP042 - the older way to write it
    DARK = "d"


class Mixed(enum.Enum):
    NUMBER = 1
    TEXT = "1"


@packable
class Box:
    """Where something is."""

    corner: NDArray[np.float64]
    label: str | None = None
    size: int = field(default=2**62, kw_only=True)


@packable
class Tree:
    children: list["Tree"]
    parent: Optional["Tree"] = None


@packable
class Left:
    right: "Right | None"
    trees: list[Tree]


@packable
class Right:
    lefts: dict[str, Left]
    me: "Right | None" = None


@packable
class Everything:
    """Every type of field.

    In several lines, ünïcode.
    """

    s: str
    i: int
    f: float
    b: bool
    raw: bytes
    nothing: None
    undeclared: NDArray
    half: NDArray[np.float16]
    long: NDArray[np.longdouble]
    cplx: NDArray[np.complex64]
    text: NDArray[np.str_]
    octets: NDArray[np.bytes_]
    times: NDArray[np.datetime64]
    spans: NDArray[np.timedelta64]
    records: NDArray[np.void]
    flags: NDArray[np.bool_]
    shaped: Annotated[NDArray[np.uint8], Shape("h", 3, None)]
    named: Annotated[NDArray[np.uint8], Shape("h", "w")]
    scalar: Annotated[NDArray, Shape()]
    maybe: Annotated[NDArray[np.int32] | None, Shape(2)]
    opt: int | None
    anything: Any
    opt_any: Any | None
    numbers: list[int]
    arrays: list[NDArray[np.float32]]
    opts: list[int | None]
    pair: tuple[int, NDArray[np.int8] | None]
    nopair: tuple[()]
    many: tuple[Color, ...]
    loose_list: list
    loose_tuple: tuple
    loose_dict: dict
    table: dict[str, list[Box]]
    box: Box
    tree: Tree
    when: datetime
    color: Color
    level: Level
    word: Word
    shade: Shade
    mixed: Mixed
    lit: Literal["a", "b"]
    bits: Literal[1, 2**61]
    lits: Literal["a", 1, True, None]
    opt_lit: Literal["x"] | None
    picture: Image


def _defaults() -> list[tuple[str, Any, Any]]:
    box = Box(np.ones(2), "x")
    return [
        ("s", str, "text"),
        ("empty", str, ""),
        ("i", int, -5),
        ("safe", int, 2**53 - 1),
        ("unsafe", int, 2**53),
        ("huge", int, 2**64 - 1),
        ("f", float, 0.1),
        ("whole", float, 1),
        ("nan", float, float("nan")),
        ("inf", float, float("-inf")),
        ("b", bool, False),
        ("raw", bytes, b"\x00\xff"),
        ("none", int | None, None),
        ("some", int | None, 5),
        ("nothing", None, None),
        ("any_none", Any, None),
        ("any_int", Any, 5),
        ("opt_any", Any | None, None),
        ("lit_none", Literal["a", None], None),
        ("array", NDArray[np.int16], np.arange(3, dtype=">i2")),
        ("opt_array", NDArray[np.float32] | None, np.zeros((0, 2), np.float32)),
        ("record", NDArray[np.void], np.zeros((), [("a", "i4"), ("b", "U2")])),
        ("items", list[int], [1, 2]),
        ("no_items", list[int], []),
        ("floats", list[float], [1.5]),
        ("table", dict[str, int], {"b": 1, "a": 2, "$type": 3}),
        ("no_table", dict[str, int], {}),
        ("mixed", dict, {"k": [np.ones(2), {"x": b"y"}]}),
        ("pair", tuple[int, str], (1, "a")),
        ("when", datetime, datetime(2020, 1, 2, tzinfo=UTC)),
        ("color", Color, Color.BLUE),
        ("alias", Color, Color.ROUGE),
        ("level", Level, Level.HIGH),
        ("word", Word, Word.YES),
        ("picture", Image, Image(b"x")),
        ("box", Box, box),
        ("boxes", list[Box], [box, box]),
        ("tree", Tree, Tree([Tree([])])),
    ]


def _with_defaults() -> type:
    fields = []
    for name, hint, value in _defaults():
        fields.append((name, hint, field(default_factory=lambda value=value: copy.deepcopy(value))))
    return packable(dataclasses.make_dataclass("Defaults", fields, eq=False))


Defaults = _with_defaults()
CLASSES = [Box, Tree, Left, Right, Everything, Defaults]


def through_json(record: Any, sort: bool = False) -> Any:
    return json.loads(json.dumps(record, sort_keys=sort))


def walk(value: Any) -> Any:
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(item)


# -- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_the_local_form_loses_nothing(cls):
    schema = Schema.of(cls, version="1.2.3")
    back = Schema.from_record(through_json(schema.to_record()))
    assert back == schema
    assert back.to_record() == schema.to_record()
    assert (back.cid, back.version, back.description) == (schema.cid, "1.2.3", schema.description)
    assert hash(back) == hash(schema)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("body", [False, True], ids=["properties", "schemaBody"])
def test_the_network_form_loses_nothing_even_when_a_server_sorts_it(cls, body):
    schema = Schema.of(cls, version="1.2.3-rc.1+b5")
    record = through_json(schema.to_network_record(NOW), sort=True)
    if body:
        record["schema"] = {"schemaBody": record["schema"]}
    back = Schema.from_record(record)
    assert back == schema
    assert [f.name for f in back.fields] == [f.name for f in schema.fields]
    assert back.to_network_record(NOW) == schema.to_network_record(NOW)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_the_network_form_is_what_at_proto_can_hold(cls):
    record = Schema.of(cls).to_network_record(NOW)
    for value in walk(record):
        assert not isinstance(value, float)
        if type(value) is int:
            assert abs(value) < 2**53
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            # Names with a meaning of their own in AT Proto or JSON Schema only where they mean it.
            assert value is record or value is record["schema"] or "$type" not in value
    schema = record["schema"]
    assert {k: v for k, v in record.items() if k not in ("schema", "description", "name")} == {
        "$type": "science.alt.dataset.schema",
        "version": "1.0.0",
        "schemaType": "jsonSchema",
        "createdAt": NOW,
        "atdataSchemaVersion": 1,
    }
    assert schema["$type"] == "science.alt.dataset.schema#jsonSchemaFormat"
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert schema["type"] == "object"
    assert schema.get("required", []) == [f.name for f in Schema.of(cls).fields if not f.optional]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_a_built_class_has_the_schema_it_was_built_from(cls):
    schema = Schema.of(cls)
    built = schema.sample_type()
    assert Schema.of(built) == schema
    assert built is not cls
    assert (built.__name__, built.__doc__ if schema.description else None) == (cls.__name__, schema.description)


@settings(max_examples=30)
@given(st.one_of(samples(Box), samples(Tree), samples(Left), samples(Everything)))
def test_a_built_class_reads_and_writes_the_same_bytes(sample):
    data = pack(sample)
    built = Schema.of(type(sample)).sample_type()
    back = unpack(data, built)
    assert pack(back) == data
    assert back == unpack(data, built)
    assert [f.name for f in dataclasses.fields(built)] == [f.name for f in dataclasses.fields(type(sample))]


def test_built_nested_classes_and_enums_are_consistent():
    everything = Schema.of(Everything).sample_type()
    hints = typing.get_type_hints(everything)
    assert hints["box"] is Schema.of(Box).sample_type()
    assert hints["tree"] is Schema.of(Tree).sample_type()
    color = hints["color"]
    assert hints["many"] == tuple[color, ...]
    assert [(n, m.value) for n, m in color.__members__.items()] == [("RED", "r"), ("BLUE", "b"), ("ROUGE", "r")]
    assert color.ROUGE is color.RED
    assert issubclass(hints["level"], enum.IntEnum)
    assert issubclass(hints["word"], enum.StrEnum)
    assert issubclass(hints["shade"], str)
    assert hints["level"].HIGH == 2**60
    tree = hints["tree"]
    assert unpack(pack(tree([tree([])])), tree) == tree([tree([])])


def test_classes_that_hold_each_other():
    left = Left(Right({"a": Left(None, [Tree([])])}, Right({})), [])
    built = Schema.of(Left).sample_type()
    back = unpack(pack(left), built)
    assert pack(back) == pack(left)
    assert type(back.right.lefts["a"]) is built
    assert type(back.right.me) is type(back.right)


# -- defaults --------------------------------------------------------------------------------------------------------


def test_every_default_comes_back_as_it_was():
    built = Schema.from_record(through_json(Schema.of(Defaults).to_network_record(NOW), sort=True)).sample_type()
    one = built()
    assert pack(one) == pack(Defaults())
    for name, _, value in _defaults():
        mine = getattr(one, name)
        if name in ("color", "alias", "level", "word"):
            assert (mine.name, mine.value) == (value.name, value.value)
        elif name not in ("box", "boxes", "tree"):
            assert equal_values(mine, value), name
            assert type(mine) is (float if name == "whole" else type(value)), name
    assert unpack(b"\x80", built) == one


def test_defaults_are_written_readably_where_that_is_exact():
    fields = {f["name"]: f for f in Schema.of(Defaults).to_record()["fields"]}
    assert fields["s"] == {
        "name": "s",
        "fieldType": {"$type": "local#primitive", "primitive": "str"},
        "optional": True,
        "default": "text",
    }
    plain = ("s", "empty", "i", "safe", "b", "none", "some", "items", "no_items", "no_table", "pair", "color", "when")
    for name in plain:
        assert "default" in fields[name], name
    for name in ("unsafe", "huge", "f", "whole", "nan", "raw", "array", "floats", "table", "mixed", "box", "level"):
        assert "default" not in fields[name], name
        assert isinstance(fields[name]["defaultMsgpack"], str)
    data = base64.b64decode(fields["array"]["defaultMsgpack"])
    assert msgpack.unpackb(data) == array_to_bytes(np.arange(3, dtype=">i2"))


def test_mutable_defaults_are_not_shared_and_arrays_are_writable():
    built = Schema.of(Defaults).sample_type()
    one, other = built(), built()
    one.items.append(3)
    one.array[0] = 9
    one.box.label = "changed"
    assert (other.items, other.array[0], other.box.label) == ([1, 2], 0, "x")
    assert built.s == "text"  # as a class written by hand has it


def test_a_default_that_is_new_each_time_is_no_part_of_the_schema():
    @packable
    class Event:
        name: str
        at: datetime = field(default_factory=lambda: datetime.now(UTC))
        token: bytes = field(default_factory=lambda: np.random.default_rng().bytes(8))
        tags: list[str] = field(default_factory=list)

    schema = Schema.of(Event)
    assert [f.optional for f in schema.fields] == [False, False, False, True]
    assert len({Schema.of(Event).cid for _ in range(20)}) == 1


def test_field_defaults_of_a_schema():
    schema = Schema.of(Box)
    corner, label, size = schema.fields
    assert (corner.optional, label.optional, size.optional) == (False, True, True)
    assert (label.default_value(), size.default_value()) == (None, 2**62)
    with pytest.raises(SchemaError, match="corner: the field has no default"):
        corner.default_value()
    assert isinstance(corner, SchemaField)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (int, None, r"A\.x: the default does not fit: expected int, got NoneType"),
        (str, 5, r"A\.x: the default does not fit: expected str, got int"),
        (tuple[int, str], (1, 2), r"A\.x: the default does not fit at \[1\]: expected str, got int"),
        (Any, object, "cannot be stored without a declared type"),
        (str, "\ud800", "lone surrogate"),
        (bytes, b"x" * 2_000_000, "a default of 2000005 bytes is too large"),
    ],
)
def test_defaults_that_do_not_fit(hint, value, message):
    cls = packable(dataclasses.make_dataclass("A", [("x", hint, field(default=value))]))
    with pytest.raises(SchemaError, match=message):
        Schema.of(cls)


# -- identity --------------------------------------------------------------------------------------------------------


def made(name: str = "A", **kinds: Any) -> type:
    fields = []
    for key, kind in kinds.items():
        fields.append((key, *kind) if isinstance(kind, tuple) else (key, kind))
    return packable(dataclasses.make_dataclass(name, fields, eq=False))


def test_the_cid_is_fixed():
    # Any change here makes every dataset written before another dataset.
    assert Schema.of(Box).cid == "bafyreiaw3ero7yjloamabtqotphb2fivyscfnhqvhfpva5mr4phzijsmh4"
    assert Schema.of(Everything).cid == "bafyreiaaa2ocjtg4lqleacdzswezkjd3xlfbv3gx7rqgaleg2mzi3iiomq"


def test_the_cid_depends_on_what_decides_how_bytes_are_read():
    f32 = NDArray[np.float32]
    classes = [
        made(x=int, y=str),
        made(y=str, x=int),
        made("B", x=int, y=str),
        made(x=int),
        made(x=str),
        made(x=int | None),
        made(x=(int, 0)),
        made(x=(int, 1)),
        made(x=(float, 1.0)),
        made(x=NDArray),
        made(x=f32),
        made(x=NDArray[np.float64]),
        made(x=Annotated[f32, Shape(2)]),
        made(x=Annotated[f32, Shape(None)]),
        made(x=Annotated[f32, Shape("n")]),
        made(x=list[int]),
        made(x=tuple[int, ...]),
        made(x=tuple[int]),
        made(x=dict[str, int]),
        made(x=Color),
        made(x=Literal["r", "b"]),
        made(x=Literal[1, 2]),
        made(x=Literal[True]),
        made(x=Literal[1]),
        made(x=datetime),
        made(x=bytes),
        made(x=Image),
        made(x=Any),
        made(x=made("N", a=int)),
        made(x=made("N", a=str)),
        made(x=made("M", a=int)),
    ]
    assert len({Schema.of(c).cid for c in classes}) == len(classes)


def test_the_cid_does_not_depend_on_the_rest():
    @packable
    class A:
        """Documented."""

        x: int
        box: Box

    schema = Schema.of(A)
    other = made("A", x=(int, field(kw_only=True)), box=Box)
    assert Schema.of(other).cid == schema.cid
    assert Schema.of(A, version="3.0.0").cid == schema.cid
    assert dataclasses.replace(schema, description=None).cid == schema.cid
    assert dataclasses.replace(schema, description=None) != schema
    assert Schema.of(A, version="3.0.0") != schema
    record = schema.to_record()
    record["fields"][1]["fieldType"]["description"] = "another"
    assert Schema.from_record(record).cid == schema.cid


def test_one_and_true_are_not_the_same_literal():
    one, true = Schema.of(made(x=Literal["a", 1])), Schema.of(made(x=Literal["a", True]))
    assert one != true
    assert one.sample_type() is not true.sample_type()
    assert type(unpack(msgpack.packb({"x": True}), true.sample_type()).x) is bool
    with pytest.raises(SampleDecodeError, match="expected one of 'a', 1, got bool"):
        unpack(msgpack.packb({"x": True}), one.sample_type())


def test_the_same_content_gives_the_same_class():
    built = Schema.of(Box).sample_type()
    assert Schema.of(Box, version="2.0.0").sample_type() is built
    assert Schema.from_record(Schema.of(Box).to_record()).sample_type() is built
    assert Schema.from_record(through_json(Schema.of(Box).to_network_record(NOW), sort=True)).sample_type() is built
    assert isinstance(built(np.ones(1)), Schema.of(Box).sample_type())
    assert made("Box", corner=NDArray[np.float64]) is not built


def test_the_same_content_gives_the_same_class_from_several_threads():
    record = Schema.of(made("Raced", **{f"f{i}": (int, i) for i in range(50)})).to_record()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        built = list(pool.map(lambda _: Schema.from_record(record).sample_type(), range(32)))
    assert len(set(built)) == 1


def test_classes_that_nobody_uses_do_not_pile_up():
    refs = []
    for i in range(600):
        cls = Schema.of(made(f"Passing{i}", x=int)).sample_type()
        refs.append(weakref.ref(cls))
    del cls
    gc.collect()
    assert sum(ref() is not None for ref in refs) <= 256


def test_a_class_in_use_stays_the_same_after_many_others():
    mine = Schema.of(made("Mine", x=int)).sample_type()
    for i in range(400):
        Schema.of(made(f"Other{i}", x=int)).sample_type()
    assert Schema.of(made("Mine", x=int)).sample_type() is mine


# -- behaviour of built classes --------------------------------------------------------------------------------------


def test_a_built_class_behaves_like_one_written_by_hand():
    @packable
    class Digit:
        image: NDArray[np.uint8]
        label: int
        note: str = "-"
        extra: int = field(default=1, kw_only=True)
        must: int = field(kw_only=True)

    built = Schema.of(Digit).sample_type()
    image = np.eye(2, dtype=np.uint8)
    one = built(image, 3, must=4)
    assert repr(one) == repr(Digit(image, 3, must=4)).replace(Digit.__qualname__, "Digit")
    assert one == built(image.copy(), 3, must=4)
    assert one != built(image, 4, must=4)
    assert [str(p) for p in inspect.signature(built).parameters.values()] == [
        str(p) for p in inspect.signature(Digit).parameters.values()
    ]
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)
    with pytest.raises(TypeError, match="missing 1 required"):
        built(image, 3)
    assert built.from_bytes(one.packed) == one
    assert built.from_data({"image": image, "label": 3, "must": 4}) == one
    assert set(one.as_wds) == {"__key__", "msgpack"}
    assert dataclasses.replace(one, label=9).label == 9
    with pytest.raises(SampleDecodeError, match=r"^Digit\.label: expected int, got str"):
        built.from_bytes(msgpack.packb({"image": array_to_bytes(image), "label": "x", "must": 1}))


def test_a_required_field_after_an_optional_one_is_given_by_name():
    record = {
        "name": "A",
        "fields": [
            {"name": "a", "fieldType": {"kind": "primitive", "primitive": "int"}, "optional": True},
            {"name": "b", "fieldType": {"kind": "primitive", "primitive": "str"}, "optional": False},
            {"name": "c", "fieldType": {"kind": "primitive", "primitive": "str"}, "optional": True},
        ],
    }
    built = Schema.from_record(record).sample_type()
    assert built(b="x") == built(None, None, b="x")
    assert list(msgpack.unpackb(built(b="x").packed)) == ["a", "b", "c"]
    assert unpack(msgpack.packb({"b": "x"}), built) == built(b="x")
    assert Schema.of(built) == Schema.from_record(record)


@pytest.mark.parametrize(
    "name", ["mro", "self", "cls", "name", "fields", "field", "type", "_x", "größe", "match", "data"]
)
def test_awkward_field_names(name):
    for default in ({}, {"default": 3}):
        f = {"name": name, "fieldType": {"$type": "local#primitive", "primitive": "int"}, "optional": False, **default}
        built = Schema.from_record({"name": "A", "fields": [f]}).sample_type()
        assert getattr(unpack(pack(built(5)), built), name) == 5
        if default:
            assert getattr(built(), name) == 3
        else:
            with pytest.raises(TypeError, match="missing 1 required"):
                built()


def test_instances_and_classes_are_pickled():
    for cls in CLASSES:
        built = Schema.of(cls).sample_type()
        assert pickle.loads(pickle.dumps(built)) is built
        assert copy.deepcopy(built) is built
    built = Schema.of(Everything).sample_type()
    hints = typing.get_type_hints(built)
    for part in (hints["color"], hints["color"].RED, hints["level"].HIGH, hints["word"].YES, hints["mixed"].TEXT):
        assert pickle.loads(pickle.dumps(part)) is part
    right = typing.get_args(typing.get_type_hints(Schema.of(Left).sample_type())["right"])[0]
    assert pickle.loads(pickle.dumps(right)) is right  # a class that exists only inside another's schema
    one = Schema.of(Defaults).sample_type()(array=np.arange(3, dtype=np.int16))  # NumPy pickles in native order
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(one, protocol))
        assert back.packed == one.packed
        assert type(back) is type(one)


def test_a_class_derived_from_a_built_one_is_pickled_by_its_name():
    assert pickle.loads(pickle.dumps(Derived)) is Derived
    one = Derived(np.ones(1))
    assert pickle.loads(pickle.dumps(one)) == one
    assert one.area() == 1


@packable
class Derived(Schema.of(Box).sample_type()):  # type: ignore[misc]
    def area(self):
        return self.corner.size


def test_built_classes_travel_to_processes_that_never_saw_them():
    built = Schema.of(Defaults).sample_type()
    one = built(i=7, array=np.arange(3, dtype=np.int16))  # NumPy pickles in native order
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(pack, one).result(60) == one.packed
        back = pool.submit(unpack, one.packed, built).result(60)
        assert pool.submit(Schema.of, built).result(60) == Schema.of(built)
    assert type(back) is built
    assert back.packed == one.packed


def test_built_classes_travel_by_cloudpickle(tmp_path):
    built = Schema.of(Defaults).sample_type()
    (tmp_path / "one").write_bytes(cloudpickle.dumps((built, built(i=7))))
    code = (
        "import pickle, sys; cls, one = pickle.load(open(sys.argv[1], 'rb')); "
        "assert cls.from_bytes(one.packed).packed == one.packed; print(one.i)"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "one"], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("7\n", "")


def test_schemas_are_pickled():
    for cls in CLASSES:
        schema = Schema.of(cls, version="2.0.0")
        assert pickle.loads(pickle.dumps(schema)) == schema


# -- descriptions, names, versions -----------------------------------------------------------------------------------


def test_descriptions():
    @packable
    class Bare:
        x: int
        y: str = "a: b"

    @packable
    class Named:
        """Named(x) is what this is."""

        x: int

    assert Schema.of(Bare).description is None  # not the text dataclasses write
    assert Schema.of(made("A", x=(int, field(kw_only=True)))).description is None
    assert Schema.of(Named).description == "Named(x) is what this is."
    assert Schema.of(Everything).description == "Every type of field.\n\nIn several lines, ünïcode."
    assert Schema.of(Everything).to_record()["fields"][33]["fieldType"]["description"] == "Where something is."
    long = dataclasses.replace(Schema.of(Bare), description="é" * 4000).to_network_record(NOW)["description"]
    assert long == "é" * 2500


@pytest.mark.parametrize("version", ["1.0.0", "0.1.2", "1.0.0-rc.1", "1.0.0+build.5", "10.20.30-a+b"])
def test_versions(version):
    assert Schema.of(Box, version=version).to_network_record(NOW)["version"] == version


@pytest.mark.parametrize(
    "version", ["", "1", "1.0", "v1.0.0", "01.0.0", "1.0.0\n", "1.0.0'", "1.0.0; x", 1, None, "1" * 200]
)
def test_what_is_no_version(version):
    with pytest.raises(SchemaError, match=r"is not a version; write major\.minor\.patch"):
        Schema.of(Box, version=version)


def test_records_of_others_may_have_other_versions_but_are_not_published_so():
    record = {**Schema.of(Box).to_record(), "version": "v2"}
    schema = Schema.from_record(record)
    assert schema.version == "v2"
    with pytest.raises(SchemaError, match=r"version 'v2' is not major\.minor\.patch"):
        schema.to_network_record(NOW)


def test_a_name_too_long_for_the_network():
    schema = Schema.of(made("A" * 101, x=int))
    assert Schema.from_record(schema.to_record()) == schema
    with pytest.raises(SchemaError, match="at most 100 bytes"):
        schema.to_network_record(NOW)


def test_what_is_no_sample_type():
    for cls in (int, dict, 3, None):
        with pytest.raises(SchemaError, match="is not a sample type"):
            Schema.of(cls)


def test_too_deep_and_too_wide_classes():
    hint: Any = int
    for _ in range(31):
        hint = list[hint]
    Schema.of(made(x=hint))
    with pytest.raises(SchemaError, match="nested more than 32 deep"):
        Schema.of(made(x=list[hint]))
    cls = made("N0", x=int)
    for i in range(16):  # each holds two of the one before: 2**16 when written out
        cls = made(f"N{i + 1}", a=cls, b=cls)
    with pytest.raises(SchemaError, match="more than 50000 parts"):
        Schema.of(cls)


# -- records of others -----------------------------------------------------------------------------------------------


def local(*fields: Any, name: str = "A", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "version": "1.0.0",
        "fields": [{"name": n, "fieldType": t, "optional": o} for n, t, o in fields],
        "description": "A(v: NDArray, n: int)",
        "createdAt": "2025-01-01T00:00:00+00:00",
        "$ref": "atdata://local/schema/A@1.0.0",
        **more,
    }


def test_a_record_of_the_public_implementation():
    schema = Schema.from_record(
        local(
            ("image", {"$type": "local#ndarray", "dtype": "float32"}, False),
            ("mask", {"$type": "local#ndarray", "dtype": "float32"}, True),
            ("label", {"$type": "local#primitive", "primitive": "str"}, False),
            ("score", {"$type": "local#primitive", "primitive": "float"}, True),
            ("tags", {"$type": "local#array", "items": {"$type": "local#primitive", "primitive": "str"}}, False),
            ("table", {"$type": "local#dataframe"}, False),
            name="my.module.A",
        )
    )
    assert schema.name == "A"
    assert {f.name: f.type for f in schema.fields} == {
        "image": Array(),
        "mask": OptionalOf(Array()),
        "label": Primitive(str),
        "score": OptionalOf(Primitive(float)),
        "tags": ListOf(Primitive(str)),
        "table": Primitive(bytes),
    }
    built = schema.sample_type()
    one = built(np.arange(3), label="x", tags=[], table=b"")  # float32 was only the default
    assert (one.mask, one.score) == (None, None)
    assert unpack(pack(one), built) == one


@pytest.mark.parametrize(
    "tag", ["local#ndarray", "science.alt.dataset.schema#ndarray", "#ndarray", "ndarray", "a#b#ndarray"]
)
@pytest.mark.parametrize("key", ["$type", "kind"])
def test_any_prefix_of_a_kind(tag, key):
    assert Schema.from_record(local(("x", {key: tag}, False))).fields[0].type == Array()


def test_what_others_say_about_shapes():
    node = {"$type": "local#ndarray", "dtype": "uint8", "shape": [None, 3], "dimensionNames": ["h", "w"]}
    assert Schema.from_record(local(("x", node, False))).fields[0].type == Array(None, (None, 3))
    assert (
        Schema.from_record(local(("x", {"$type": "local#structured"}, False))).fields[0].type.name
        == "ndarray[structured]"
    )


def network(properties: dict[str, Any], required: Any = (), **more: Any) -> dict[str, Any]:
    return {
        "$type": "science.alt.dataset.schema",
        "name": "A",
        "version": "1.0.0",
        "schemaType": "jsonSchema",
        "schema": {"type": "object", "properties": properties, "required": list(required), **more},
        "createdAt": NOW,
        "atdataSchemaVersion": 1,
    }


NDARRAY = {"$ref": "https://alt.science/schemas/atdata-ndarray-bytes/1.0.0#/$defs/ndarray"}


def test_a_network_record_of_the_public_implementation():
    properties = {
        "v": NDARRAY,
        "n": {"type": "integer"},
        "f": {"type": "number"},
        "b": {"type": "boolean"},
        "raw": {"type": "string", "format": "byte", "contentEncoding": "base64"},
        "enc": {"type": "string", "contentEncoding": "base64"},
        "text": {"type": "string", "format": "date-time"},
        "items": {"type": "array", "items": {"type": "array", "items": NDARRAY}},
        "old": {"$ref": "https://alt.science/schemas/atdata-ndarray-bytes/1.1.0#/$defs/ndarray"},
        "sparse": {"$ref": "https://alt.science/schemas/atdata-sparse-bytes/1.0.0#/$defs/sparse"},
        "opt": {"type": "string"},
        "null": {"type": ["integer", "null"]},
        "map": {"type": "object"},
        "what": {"description": "nothing said"},
    }
    schema = Schema.from_record(network(properties, [n for n in properties if n != "opt"]))
    assert {f.name: f.type.name for f in schema.fields} == {
        "v": "ndarray",
        "n": "int",
        "f": "float",
        "b": "bool",
        "raw": "bytes",
        "enc": "bytes",
        "text": "str",
        "items": "list[list[ndarray]]",
        "old": "ndarray",
        "sparse": "bytes",
        "opt": "str or None",
        "null": "int or None",
        "map": "dict[str, any]",
        "what": "any",
    }
    assert [f.name for f in schema.fields if f.optional] == ["opt"]


def test_the_same_type_stored_by_others_in_both_forms_is_one():
    in_local = local(
        ("v", {"$type": "local#ndarray", "dtype": "float32"}, True),
        ("n", {"$type": "local#primitive", "primitive": "int"}, True),
    )
    in_network = network({"v": NDARRAY, "n": {"type": "integer"}})
    assert Schema.from_record(in_local).cid == Schema.from_record(in_network).cid
    assert Schema.from_record(in_local).sample_type() is Schema.from_record(in_network).sample_type()

    @packable
    class A:
        v: NDArray | None = None
        n: int | None = None

    assert Schema.of(A).cid == Schema.from_record(in_local).cid
    # And ours, for such a class, is exactly what others write.
    record = Schema.of(A).to_network_record(NOW)["schema"]
    assert record["properties"] == {"v": NDARRAY, "n": {"type": "integer"}}
    assert "required" not in record
    assert record["arrayFormatVersions"] == {"ndarrayBytes": "1.0.0"}


def test_properties_a_server_added_or_left_out_of_the_order():
    record = network({"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {"type": "integer"}}, "abc")
    record["schema"]["propertyOrder"] = ["c", "gone", "a", 5]
    assert [f.name for f in Schema.from_record(record).fields] == ["c", "a", "b"]


# What a reader that knows only the public kinds does with our records.
PUBLIC_KINDS = {
    "primitive",
    "ndarray",
    "structured",
    "array",
    "ref",
    "sparse",
    "arrow_tensor",
    "safetensors",
    "dataframe",
}


def test_our_records_use_the_public_kinds_where_there_are_any():
    fields = {f["name"]: f["fieldType"] for f in Schema.of(Everything).to_record()["fields"]}
    own = {n for n, t in fields.items() if t["$type"].removeprefix("local#") not in PUBLIC_KINDS}
    assert own == {
        "nothing", "anything", "opt_any", "pair", "nopair", "loose_dict", "table", "box", "tree", "mixed", "lits",
    }  # fmt: skip
    for node in fields.values():
        assert node["$type"].startswith("local#")
        if node["$type"] == "local#primitive":
            assert node["primitive"] in ("str", "int", "float", "bool", "bytes")
        if node["$type"] == "local#ndarray":
            assert isinstance(node["dtype"], str)
    assert fields["when"] == {"$type": "local#primitive", "primitive": "str", "format": "date-time"}
    assert fields["shaped"] == {
        "$type": "local#ndarray",
        "dtype": "uint8",
        "declaredDtype": "uint8",
        "shape": [None, 3, None],
        "dims": ["h", 3, None],
    }
    assert fields["named"]["dimensionNames"] == ["h", "w"]
    assert fields["undeclared"] == {"$type": "local#ndarray", "dtype": "float32", "declaredDtype": None}


def test_a_declared_float32_of_ours_stays_declared():
    schema = Schema.of(made(x=NDArray[np.float32]))
    for record in (schema.to_record(), schema.to_network_record(NOW)):
        assert Schema.from_record(record).fields[0].type == Array(np.dtype(np.float32))


# -- hostile records -------------------------------------------------------------------------------------------------

INT = {"$type": "local#primitive", "primitive": "int"}


def one(node: Any, name: Any = "x", **more: Any) -> dict[str, Any]:
    return {"name": "A", "fields": [{"name": name, "fieldType": node, **more}]}


def nest(levels: int, node: Any = INT) -> Any:
    for _ in range(levels):
        node = {"$type": "local#array", "items": node}
    return node


def enum_of(*members: Any, base: Any = "Enum", name: Any = "E") -> Any:
    listed = [{"name": n, "value": v} for n, v in members]
    return {"$type": "local#enum", "enum": {"name": name, "base": base, "members": listed}}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


EVIL = "int\n\nimport os; os.system('touch /tmp/pwned')\n"

HOSTILE = [
    (None, "a schema record must be a JSON object, not NoneType"),
    ([], "a schema record must be a JSON object, not list"),
    ({}, "the name of a class must be text, not NoneType"),
    ({"name": "A"}, "A: `fields` must be a list"),
    ({"name": "A", "fields": {}}, "A: `fields` must be a list"),
    ({"name": "A", "fields": []}, "A: has 0 fields; from 1 to 10000 are allowed"),
    ({"name": "A", "fields": [INT] * 10_001}, "A: has 10001 fields"),
    ({"name": "A", "fields": [3]}, "A.fields[0]: a field must be a JSON object, not int"),
    (one(INT, name=None), "A.fields[0]: the name of a field must be text"),
    (one(INT, name="a b"), "'a b' cannot name a field: it is not an identifier"),
    (one(INT, name="x=1):\n import os"), "cannot name a field: it is not an identifier"),
    (one(INT, name="class"), "'class' cannot name a field: it is a keyword"),
    (one(INT, name="None"), "'None' cannot name a field: it is a keyword"),
    (one(INT, name="__init__"), "two leading underscores are reserved"),
    (one(INT, name="__class__"), "two leading underscores are reserved"),
    (one(INT, name="ﬁ"), "it is not an identifier"),
    (one(INT, name="x" * 201), "has 201 characters, more than 200"),
    (one(INT, name="x" * 10_000_000), "characters, more than 200"),
    (one(INT, name=""), "it is not an identifier"),
    (one(INT, name="packed"), "A.packed: every packable class has a member of this name"),
    (one(INT, name="from_bytes"), "A.from_bytes: every packable class has"),
    ({"name": "A", "fields": [{"name": "x", "fieldType": INT}] * 2}, "A.x: two fields have this name"),
    ({**one(INT), "name": "class"}, "'class' cannot name a class: it is a keyword"),
    ({**one(INT), "name": "a.b."}, "'' cannot name a class"),
    ({**one(INT), "name": "A; import os"}, "cannot name a class: it is not an identifier"),
    ({**one(INT), "name": "os.system('x')"}, "cannot name a class: it is not an identifier"),
    ({**one(INT), "name": "__A"}, "two leading underscores"),
    ({**one(INT), "version": "1.0.0\nimport os"}, "is not a version"),
    ({**one(INT), "version": 5}, "is not a version"),
    ({**one(INT), "version": "1" * 101}, "is not a version"),
    ({**one(INT), "description": 5}, "A: the description must be text"),
    ({**one(INT), "description": "x" * 100_001}, "A: the description must be text of at most"),
    ({**one(INT), "description": "\ud800"}, "A: the text '\\ud800' has a lone surrogate"),
    ({**one(INT), "atdataSchemaVersion": 2}, "the schema record has format version a int; this atdata reads version 1"),
    ({**one(INT), "$atdataSchemaVersion": "2"}, "format version '2'"),
    (one(None), "A.x: `fieldType` must be a JSON object"),
    (one({}), "A.x: `fieldType` has no kind"),
    (one({"$type": 5}), "A.x: `fieldType` has no kind"),
    (one({"$type": "local#tensor9"}), "A.x: 'tensor9' is not a kind of field this atdata knows"),
    (one({"$type": "local#" + "k" * 10_000_000}), "is not a kind of field"),
    (one({"$type": "local#ref", "ref": "at://x"}), "A.x: a reference to another record cannot be turned into a type"),
    (one({"$type": "local#primitive"}), "A.x: None is not a primitive type; those are str, int, float, bool, bytes"),
    (one({"$type": "local#primitive", "primitive": EVIL}), "is not a primitive type"),
    (one({"$type": "local#primitive", "primitive": ["int"]}), "A.x: a list is not a primitive type"),
    (one({"$type": "local#primitive", "primitive": "object"}), "A.x: 'object' is not a primitive type"),
    (one({"$type": "local#ndarray", "declaredDtype": "object"}), "A.x: 'object' is not a dtype this machine has"),
    (one({"$type": "local#ndarray", "declaredDtype": "O"}), "A.x: 'O' is not a dtype"),
    (one({"$type": "local#ndarray", "declaredDtype": ["f4"]}), "A.x: a list is not a dtype"),
    (one({"$type": "local#ndarray", "shape": 3}), "A.x: the shape must be a list of at most 32 dimensions"),
    (one({"$type": "local#ndarray", "shape": [1] * 33}), "A.x: the shape must be a list"),
    (one({"$type": "local#ndarray", "shape": [-1]}), "A.x: a int is not a dimension"),
    (one({"$type": "local#ndarray", "shape": [True]}), "A.x: True is not a dimension"),
    (one({"$type": "local#ndarray", "shape": [2**63]}), "A.x: a int is not a dimension"),
    (one({"$type": "local#ndarray", "shape": ["h"]}), "A.x: 'h' is not a dimension"),
    (one({"$type": "local#ndarray", "declaredDtype": None, "dims": ["h" * 1000]}), "is not a dimension"),
    (one({"$type": "local#ndarray", "declaredDtype": None, "dims": ["\ud800"]}), "has a lone surrogate"),
    (one(nest(32)), "nested more than 32 deep"),
    (one(nest(500)), "nested more than 32 deep"),
    (one({"$type": "local#tuple", "items": [INT] * 50_001}), "the schema has more than 50000 parts"),
    (one({"$type": "local#tuple"}), "A.x: `items` of a tuple must be a list"),
    (one({"$type": "local#map"}), "A.x{}: `fieldType` must be a JSON object"),
    (one({"$type": "local#recursive"}), "A.x: `up` is None, which names no class around the field"),
    (one({"$type": "local#recursive", "up": 1}), "which names no class around the field"),
    (one({"$type": "local#recursive", "up": -1}), "which names no class around the field"),
    (one({"$type": "local#recursive", "up": True}), "which names no class around the field"),
    (one({"$type": "local#object", "name": "1"}), "A.x: '1' cannot name a class"),
    (
        one({"$type": "local#object", **one(INT, name="packed")}),
        "A.packed: 'packed' is a name every packable class has",
    ),
    (one({"$type": "local#object", **one({"$type": "local#zzz"}, name="y")}), "A.y: 'zzz' is not a kind"),
    (one({"$type": "local#literal"}), "A.x: a literal needs a list of 1 to 10000 values"),
    (one({"$type": "local#literal", "literal": [1.5]}), "A.x: 1.5 is not a str, int, bool or null"),
    (one({"$type": "local#literal", "literal": [[1]]}), "A.x: a list is not a str, int, bool or null"),
    (one({"$type": "local#literal", "literal": [2**70]}), "does not fit into 64 bits"),
    (one({"$type": "local#literal", "literal": [{"int": "2" * 20}]}), "does not fit into 64 bits"),
    (one({"$type": "local#literal", "literal": [{"int": "9" * 5000}]}), "A.x: a dict is not a str"),
    (one({"$type": "local#literal", "literal": ["\ud800"]}), "has a lone surrogate"),
    (one({"$type": "local#enum"}), "A.x: `enum` must be a JSON object"),
    (one(enum_of()), "A.x: an enum needs a list of 1 to 10000 members"),
    (one(enum_of(("A", 1), base="Flag")), "A.x: 'Flag' is not a base of enums"),
    (one(enum_of(("A", 1), base=["Enum"])), "A.x: a list is not a base of enums"),
    (one(enum_of(("A", 1), name="__E")), "two leading underscores"),
    (one(enum_of(("__A", 1))), "two leading underscores"),
    (one(enum_of(("a b", 1))), "cannot name an enum member"),
    (one(enum_of(("A", None))), "the value of enum member 'A' is neither str nor int"),
    (one(enum_of(("A", True))), "the value of enum member 'A' is neither str nor int"),
    (one(enum_of(("A", "x"), base="IntEnum")), "the value of enum member 'A' does not fit its base IntEnum"),
    (one(enum_of(("A", 1), base="str")), "the value of enum member 'A' does not fit its base str"),
    (one(enum_of(("A", 1), ("A", 2))), "two enum members have the same name"),
    (one(enum_of(("mro", 1))), "enum E cannot be made"),
    (one(enum_of(("_missing_", "x"), ("B", "y"))), "enum E cannot be made: some of its members have reserved names"),
    (one(enum_of(("_ignore_", "B"), ("B", "y"))), "enum E cannot be made"),
    (one(enum_of(("_order_", "A"), ("B", "y"))), "enum E cannot be made"),
    (one(enum_of(("_E__x", 1))), "enum E cannot be made"),
    (one(INT, default="x"), "A.x: the default does not fit: expected int, got str"),
    (one(INT, default=1.5), "A.x: the default does not fit"),
    (one(INT, default=2**70), "A.x: the default cannot be stored"),
    (one(INT, default={1, 2}), "A.x: the default does not fit"),
    (one(INT, default=object()), "A.x: the default cannot be stored"),
    (one(INT, defaultMsgpack=5), "A.x: `defaultMsgpack` must be base64 text"),
    (one(INT, defaultMsgpack="!!"), "A.x: `defaultMsgpack` is not base64"),
    (one(INT, defaultMsgpack="é"), "A.x: `defaultMsgpack` is not base64"),
    (one(INT, defaultMsgpack=""), "A.x: the default does not fit"),
    (one(INT, defaultMsgpack=b64(b"\x01\x02")), "trailing characters"),
    (one(INT, defaultMsgpack=b64(b"\xc6\x7f\xff\xff\xff")), "Input data was truncated"),
    (one({"$type": "local#any"}, defaultMsgpack=b64(b"\x91" * 10_000)), "nested too deeply"),
    (one({"$type": "local#any"}, defaultMsgpack=b64(b"\xc0" * 1_200_000)), "is too large for a schema"),
    (one({"$type": "local#any"}, defaultMsgpack="A" * 10_000_000), "at most 1 MiB of data"),
    (
        one({"$type": "local#ndarray"}, defaultMsgpack=b64(b"\xc4\x03abc")),
        "A.x: the default does not fit: not an array",
    ),
    (one({"$type": "local#object", **one(INT)}, default={}), "A.x: the default does not fit at .x: missing"),
    (
        one({"$type": "local#object", **one(INT)}, default={"x": "y"}),
        "A.x: the default does not fit at .x: expected int",
    ),
    (one({"$type": "local#recursive", "up": 0}, default={}), "A.x: the default does not fit at .x: missing"),
    (network({}), "A: has 0 fields"),
    (network({"x": {"type": EVIL}}), "is not a JSON Schema type"),
    (network({"x": {"type": {"a": 1}}}), "A.x: a dict is not a JSON Schema type"),
    (network({"x": 5}), "A.x: a property must be a JSON object"),
    (network({"x": True}), "A.x: a property must be a JSON object"),
    (network({"x y": {}}), "cannot name a field"),
    (network({5: {}}), "A: the name of a field must be text"),
    (network({"x": {"$ref": "https://evil.example/zzz"}}), "A.x: $ref 'https://evil.example/zzz' is not a format"),
    (network({"x": {"atdataType": {"kind": "zzz"}}}), "A.x: 'zzz' is not a kind of field"),
    (network({"x": {"atdataType": 5}}), "A.x: `fieldType` must be a JSON object"),
    (network({"x": {"type": "integer", "default": "x"}}), "A.x: the default does not fit"),
    (
        {**network({}), "schema": {"properties": {"x": {}}, "required": 5}},
        "A: `required` and `propertyOrder` must be lists",
    ),
    ({**network({}), "schema": {"properties": [1]}}, "A: `properties` must be a JSON object"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("record", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_records(record, message):
    with pytest.raises(SchemaError) as caught:
        Schema.from_record(record)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_records_nested_beyond_what_python_can_follow():
    deep: Any = {}
    for _ in range(100_000):
        deep = {"$type": "local#array", "items": deep, "type": "array"}
    for record in (one(deep), network({"x": deep}), one({"$type": "local#any"}, default=deep), one(INT, name=[deep])):
        with pytest.raises(SchemaError):
            Schema.from_record(record)
    while deep:  # or freeing it would go as deep
        deep = deep.pop("items")


def test_defaults_of_defaults_cannot_explode():
    fields = [{"name": "a", "fieldType": INT, "default": 1}]
    for i in range(10):
        node = {"$type": "local#object", "name": f"C{i}", "fields": fields}
        fields = [{"name": n, "fieldType": node, "default": {}} for n in ("a", "b")]
    with pytest.raises(SchemaError, match=r"the default does not fit at \.a: missing"):
        Schema.from_record({"name": "A", "fields": fields})


def test_the_default_of_a_class_within_a_recursive_one_is_proved_too():
    inner = one({"$type": "local#recursive", "up": 1}, name="up", default=5)
    with pytest.raises(SchemaError, match="up: the default does not fit"):
        Schema.from_record(one({"$type": "local#object", **inner})).sample_type()


def test_ten_thousand_fields():
    record = local(*((f"f{i}", INT, False) for i in range(10_000)))
    schema = Schema.from_record(record)
    built = schema.sample_type()
    sample = built(*range(10_000))
    assert unpack(pack(sample), built) == sample
    assert Schema.from_record(schema.to_network_record(NOW)) == schema


KEYS = (
    "$type", "kind", "name", "fields", "fieldType", "items", "values", "enum", "default", "schema", "properties", "up",
)  # fmt: skip
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
json_values = st.recursive(
    leaves | st.sampled_from(["local#any", "x", "object"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_a_schema_or_a_schema_error(value):
    for record in (value, one(value), network({"x": value}), one(INT, default=value)):
        try:
            schema = Schema.from_record(record)
        except SchemaError:
            continue
        assert Schema.from_record(schema.to_record()) == schema
        assert Schema.of(schema.sample_type()).cid == schema.cid


@given(st.data())
def test_any_damage_to_a_record_of_ours_is_a_schema_or_a_schema_error(data):
    cls = data.draw(st.sampled_from(CLASSES))
    schema = Schema.of(cls)
    record = through_json(data.draw(st.sampled_from([schema.to_record(), schema.to_network_record(NOW)])))
    places = [v for v in walk(record) if isinstance(v, dict | list) and v]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places))
        if not place:
            continue
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if data.draw(st.booleans()):
            del place[key]
        else:
            place[key] = data.draw(json_values)
    try:
        damaged = Schema.from_record(record)
        damaged.sample_type()
    except SchemaError:
        return
    assert Schema.from_record(damaged.to_record()) == damaged
