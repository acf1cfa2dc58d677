"""Ways between versions of a type: lenses where somebody wrote them, fields where those say all, and no guesses."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Any

import pytest

import atdata
from atdata.errors import AmbiguousLensError, LensNotFoundError


@atdata.packable
class V1:
    length: float


@atdata.packable
class V2:
    """In metres, where it was centimetres."""

    length: float
    note: str = ""


@atdata.packable
class V3:
    length: float
    note: str = ""
    split: str = "train"


@atdata.packable
class V4:
    size: float
    split: str


@atdata.packable
class V5:
    size: float


def lens(source: Any, view: Any, function: Any, name: str = "") -> atdata.Lens[Any, Any]:
    def getter(src: Any) -> Any:
        return function(src)

    getter.__name__ = getter.__qualname__ = name or f"{source.__name__}_to_{view.__name__}"
    getter.__annotations__ = {"src": source, "return": view}
    return atdata.Lens(getter)


def network(*lenses: atdata.Lens[Any, Any]) -> atdata.LensNetwork:
    made = atdata.LensNetwork()
    for one in lenses:
        made.register(one)
    return made


def stored(cls: type) -> Any:
    """The class as it comes from a stored schema."""
    return atdata.Schema.from_record(atdata.Schema.of(cls).to_record()).sample_type()


metres = lens(V1, V2, lambda src: V2(src.length / 100, "once centimetres"), "metres")
sized = lens(V3, V4, lambda src: V4(src.length, src.split), "sized")


def test_several_versions_apart() -> None:
    """Each step is a registered lens, or follows from the fields."""
    net = network(metres, sized)
    assert net.find(V1, V4).get(V1(250.0)) == V4(2.5, "train")  # metres, then fields, then sized
    assert net.find(V1, V5).get(V1(250.0)) == V5(2.5)  # and then fewer fields
    assert net.find(V2, V4).get(V2(2.5, "x")) == V4(2.5, "train")
    old = stored(V1)
    assert net.find(old, V4).get(old(250.0)) == V4(2.5, "train")
    assert net.find(old, stored(V5)).get(old(250.0)) == stored(V5)(2.5)


def test_what_was_written_between_versions_is_never_left_out() -> None:
    """Fields of the same names do not mean the same: data in centimetres must not pass for metres."""
    assert network().find(V1, V3).get(V1(250.0)) == V3(250.0)  # as far as anybody knows
    net = network(metres)
    assert net.find(V1, V2).get(V1(250.0)) == V2(2.5, "once centimetres")
    assert net.find(V1, V3).get(V1(250.0)) == V3(2.5, "once centimetres")
    assert net.find(stored(V1), V3).get(stored(V1)(250.0)) == V3(2.5, "once centimetres")
    assert net.find(V2, V3).get(V2(2.5)) == V3(2.5)


def test_a_way_through_another_type_does_not_come_before_the_fields() -> None:
    @atdata.packable
    class Bare:
        split: str

    there, back = lens(V3, Bare, lambda src: Bare(src.split)), lens(Bare, V2, lambda src: V2(0.0, src.split))
    net = network(there, back)
    assert net.find(V3, V2).get(V3(1.0, "n", "test")) == V2(1.0, "n")


def test_a_class_that_was_given_another_name() -> None:
    @atdata.packable
    class Measure:  # what data was written with, before the class was called V1
        length: float

    assert network(metres, sized).find(Measure, V4).get(Measure(100.0)) == V4(1.0, "train")
    # But where fields alone lead there too, nobody has said that it is the same.
    with pytest.raises(AmbiguousLensError) as caught:
        network(metres).find(Measure, V2)
    assert str(caught.value) == (
        "V2 follows from the fields of Measure, but it can also be seen first as V1, and then through metres "
        "(test_paths): see it as V1 and then as V2, or give the lens that you mean"
    )


def test_an_older_version_is_brought_to_the_one_that_a_lens_reads() -> None:
    first = V2

    @atdata.packable
    class V2_:
        length: float
        note: str = ""
        more: int = 0

    V2_.__name__ = "V2"
    later = V2_
    up = lens(later, V4, lambda src: V4(src.length, str(src.more)))
    assert network(up).find(first, V4).get(first(1.0)) == V4(1.0, "0")

    @atdata.packable
    class V2__:
        length: float
        note: str = ""
        more: int = 0
        last: int = 0

    V2__.__name__ = "V2"
    doubled = lens(later, V2__, lambda src: V2__(src.length * 2, src.note, src.more), "doubled")
    with pytest.raises(AmbiguousLensError, match="seen first as V2, and then through doubled"):
        network(doubled).find(first, V2__)
    assert network(doubled).find(later, V2__).get(later(1.0)).length == 2.0


def test_a_version_with_fewer_fields_on_the_way() -> None:
    whole = V3

    @atdata.packable
    class Fewer:
        length: float

    up = lens(Fewer, V4, lambda src: V4(src.length, "none"))
    with pytest.raises(LensNotFoundError):  # another type that has some fields by chance
        network(up).find(whole, V4)
    Fewer.__name__ = "V3"
    assert network(up).find(whole, V4).get(whole(1.0, "n", "s")) == V4(1.0, "none")


def test_lenses_there_and_back_are_not_gone_in_a_circle() -> None:
    there = lens(V1, V2, lambda src: V2(src.length / 100), "there")
    back = lens(V2, V1, lambda src: V1(src.length * 100), "back")
    old = stored(V1)
    net = network(there, back)
    assert [part.name for part in net.find(old, V1).parts] == ["fields(V1 -> V1)"]
    assert net.find(V1, V1) == atdata.Lens.identity(V1)
    assert net.find(V2, V3).get(V2(1.0)) == V3(1.0)
    back_to_old = lens(V2, old, lambda src: old(src.length * 100), "back_to_old")
    net = network(there, back_to_old, sized)
    assert net.find(V1, V4).get(V1(250.0)) == V4(2.5, "train")
    assert net.find(old, V4).get(old(250.0)) == V4(2.5, "train")


def test_ways_that_nothing_tells_apart() -> None:
    one = lens(V1, V4, lambda src: V4(src.length, "one"), "one")
    other = lens(V2, V4, lambda src: V4(src.length, "other"), "other")

    @atdata.packable
    class Measure:
        length: float

    net = network(one, other)
    assert net.find(V1, V4) is one
    assert net.find(Measure, V4).get(Measure(1.0)).split == "one"  # its very fields
    third = lens(Measure, V5, lambda src: V5(src.length), "third")

    @atdata.packable
    class Length:
        length: float

    two = lens(Measure, V4, lambda src: V4(src.length, "two"), "two")
    net = network(one, two, third)
    with pytest.raises(AmbiguousLensError, match=r"several lenses lead from Length to V4: one .*; two .*\. Use"):
        net.find(Length, V4)
    assert net.find(Length, V5).get(Length(1.0)) == V5(1.0)


def test_the_missing_step_is_named() -> None:
    @atdata.packable
    class Far:
        size: float
        split: str
        author: str

    @atdata.packable
    class End:
        text: str

    last = lens(Far, End, lambda src: End(src.author))
    net = network(metres, sized, last)
    with pytest.raises(LensNotFoundError) as caught:
        net.find(V1, End)
    assert str(caught.value) == (
        "no lens leads from V1 to End, and none follows from their fields. From V1 lenses lead as far as V4 and to End "
        "they lead from Far. What is missing is the step from V4 to Far: Far.author is no field of V4. Write it: "
        "@atdata.lens over `def to_far(src: V4) -> Far`, or atdata.lens(atdata.Lens.fields(V4, Far, …)) where only "
        "names, types or units changed"
    )
    known = lens(V4, Far, lambda src: Far(src.size, src.split, "nobody"))
    net.register(known)
    assert net.find(V1, End).get(V1(1.0)) == End("nobody")


def test_the_versions_of_a_schema_follow_one_from_another() -> None:
    @atdata.packable
    class W1:
        a: int
        b: int

    @atdata.packable
    class W2:
        a: int

    @atdata.packable
    class W3:
        a: int
        c: str = "c"

    net = atdata.LensNetwork()
    with pytest.raises(LensNotFoundError, match=r"rename=\{'b': 'c'\}"):  # perhaps one field with another name
        net.find(W1, W3)
    steps = net.way(W1, W3, versions=[W1, W2, W3])
    assert [step.relation for step in steps] == ["part", "more"]
    found = atdata.lenses.composition.compose(*(step.lens for step in steps))
    assert found.get(W1(1, 2)) == W3(1, "c")
    assert found.put(W3(5, "c"), W1(1, 2)) == W1(5, 2)
    # A lens of theirs takes the place of what would follow.
    up = lens(W1, W2, lambda src: W2(src.a + src.b))
    net.register(up)
    found = atdata.lenses.composition.compose(*(s.lens for s in net.way(W1, W3, versions=[W1, W2, W3])))
    assert found.get(W1(1, 2)) == W3(3, "c")


def test_names_for_messages() -> None:
    old = stored(V3)
    with pytest.raises(LensNotFoundError) as caught:
        atdata.LensNetwork().way(old, V4, called={old: "V3 1.0.0"})
    assert str(caught.value) == (
        "no lens leads from V3 1.0.0 to V4, and none follows from their fields: V4.size is no field of V3; there are "
        "length, note. Write it: @atdata.lens over `def to_v4(src: V3) -> V4`, or atdata.lens(atdata.Lens.fields(V3, "
        "V4, …)) where only names, types or units changed; V3 is a class with length: float, note: str, split: str"
    )


def test_a_great_many_lenses_between_versions_take_no_time() -> None:
    classes = []
    for i in range(60):
        cls = type(f"K{i}", (), {"__annotations__": {f"f{i}": int, "x": int}})
        classes.append(atdata.packable(cls))
    lenses = [
        lens(a, b, lambda src, b=b: b(0, src.x), f"{a.__name__}_{b.__name__}")
        for i, a in enumerate(classes)
        for b in classes[i + 1 : i + 4]
    ]
    net = network(*lenses)
    assert len(net.find(classes[0], classes[3]).parts) == 1
    with pytest.raises((AmbiguousLensError, LensNotFoundError)):
        net.find(classes[0], V4)
    sample = net.find(classes[3], classes[9]).get(classes[3](3, 7))
    assert dataclasses.astuple(sample) == (0, 7)


def test_a_way_that_is_longer_than_calls_may_be_nested() -> None:
    """A stored chain of lenses may be as long as a stranger likes."""
    names = [f"f{i}" for i in range(221)]
    classes = [atdata.packable(type(f"K{name}", (), {"__annotations__": {name: int}})) for name in names]
    chain = [
        atdata.Lens.fields(classes[i], classes[i + 1], rename={names[i]: names[i + 1]}) for i in range(len(names) - 1)
    ]
    net = network(*chain)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        steps = net.way(classes[0], classes[-1])
    finally:
        sys.setrecursionlimit(before)
    assert [step.lens for step in steps] == chain
