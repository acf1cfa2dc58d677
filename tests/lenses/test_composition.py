"""Lenses one after another: what comes out, what is read for it, and what does not go together."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from lens_samples import Labelled, Photo, Short, declared, photo, shorten, simplify

import atdata
from atdata.errors import LensDefinitionError, LensError
from atdata.testing import samples


def shout(src: Short) -> Labelled:
    return Labelled(src.letter.upper())


def whisper(view: Labelled, src: Short) -> Short:
    return Short(view.label.lower())


loud = atdata.Lens(shout, whisper)


@given(samples(Photo))
def test_both_ways_of_writing_it_and_any_grouping_are_the_same(source: Photo) -> None:
    whole = simplify | shorten | loud
    assert whole == simplify | (shorten | loud) == loud @ shorten @ simplify == loud @ (shorten @ simplify)
    assert whole.get(source) == loud.get(shorten.get(simplify.get(source)))
    assert (whole.source, whole.view, whole.name) == (Photo, Labelled, "simplify | first_letter | shout")
    assert whole.parts == (simplify, shorten, loud)


@given(samples(Photo), samples(Short))
def test_writing_goes_back_through_every_part(source: Photo, view: Short) -> None:
    both = simplify | shorten
    assert both.put(view, source) == simplify.put(shorten.put(view, simplify.get(source)), source)


def test_identity_changes_nothing() -> None:
    same = atdata.Lens.identity(Photo)
    one = photo()
    assert same.get(one) is one
    assert same.put(photo("dog"), one) == photo("dog")
    assert (same | simplify) is simplify
    assert (simplify | atdata.Lens.identity(Labelled)) is simplify
    assert (same | same) == same == atdata.Lens.identity(Photo)
    assert same != atdata.Lens.identity(Short)
    assert same.reads == {"image", "label", "iso", "note"}
    assert same.reads_for(["iso"]) == {"iso"}
    columns = {"image": np.zeros((2, 3)), "label": ["a", "b"], "iso": [1, 2], "note": ["", ""]}
    assert same.get_columns(columns, ["iso"]) == {"iso": [1, 2]}
    assert same.get_columns(columns).keys() == columns.keys()
    with pytest.raises(LensError, match="reads Photo, not Short"):
        same.get(Short("x"))  # type: ignore[arg-type]
    with pytest.raises(LensDefinitionError, match="an identity lens is of no sample type"):
        atdata.Lens.identity(int)


def test_lenses_that_do_not_meet() -> None:
    with pytest.raises(LensDefinitionError, match="simplify gives Labelled, but simplify reads Photo"):
        simplify | simplify  # type: ignore[operator]
    with pytest.raises(LensDefinitionError, match="first_letter gives Short, but simplify reads Photo"):
        simplify @ shorten  # type: ignore[operator]
    with pytest.raises(TypeError, match="unsupported operand"):
        simplify | 3  # type: ignore[operator]
    with pytest.raises(TypeError, match="unsupported operand"):
        simplify @ len  # type: ignore[operator]

    @atdata.packable
    class Labelled:  # another of that name
        label: str

    @atdata.lens
    def longer(src: Labelled) -> Short:
        return Short(src.label)

    with pytest.raises(LensDefinitionError, match="but longer reads Labelled, another class of that name"):
        simplify | longer  # type: ignore[operator]


def test_without_one_putter_nothing_is_written() -> None:
    def only_read(src: Labelled) -> Short:
        return Short(src.label)

    chain = simplify | atdata.Lens(only_read)
    assert not chain.editable
    assert (simplify | shorten).editable
    with pytest.raises(LensError, match="only_read has no putter"):
        chain.put(Short("x"), photo())


def test_a_putter_that_comes_later_counts() -> None:
    def read(src: Labelled) -> Short:
        return Short(src.label)

    late = atdata.Lens(read)
    chain = simplify | late
    late.putter(lambda view, src: Labelled(view.letter))
    assert chain.put(Short("dog"), photo("cat")) == photo("dog")


@atdata.packable
class Pair:
    first: str
    second: int
    third: float


def test_only_what_the_last_one_needs_is_read() -> None:
    pair = atdata.Lens.fields(
        Photo, Pair, rename={"label": "first", "iso": "second"}, drop=["image", "note"], default={"third": 0.5}
    )

    @atdata.lens
    def second(src: Pair) -> Short:
        return Short(str(src.second))

    both = pair | second
    assert pair.reads == {"label", "iso"}
    assert both.reads == {"iso"}
    assert both.get(photo(iso=7)) == Short("7")
    assert both.get_columns({"iso": [1, 2]}) == {"letter": ["1", "2"]}
    assert pair.reads_for(["first", "third"]) == {"label"}
    assert pair.get_columns({"label": ["a"]}, ["first", "third"]) == {"first": ["a"], "third": [0.5]}
    assert (pair | second).reads_for(["letter"]) == {"iso"}


def test_a_view_that_needs_nothing() -> None:
    def always(src: Labelled) -> Short:
        return Short("x")

    nothing = declared | atdata.Lens(always)
    assert nothing.reads == frozenset()
    assert nothing.get(photo()) == Short("x")
    assert nothing.get_columns({"label": ["a", "b"]}) == {"letter": ["x", "x"]}
    with pytest.raises(LensError, match="there is no column, so the number of samples is not known"):
        nothing.get_columns({})


def test_a_view_that_computes_its_fields_needs_all_it_is_made_of() -> None:
    @atdata.packable
    class Sum:
        a: int
        b: int

        def __post_init__(self) -> None:
            self.b = self.a + self.b

    @atdata.packable
    class Plain:
        a: int
        b: int

    plain = atdata.Lens.fields(Plain, Sum)

    @atdata.lens
    def total(src: Sum) -> Short:
        return Short(str(src.b))

    both = plain | total
    assert both.get(Plain(1, 2)) == Short("3")
    assert both.reads == {"a", "b"}
    assert plain.get_columns({"a": [1, 2], "b": [3, 4]}) == {"a": [1, 2], "b": [4, 6]}
    assert plain.by_columns
    assert not both.by_columns
    with pytest.raises(LensError, match="total cannot read columns: Sum computes its fields when it is made"):
        both.get_columns({"a": [1], "b": [2]})


@given(samples(Photo))
def test_code_after_declarations_and_the_other_way_round(source: Photo) -> None:
    one: Any = declared | shorten
    assert one.get(source) == Short(source.label[:1])
    longer = dataclasses.replace(source, label="ab" + source.label)
    assert one.put(Short("x"), longer).label == "x" + longer.label[1:]
