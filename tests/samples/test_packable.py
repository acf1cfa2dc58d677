"""`@packable`: what it leaves of a class, what it adds, and the annotations it refuses."""

import copy
import dataclasses
import enum
import gc
import pickle
import re
import typing
import weakref
from dataclasses import InitVar, dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Optional, Union

import cloudpickle
import numpy as np
import pytest
import typing_extensions
from numpy.typing import NDArray

import atdata
from atdata.errors import SampleDecodeError, SampleTypeError, SchemaError
from atdata.samples.fields import Array, ListOf, Nested, OptionalOf, Primitive, Shape
from atdata.samples.packable import Packable, pack, packable, unpack


@packable
class Digit:
    """One handwritten digit."""

    image: NDArray[np.uint8]
    label: int
    note: str = ""


@packable
@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float = 0.0


@packable
@dataclass
class Plain:
    image: NDArray[np.float64]


ONE = np.eye(2, dtype=np.uint8)


def test_the_class_stays_itself():
    assert (Digit.__name__, Digit.__qualname__, Digit.__module__) == ("Digit", "Digit", __name__)
    assert Digit.__doc__ == "One handwritten digit."
    assert list(Digit.__annotations__) == ["image", "label", "note"]
    assert dataclasses.is_dataclass(Digit)
    assert [f.name for f in dataclasses.fields(Digit)] == ["image", "label", "note"]
    assert repr(Digit(ONE, 1)) == "Digit(image=array([[1, 0],\n       [0, 1]], dtype=uint8), label=1, note='')"
    assert Digit(ONE, label=3).label == 3
    assert dataclasses.replace(Digit(ONE, 1), label=2) == Digit(ONE, 2)


def test_the_members_of_the_protocol():
    one = Digit(ONE, 1, "n")
    assert isinstance(one, Packable)
    assert not isinstance(object(), Packable)
    assert one.packed == pack(one)
    assert Digit.from_bytes(one.packed) == one
    assert Digit.from_data({"image": ONE, "label": 1, "note": "n"}) == one
    with pytest.raises(SampleDecodeError, match=r"Digit: .*missing 1 required positional argument: 'label'"):
        Digit.from_data({"image": ONE})
    with pytest.raises(SampleDecodeError, match=r"unexpected keyword argument 'more'"):
        Digit.from_data({"image": ONE, "label": 1, "more": 2})


def test_as_wds_has_a_new_key_each_time():
    one = Digit(ONE, 1)
    first, second = one.as_wds, one.as_wds
    assert first["msgpack"] == second["msgpack"] == one.packed
    assert first["__key__"] != second["__key__"]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-1[0-9a-f]{3}-8000-000000000000", first["__key__"])


def test_no_type_check_on_construction():
    assert Digit("anything", None).image == "anything"


# -- equality and hash -----------------------------------------------------------------------------------------------


def test_equality_compares_arrays_by_dtype_shape_and_content():
    assert Digit(ONE, 1) == Digit(ONE.copy(), 1)
    assert Digit(ONE, 1) != Digit(ONE, 2)
    assert Digit(ONE, 1) != Digit(ONE.astype(np.int64), 1)
    assert Digit(ONE, 1) != Digit(ONE[:1], 1)
    assert Digit(ONE, 1) != Digit(ONE + 1, 1)
    assert Digit(ONE, 1) != Digit([[1, 0], [0, 1]], 1)
    assert Digit(ONE, 1) != "Digit"
    assert Plain(np.array([np.nan])) == Plain(np.array([np.nan]))
    assert Plain(np.array([0.0])) == Plain(np.array([-0.0]))
    records = np.array([(np.nan, "a")], [("x", "f8"), ("s", "U1")])
    assert Plain(records) == Plain(records.copy())
    assert Plain(np.array(["NaT"], "M8[s]")) == Plain(np.array(["NaT"], "M8[s]"))
    assert Plain(np.array(1.0)) != Plain(np.array([1.0]))


def test_equality_looks_into_lists_dicts_and_samples():
    @packable
    class Bag:
        a: Any
        d: dict[str, Digit]

    one = Bag([{"k": ONE}, float("nan")], {"x": Digit(ONE, 1)})
    assert one == Bag([{"k": ONE.copy()}, float("nan")], {"x": Digit(ONE.copy(), 1)})
    assert one != Bag([{"k": ONE + 1}, float("nan")], {"x": Digit(ONE, 1)})
    assert one != Bag([{"k": ONE}, float("nan")], {"y": Digit(ONE, 1)})
    assert one != Bag(({"k": ONE}, float("nan")), {"x": Digit(ONE, 1)})


