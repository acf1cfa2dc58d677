"""Getters whose code proves that they pass fields on and do nothing else; everything else proves nothing."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lens_samples import Box, Labelled, Photo, everything
from numpy.typing import NDArray

import atdata
from atdata.lenses.composition import compose
from atdata.lenses.derived import derive
from atdata.samples.packable import only_keeps
from atdata.testing import samples


@atdata.packable
class Plain:
    a: int
    b: str
    c: float = 0.5
    d: NDArray[np.uint8] | None = None


@atdata.packable
class View:
    x: Any
    y: Any
    z: Any = "z"
    w: list[int] = dataclasses.field(default_factory=list)


@atdata.packable
@dataclasses.dataclass(kw_only=True)
class ByName:
    y: Any = None
    x: Any


class Elsewhere:
    """As a class in another class; not a module."""

    View = View


here = sys.modules[__name__]


def what(lens: Any) -> tuple[dict[str, str], dict[str, Any]] | None:
    """What a lens passes on, and what it makes."""
    found = lens.passing
    return None if found is None else (dict(found.fields), {name: make() for name, make in found.made.items()})


# -- what is proved ------------------------------------------------------------------------------------------


def in_order(src: Plain) -> View:
    return View(src.a, src.b)


def by_name(src: Plain) -> View:
    return View(y=src.a, x=src.b, w=src.d)  # type: ignore[arg-type]


def twice_the_same(src: Plain) -> View:
    return View(src.d, src.d)


def with_constants(src: Plain) -> View:
    return View(src.a, None, z="text")


def nothing_but_constants(src: Plain) -> View:
    return View(1, 2.5)


def by_variables(src: Plain) -> View:
    first = src.a
    second = first
    src = second  # type: ignore[assignment]
    return View(first, y=second)


def through_a_module(src: Plain) -> View:
    return here.View(src.a, src.b)  # type: ignore[no-any-return]


def all_by_name(src: Plain) -> ByName:
    """With a text of its own."""
    return ByName(x=src.c)


def from_a_function() -> Any:
    inner = View

    def closed(src: Plain) -> View:
        return inner(src.a, src.b)

    return closed


@pytest.mark.parametrize(
    ("getter", "passed", "made"),
    [
        (in_order, {"x": "a", "y": "b"}, {"z": "z", "w": []}),
        (by_name, {"y": "a", "x": "b", "w": "d"}, {"z": "z"}),
        (twice_the_same, {"x": "d", "y": "d"}, {"z": "z", "w": []}),
        (with_constants, {"x": "a"}, {"y": None, "z": "text", "w": []}),
        (nothing_but_constants, {}, {"x": 1, "y": 2.5, "z": "z", "w": []}),
        (by_variables, {"x": "a", "y": "a"}, {"z": "z", "w": []}),
        (through_a_module, {"x": "a", "y": "b"}, {"z": "z", "w": []}),
        (from_a_function(), {"x": "a", "y": "b"}, {"z": "z", "w": []}),
        (all_by_name, {"x": "c"}, {"y": None}),
    ],
)
def test_what_is_passed_on(getter: Any, passed: dict[str, str], made: dict[str, Any]) -> None:
    lens = atdata.Lens(getter)
    assert what(lens) == (passed, made)
    assert lens.passing is lens.passing
    source = Plain(7, "b", 1.5, np.arange(3, dtype=np.uint8))
    view = lens.get(source)
    for name, origin in passed.items():
        assert getattr(view, name) is getattr(source, origin)
    for name, value in made.items():
        assert getattr(view, name) == value


names = st.sampled_from(["a", "b", "c", "d"])
constants = st.sampled_from([None, True, 1, 1.5, "text", b"bytes"])
arguments = st.one_of(names.map(lambda name: f"src.{name}"), constants.map(repr))


@given(
    places=st.lists(arguments, max_size=5),
    by_name=st.dictionaries(st.sampled_from(["x", "y", "z", "w", "v"]), arguments, max_size=4),
    bound=st.lists(arguments, max_size=2),
    source=samples(Plain),
)
def test_a_proof_says_what_running_the_getter_does(
    places: list[str], by_name: dict[str, str], bound: list[str], source: Plain
) -> None:
    lines = [f"    v{i} = {text}" for i, text in enumerate(bound)]
    given = [*places, *(f"v{i}" for i in range(len(bound)))]
    call = ", ".join([*given, *(f"{name}={text}" for name, text in by_name.items())])
    space: dict[str, Any] = {"View": View, "Plain": Plain}
    exec("\n".join(["def getter(src: Plain) -> View:", *lines, f"    return View({call})"]), space)
    lens: Any = atdata.Lens(space["getter"])
    try:
        view = lens.get(source)
    except TypeError:  # too many arguments, too few, or other ones
        assert lens.passing is None
        return
    passing = lens.passing
    assert passing is not None
    assert {*passing.fields, *passing.made} == {"x", "y", "z", "w"}
    for name, origin in passing.fields.items():
        assert getattr(view, name) is getattr(source, origin)
    for name, make in passing.made.items():
        assert type(make()) is type(getattr(view, name))
        assert make() == getattr(view, name)


# -- what is not ---------------------------------------------------------------------------------------------


def computes(src: Plain) -> View:
    return View(src.a + 0, src.b)


def branches(src: Plain) -> View:
    return View(src.a, src.b) if src.a else View(src.b, src.a)


def returns_early(src: Plain) -> View:
    if src.a > 3:
        return View(1, 2)
    return View(src.a, src.b)


def converts(src: Plain) -> View:
    return View(int(src.a), src.b)


def calls_a_method(src: Plain) -> View:
    return View(src.b.upper(), src.a)


def formats(src: Plain) -> View:
    return View(f"{src.b}", src.a)


def prints(src: Plain) -> View:
    print(src.a, file=None)
    return View(src.a, src.b)


def changes_it(src: Plain) -> View:
    src.a += 1
    return View(src.a, src.b)


def changes_the_view(src: Plain) -> View:
    view = View(src.a, src.b)
    view.x = 0
    return view


def binds_the_view(src: Plain) -> View:
    view = View(src.a, src.b)
    return view  # noqa: RET504


def unpacks(src: Plain) -> View:
    return View(*(src.a, src.b))


def unpacks_names(src: Plain) -> View:
    values = {"x": src.a, "y": src.b}
    return View(**values)


def makes_lists(src: Plain) -> View:
    return View([src.a], src.b)


def constant_tuple(src: Plain) -> View:
    return View((1, 2), src.b)


def subscripts(src: Plain) -> View:
    return View(src.b[:1], src.a)


def reads_deeper(src: Plain) -> View:
    return View(src.a.real, src.b)


def reads_more_than_fields(src: Plain) -> View:
    return View(src.packed, src.b)  # type: ignore[attr-defined]


def passes_itself(src: Plain) -> View:
    return View(src, src.b)


def passes_a_global(src: Plain) -> View:
    return View(here, src.b)


def tries(src: Plain) -> View:
    try:
        return View(src.a, src.b)
    finally:
        pass


def raises(src: Plain) -> View:
    assert src.a < 1000
    return View(src.a, src.b)


def compares(src: Plain) -> View:
    return View(src.a == 1, src.b)


def by_another_call(src: Plain) -> View:
    return in_order(src)


def in_a_class(src: Plain) -> View:
    return Elsewhere.View(src.a, src.b)


def by_a_function_inside(src: Plain) -> View:
    def value() -> Any:
        return src.a

    return View(value(), src.b)


def by_deleting(src: Plain) -> View:
    value = src.a
    del value
    return View(src.a, src.b)


def with_a_loop(src: Plain) -> View:
    for _ in ():
        pass
    return View(src.a, src.b)


@pytest.mark.parametrize(
    "getter",
    [
        computes, branches, returns_early, converts, calls_a_method, formats, prints, changes_it, changes_the_view,
        unpacks, unpacks_names, makes_lists, constant_tuple, subscripts, reads_deeper, reads_more_than_fields,
        passes_itself, passes_a_global, tries, raises, compares, by_another_call, in_a_class, by_a_function_inside,
        by_deleting, with_a_loop,
    ],
)  # fmt: skip
def test_whatever_else_a_getter_does_proves_nothing(getter: Any) -> None:
    assert atdata.Lens(getter).passing is None


def test_a_view_that_is_bound_to_a_name_first() -> None:
    assert what(atdata.Lens(binds_the_view)) == ({"x": "a", "y": "b"}, {"z": "z", "w": []})


def test_names_that_come_to_mean_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loud(View):  # type: ignore[misc]
        pass

    view, lens = View, atdata.Lens(in_order)
    assert lens.passing is not None
    through = atdata.Lens(through_a_module)
    assert through.passing is not None
    monkeypatch.setitem(in_order.__globals__, "View", Loud)
    assert lens.passing is None
    assert through.passing is None
    monkeypatch.setitem(in_order.__globals__, "View", view)
    assert what(lens) == what(atdata.Lens(in_order))
    monkeypatch.delitem(in_order.__globals__, "View")
    assert lens.passing is None
    assert through.passing is None


def test_code_that_is_put_in_place_of_the_first() -> None:
    def getter(src: Plain) -> View:
        return View(src.a, src.b)

    lens = atdata.Lens(getter)
    assert lens.passing is not None
    getter.__code__ = computes.__code__
    assert lens.passing is None
    getter.__code__ = by_name.__code__
    assert what(lens) == ({"y": "a", "x": "b", "w": "d"}, {"z": "z"})


def test_a_variable_of_the_function_around() -> None:
    kind: Any = View

    def getter(src: Plain) -> View:
        return kind(src.a, src.b)  # type: ignore[no-any-return]

    lens = atdata.Lens(getter)
    assert lens.passing is not None
    kind = lambda x, y: View(y, x)  # noqa: E731
    assert lens.passing is None
    assert lens.get(Plain(1, "b")) == View("b", 1)


def test_a_class_that_does_more_than_keep_its_values() -> None:
    @atdata.packable
    class Counting:
        a: int
        b: str

        def __post_init__(self) -> None:
            self.a += 1

    class Meta(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    @atdata.packable
    class Made(metaclass=Meta):
        a: int
        b: str

    @atdata.packable
    class Setting:
        a: int
        b: str

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)

    @atdata.packable
    class Asking:
        a: int
        b: str

        def __getattribute__(self, name: str) -> Any:
            return super().__getattribute__(name)

    @atdata.packable
    class New:
        a: int
        b: str

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return super().__new__(cls)

    @atdata.packable
    class Own:
        a: int
        b: str

        def __init__(self, a: int, b: str) -> None:
            self.a, self.b = b, a  # type: ignore[assignment]

    class Upper:
        def __set_name__(self, owner: type, name: str) -> None:
            self.name = f"_{name}"

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            return "" if instance is None else getattr(instance, self.name).upper()

        def __set__(self, instance: Any, value: Any) -> None:
            setattr(instance, self.name, value)

    @atdata.packable
    class Described:
        a: int
        b: str = Upper()  # type: ignore[assignment]

    for cls in (Counting, Made, Setting, Asking, New, Own, Described):
        assert not only_keeps(cls)

        def there(src: Any) -> View:
            return View(src.a, src.b)

        def back(src: Plain) -> Any:
            return cls(src.a, src.b)  # noqa: B023

        there.__annotations__["src"] = cls
        back.__annotations__["return"] = cls
        assert atdata.Lens(there).passing is None
        assert atdata.Lens(back).passing is None

    @atdata.packable
    @dataclasses.dataclass(frozen=True, slots=True)
    class Frozen:
        a: int
        b: str

    assert only_keeps(Frozen)


def test_defaults_that_are_made_anew() -> None:
    count = iter(range(1000))

    @atdata.packable
    class Numbered:
        x: int
        number: int = dataclasses.field(default_factory=lambda: next(count))

    def getter(src: Plain) -> Numbered:
        return Numbered(src.a)

    assert atdata.Lens(getter).passing is None


def test_kinds_of_functions() -> None:
    def several(src: Plain, *more: Any) -> View:
        return View(src.a, src.b)

    with pytest.raises(atdata.errors.LensDefinitionError):
        atdata.Lens(several)  # type: ignore[arg-type]

    class Own(atdata.Lens[Any, Any]):
        def get_partial(self, source: Any) -> Any:
            return View(0, 0)

    assert Own(in_order).passing is None

    def of_dict(src: atdata.DictSample) -> View:
        return View(src.a, src.b)

    def to_dict(src: Plain) -> atdata.DictSample:
        return atdata.DictSample(a=src.a)

    assert atdata.Lens(of_dict).passing is None
    assert atdata.Lens(to_dict).passing is None


# -- declared lenses, and several ----------------------------------------------------------------------------


def test_declared_lenses() -> None:
    @atdata.packable
    class Other:
        text: str
        many: list[int]
        d: NDArray[np.uint8] | None

    lens = atdata.Lens.fields(Plain, Other, rename={"b": "text"}, drop=["a", "c"], default={"many": [1, 2]})
    assert what(lens) == ({"text": "b", "d": "d"}, {"many": [1, 2]})
    assert lens.passing is not None
    made = lens.passing.made["many"]
    assert made() is not made()  # the caller's own
    assert everything().passing is None
    cast = atdata.Lens.fields(Plain, ByName, rename={"a": "x", "b": "y"}, drop=["c", "d"], cast=["x", "y"])
    assert (cast.passing is None) == any(rule.conversion is not None for rule in cast.rules)
    nested = atdata.Lens.fields(Box, Nesting, nest={"box": ["x", "y"]})
    assert nested.passing is None
    assert what(derive(Photo, Labelled)) == ({"label": "label"}, {})
    assert derive(atdata.DictSample, Labelled).passing is None


@atdata.packable
class Nesting:
    box: Box


def test_several_lenses_one_after_the_other() -> None:
    def swapped(src: View) -> View:
        return View(src.y, src.x, src.z, src.w)

    def named(src: View) -> ByName:
        return ByName(x=src.w, y=src.y)

    first, second, third = atdata.Lens(in_order), atdata.Lens(swapped), atdata.Lens(named)
    assert what(first | second) == ({"x": "b", "y": "a"}, {"z": "z", "w": []})
    assert what(first | second | third) == ({"y": "a"}, {"x": []})
    assert (first | second | third).get(Plain(1, "b")) == ByName(x=[], y=1)
    assert what(compose(atdata.Lens.identity(Plain), first)) == what(first)
    assert what(atdata.Lens.identity(Plain)) == ({name: name for name in "abcd"}, {})
    assert (first | atdata.Lens(broken)).passing is None


def broken(src: View) -> Labelled:
    return Labelled(str(src.x))


def test_a_module_that_computes_its_names() -> None:
    class Lazy(types.ModuleType):
        @property
        def View(self) -> Any:
            return View

    lazy = Lazy("lazy")

    def getter(src: Plain) -> View:
        return lazy.View(src.a, src.b)  # type: ignore[no-any-return]

    getters: list[Callable[[Plain], View]] = [getter]
    assert atdata.Lens(getters[0]).passing is None