def test_a_class_that_is_a_dataclass_already_compares_arrays_too():
    assert Plain(np.ones(3)) == Plain(np.ones(3))
    assert Plain(np.ones(3)) != Plain(np.zeros(3))


def test_fields_left_out_of_comparison():
    @packable
    class A:
        x: int
        cache: int = field(default=0, compare=False)

    assert A(1, 2) == A(1, 3)


def test_another_class_with_the_same_fields_is_not_equal():
    @packable
    class Other:
        image: NDArray[np.uint8]
        label: int
        note: str = ""

    assert Digit(ONE, 1) != Other(ONE, 1)


def test_a_users_own_equality_and_hash_are_kept():
    @packable
    class Tag:
        name: str

        def __eq__(self, other):
            return isinstance(other, Tag) and self.name.lower() == other.name.lower()

        def __hash__(self):
            return hash(self.name.lower())

    @packable
    class ById:
        name: str

        def __hash__(self):
            return 7

    assert len({Tag("A"), Tag("a")}) == 1
    assert hash(ById("x")) == 7
    assert ById("x") == ById("x")


def test_hashes_follow_the_rules_of_dataclasses():
    with pytest.raises(TypeError, match="unhashable"):
        hash(Digit(ONE, 1))
    with pytest.raises(TypeError, match="unhashable"):
        hash(Plain(ONE))
    assert hash(Point(1.0)) == hash(Point(1.0, 0.0))
    assert {Point(1.0): "a"}[Point(1.0)] == "a"


def test_a_dataclass_without_equality_keeps_identity():
    @packable
    @dataclass(eq=False)
    class Thing:
        x: int

    one = Thing(1)
    assert one == one
    assert one != Thing(1)
    assert len({one, Thing(1)}) == 2


# -- kinds of dataclasses --------------------------------------------------------------------------------------------


def test_frozen_and_slots():
    point = Point(1.5)
    assert Point.from_bytes(point.packed) == point
    assert not hasattr(point, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2.0
    assert pickle.loads(pickle.dumps(point)) == point


def test_post_init_runs_on_construction_and_on_reading():
    calls = []

    @packable
    class Scaled:
        value: float
        double: float = field(init=False)

        def __post_init__(self):
            calls.append(self.value)
            self.double = 2 * self.value

    one = Scaled(1.5)
    back = Scaled.from_bytes(one.packed)
    assert (back.double, calls) == (3.0, [1.5, 1.5])
    assert back == one
    assert b"double" not in one.packed  # derived, so not stored


def test_post_init_may_convert():
    @packable
    class A:
        x: NDArray[np.float32]

        def __post_init__(self):
            self.x = np.asarray(self.x, np.float32)

    assert A.from_bytes(A([1, 2]).packed) == A([1.0, 2.0])


def test_inheritance():
    @packable
    class Base:
        a: int
        b: str = "base"

        def both(self):
            return f"{self.a}{self.b}"

    @packable
    class Derived(Base):
        b: str = "derived"
        c: NDArray[np.int8] = field(default_factory=lambda: np.zeros(1, np.int8))

    one = Derived(1)
    assert one.both() == "1derived"
    back = Derived.from_bytes(one.packed)
    assert type(back) is Derived
    assert back == one
    assert [f.name for f in atdata.Schema.of(Derived).fields] == ["a", "b", "c"]
    assert Base.from_bytes(Base(2).packed) == Base(2)
    assert Base(1) != Derived(1)


def test_a_subclass_that_is_not_decorated_is_written_as_what_it_inherits():
    class Sub(Digit):
        pass

    assert pack(Sub(ONE, 1)) == pack(Digit(ONE, 1))
    assert type(Sub.from_bytes(pack(Digit(ONE, 1)))) is Sub


def test_keyword_only_fields():
    @packable
    class A:
        a: int = field(kw_only=True)
        b: int
        c: int = field(default=3, kw_only=True)

    one = A(2, a=1)
    assert A.from_bytes(one.packed) == one
    assert one.packed.index(b"\xa1a") < one.packed.index(b"\xa1b")


def test_class_variables_are_no_fields():
    @packable
    class A:
        limit: ClassVar[int] = 5
        x: int

    assert A.from_bytes(A(1).packed) == A(1)
    assert A.limit == 5


def test_fields_with_awkward_names():
    @packable
    class A:
        self: int
        cls: int
        _private: str
        größe: float
        type: int = 0

    assert A.from_bytes(A(1, 2, "p", 1.5).packed) == A(1, 2, "p", 1.5)


def test_many_fields():
    cls = packable(dataclasses.make_dataclass("Wide", [(f"f{i}", int) for i in range(300)]))
    one = cls(*range(300))
    assert cls.from_bytes(one.packed) == one


# -- pickling and copying --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_samples_are_copied_and_pickled(clone):
    one = Digit.from_bytes(Digit(ONE, 1).packed)
    assert clone(one) == one
    assert type(clone(one)) is Digit


def test_a_class_sent_by_value_works_after_it_was_used():
    @packable
    class Local:
        x: NDArray[np.float32]
        inner: Digit | None = None

    one = Local(np.ones(2, np.float32), Digit(ONE, 1))
    one.packed  # noqa: B018 - so that its plan exists
    data = cloudpickle.dumps((Local, one))
    cls, back = pickle.loads(data)
    assert cls.from_bytes(one.packed).packed == back.packed == one.packed


def test_a_class_that_nobody_uses_goes():
    def make():
        @packable
        class Short:
            x: int

        assert Short.from_bytes(Short(1).packed) == Short(1)
        return weakref.ref(Short)

    gone = make()
    gc.collect()
    assert gone() is None


def test_slots_made_after_the_plan_get_a_plan_of_their_own():
    @packable
    class A:
        x: int

    A(1).packed  # noqa: B018

    @packable
    class B(A):
        y: int = 2

    assert B.from_bytes(B(1, 5).packed) == B(1, 5)
    assert A.from_bytes(A(1).packed) == A(1)


# -- annotations -----------------------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1


class Bits(enum.Flag):
    A = 1


class Empty(enum.Enum):
    pass


class Floats(enum.Enum):
    A = 1.5


class Huge(enum.Enum):
    A = 2**64


USE = "is not a type a sample field can have. Use str, int, float"
REFUSED = [
    (set, f"set {USE}"),
    (set[int], f"set[int] {USE}"),
    (complex, f"complex {USE}"),
    (object, f"object {USE}"),
    (type, f"type {USE}"),
    (np.float32, f"float32 {USE}"),
    (typing.Callable, "is not a type a sample field can have"),
    (typing.TypeVar("V"), "is not a type a sample field can have"),
    (int | str, "a union of several types is ambiguous in the bytes; only `T | None` can be stored"),
    (Union[int, str, None], "a union of several types is ambiguous"),  # noqa: UP007
    (dict[int, str], "keys of a dict field must be str, not int"),
    (dict[Any, str], "keys of a dict field must be str, not "),
    (NDArray[np.object_], "arrays of Python objects cannot be stored"),
    (Literal[1.5], "Literal value 1.5 is not a str, int, bool or None"),
    (Literal[b"x"], "Literal value b'x' is not a str"),
    (Literal[2**64], "18446744073709551616 does not fit into 64 bits"),
    (Bits, "Enum Bits must have members, with values of str or int"),
    (Empty, "Enum Empty must have members"),
    (Floats, "Enum Floats must have members, with values of str or int"),
    (Huge, "18446744073709551616 does not fit into 64 bits"),
    (Annotated[int, Shape(2)], "Shape describes arrays, not int"),
]


@pytest.mark.parametrize(("hint", "message"), REFUSED, ids=[str(h) for h, _ in REFUSED])
@pytest.mark.parametrize("wrap", [lambda h: h, lambda h: list[h]], ids=["plain", "in a list"])
def test_annotations_that_cannot_be_stored(hint, message, wrap):
    with pytest.raises(SchemaError) as caught:
        packable(type("A", (), {"__annotations__": {"ok": int, "x": wrap(hint)}}))
    assert message in str(caught.value)
    assert str(caught.value).startswith("A.x")
    assert isinstance(caught.value, ValueError)


def test_other_refusals():
    with pytest.raises(SchemaError, match="A has no fields to store"):

        @packable
        class A:
            pass

    with pytest.raises(SchemaError, match=r"B\.packed: 'packed' is a name every packable class has; rename the field"):

        @packable
        class B:
            packed: int

    with pytest.raises(SchemaError, match=r"C\.scale: an InitVar is not stored"):

        @packable
        class C:
            x: int
            scale: InitVar[float] = 1.0

    with pytest.raises(SchemaError, match=r"F\.scale: an InitVar is not stored"):

        @packable
        class F:
            x: int
            scale: "InitVar[float]" = 1.0

    with pytest.raises(SchemaError, match=r"D\.__x__: names beginning with two underscores are reserved"):

        @packable
        class D:
            __x__: int

    with pytest.raises(SchemaError, match="is not a sample type: decorate the class with @atdata"):
        pack(3)
    with pytest.raises(SchemaError, match="Shape: -1 is not a size, a name or None"):
        Shape(-1)


def test_a_name_that_is_never_defined_is_reported_on_first_use():
    @packable
    class A:
        x: "Nowhere"  # noqa: F821

    with pytest.raises(SchemaError, match="A: an annotation names 'Nowhere', which is not defined where A is"):
        pack(A(1))


def test_what_annotations_mean():
    @packable
    class A:
        a: Optional[NDArray[np.float32]]  # noqa: UP045
        b: Union[int, None]  # noqa: UP007
        c: Annotated[NDArray[np.float32], "a note", Shape("h", 3)]
        d: Annotated[NDArray[np.float32] | None, Shape(2)]
        e: NDArray[np.floating]
        f: typing.List[Digit]  # noqa: UP006
        g: Annotated[int, "unit: m"]
        h: "list[Digit | None]"

    fields = {f.name: f.type for f in atdata.Schema.of(A).fields}
    f32 = np.dtype(np.float32)
    assert fields == {
        "a": OptionalOf(Array(f32)),
        "b": OptionalOf(Primitive(int)),
        "c": Array(f32, ("h", 3)),
        "d": OptionalOf(Array(f32, (2,))),
        "e": Array(None),
        "f": ListOf(Nested(Digit)),
        "g": Primitive(int),
        "h": ListOf(OptionalOf(Nested(Digit))),
    }


def test_declared_dtypes_mean_kind_and_size_not_byte_order():
    @packable
    class A:
        x: NDArray[np.int16]

    big = np.arange(3, dtype=">i2")
    back = A.from_bytes(A(big).packed)
    assert back.x.dtype.str == ">i2"
    with pytest.raises(SampleTypeError, match=r"A\.x: expected int16 array, got int32"):
        pack(A(big.astype(np.int32)))


def test_text_annotations_of_a_class_in_a_function_mean_the_names_there():
    @packable
    class Inner:
        n: int

    class Digit(enum.Enum):  # shadows the one of the module
        ZERO = 0

    @packable
    class Outer:
        inner: "Inner"
        digit: "Digit"
        many: "list[Inner]"
        me: "Outer | None" = None

    one = Outer(Inner(1), Digit.ZERO, [Inner(2)])
    one.me = Outer(Inner(3), Digit.ZERO, [])
    assert Outer.from_bytes(one.packed) == one

    @packable
    class More(Outer):
        extra: int = 0

    assert More.from_bytes(More(Inner(1), Digit.ZERO, [], extra=3).packed).extra == 3


@packable
class Early:
    later: "Later | None"


@packable
class Later:
    back: list[Early]


def test_classes_that_name_each_other():
    one = Early(Later([Early(None)]))
    assert unpack(pack(one), Early) == one


def test_a_type_alias_is_what_it_stands_for():
    scalar = typing.TypeVar("scalar", bound=np.generic)
    array = typing_extensions.TypeAliasType(
        "array", np.ndarray[tuple[Any, ...], np.dtype[scalar]], type_params=(scalar,)
    )
    label = typing_extensions.TypeAliasType("label", str | None)
    made = atdata.packable(
        dataclasses.make_dataclass("Aliased", [("x", array[np.uint8]), ("any", array), ("s", label)])
    )
    sample = made(np.arange(3, dtype=np.uint8), np.arange(2.0), None)
    assert atdata.unpack(atdata.pack(sample), made) == sample
    with pytest.raises(SampleTypeError, match="expected uint8 array, got float64"):
        atdata.pack(made(np.arange(3.0), np.arange(2.0), "a"))
