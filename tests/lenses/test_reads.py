"""What a lens reads: exact where it is declared, seen in the code of a getter, and never less than it needs."""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from lens_samples import Labelled, New, Old, Photo, Short, everything, photo
from numpy.typing import NDArray

import atdata
from atdata.errors import LensError, LensValueError
from atdata.lenses.reading import fields_read
from atdata.samples.packable import equal_values
from atdata.testing import samples

ALL = {"image", "label", "iso", "note"}


# -- code whose reading can be seen --------------------------------------------------------------------------


def one(src: Photo) -> Labelled:
    return Labelled(src.label)


def two_on_branches(src: Photo) -> Labelled:
    if src.iso > 100:
        return Labelled("noisy")
    return Labelled(src.label if src.iso else src.label.upper())


def in_a_comprehension(src: Photo) -> Labelled:
    return Labelled("".join(c for c in src.label if src.iso))


def in_a_lambda(src: Photo) -> Labelled:
    letters = sorted(src.label, key=lambda c: c + src.note)
    return Labelled("".join(letters))


def in_a_text(src: Photo) -> Labelled:
    return Labelled(f"{src.label!r:>10} {src.iso:d}")


def by_calling_what_is_in_it(src: Photo) -> Labelled:
    total = src.image.sum(axis=0)[0]
    return Labelled(str(total) + src.label.strip().lower())


def around_an_exception(src: Photo) -> Labelled:
    try:
        return Labelled(src.label.encode().decode("ascii"))
    except UnicodeDecodeError as error:
        return Labelled(f"{error.reason} {src.iso}")


def by_position_only(src: Photo, /) -> Labelled:
    return Labelled(src.label)


def nothing(src: Photo) -> Labelled:
    return Labelled("x")


@pytest.mark.parametrize(
    ("getter", "reads"),
    [
        (one, {"label"}),
        (two_on_branches, {"label", "iso"}),
        (in_a_comprehension, {"label", "iso"}),
        (in_a_lambda, {"label", "note"}),
        (in_a_text, {"label", "iso"}),
        (by_calling_what_is_in_it, {"image", "label"}),
        (around_an_exception, {"label", "iso"}),
        (by_position_only, {"label"}),
        (nothing, set()),
    ],
)
def test_fields_named_in_the_code(getter: Callable[[Photo], Labelled], reads: set[str]) -> None:
    lens = atdata.Lens(getter)
    assert lens.reads == reads
    source = photo("Cat", 7)
    part = types.SimpleNamespace(**{name: getattr(source, name) for name in reads})
    assert lens.get_partial(part) == lens.get(source)


# -- code whose reading cannot ------------------------------------------------------------------------------


def outside(src: Photo) -> str:
    return src.note


def handed_on(src: Photo) -> Labelled:
    return Labelled(outside(src))


def replaced(src: Photo) -> Labelled:
    return Labelled(dataclasses.replace(src, iso=1).note)


def as_a_dict(src: Photo) -> Labelled:
    return Labelled(dataclasses.asdict(src)["note"])


def by_getattr(src: Photo) -> Labelled:
    return Labelled(getattr(src, "no" + "te"))


def by_hasattr(src: Photo) -> Labelled:
    return Labelled("yes" if hasattr(src, "note") else "no")


def by_vars(src: Photo) -> Labelled:
    return Labelled(vars(src)["note"])


def by_its_dict(src: Photo) -> Labelled:
    return Labelled(src.__dict__["note"])


def by_locals(src: Photo) -> Labelled:
    return Labelled(locals()["src"].note)


def by_eval(src: Photo) -> Labelled:
    return Labelled(eval("src.note"))


def by_another_name(src: Photo) -> Labelled:
    other = src
    return Labelled(other.note)


def by_its_class(src: Photo) -> Labelled:
    return Labelled(type(src).__name__)


def by_copy(src: Photo) -> Labelled:
    return Labelled(copy.copy(src).note)


def by_itself(src: Photo) -> Labelled:
    return Labelled(str(src == src))


def by_a_pattern(src: Photo) -> Labelled:
    match src:
        case Photo(note=note):
            return Labelled(note)
    return Labelled("")


def in_a_list(src: Photo) -> Labelled:
    return Labelled("".join(s.note for s in [src]))


def by_a_closure_that_leaves(src: Photo) -> Labelled:
    def inner() -> Photo:
        return src

    return Labelled(inner().note)


def set_anew(src: Photo) -> Labelled:
    src = copy.copy(src)
    return Labelled(src.note)


def through_walrus(src: Photo) -> Labelled:
    return Labelled((other := src).note + other.note)


def starred(src: Photo) -> Labelled:
    return Labelled("".join(str(x) for x in (*[src],)))


def no_field(src: Photo) -> Labelled:
    return Labelled(str(src.packed))  # type: ignore[attr-defined]


def by_method(src: Photo) -> Labelled:
    return Labelled(str(src.from_data))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "getter",
    [
        handed_on, replaced, as_a_dict, by_getattr, by_hasattr, by_vars, by_its_dict, by_locals, by_eval,
        by_another_name, by_its_class, by_copy, by_itself, by_a_pattern, in_a_list, by_a_closure_that_leaves, set_anew,
        through_walrus, starred, no_field, by_method,
    ],
)  # fmt: skip
def test_code_that_may_read_anything_reads_everything(getter: Callable[[Photo], Labelled]) -> None:
    lens = atdata.Lens(getter)
    assert lens.reads == ALL
    assert isinstance(lens.get(photo()), Labelled)


def test_a_class_that_is_more_than_its_fields_is_read_whole() -> None:
    @atdata.packable
    class Computed:
        a: int
        b: int

        def __post_init__(self) -> None:
            self.a += self.b

    @atdata.packable
    class Lazy:
        a: int
        b: int = 0

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

    def of_computed(src: Computed) -> Short:
        return Short(str(src.a))

    def of_lazy(src: Lazy) -> Short:
        return Short(str(src.a))

    assert atdata.Lens(of_computed).reads == {"a", "b"}
    assert atdata.Lens(of_lazy).reads == {"a", "b"}
    declared = atdata.Lens.fields(Computed, Short, rename={"a": "letter"}, drop=["b"], cast=["letter"])
    assert declared.reads == {"a", "b"}


def test_reading_more_than_was_seen_is_an_error() -> None:
    lens = atdata.Lens(one)
    with pytest.raises(LensError) as caught:
        lens.get_partial(types.SimpleNamespace(iso=1))
    assert caught.value.field == "Photo.label"
    assert caught.value.message == (
        "one reads the field 'label', which its code does not show; name it in the getter itself as src.label"
    )

    def wrong(src: Photo) -> Labelled:
        return Labelled(src.lable)  # type: ignore[attr-defined]

    with pytest.raises(AttributeError, match="lable"):  # the getter's own mistake
        atdata.Lens(wrong).get_partial(photo())


def test_a_dict_sample_is_read_whole() -> None:
    def name_it(src: atdata.DictSample) -> Labelled:
        return Labelled(src.label)

    assert atdata.Lens(name_it).reads is None


def test_whatever_the_parameter_is_called() -> None:
    def renamed(fields: Photo) -> Labelled:
        src = "label"
        return Labelled(fields.label + src)

    assert fields_read(renamed, Photo) == {"label"}


# -- declared lenses -----------------------------------------------------------------------------------------

LENS = everything()


def test_a_declared_lens_reads_what_it_says() -> None:
    assert LENS.reads == set(Old.__annotations__) - {"secret"}
    assert LENS.reads_for(["label", "split"]) == {"lbl"}
    assert LENS.reads_for(["frame"]) == {"left", "top"}
    assert LENS.reads_for(["x"]) == {"box"}
    assert LENS.reads_for(["mean"]) == set()


@given(samples(Old))
def test_only_those_fields_give_the_same_view(source: Old) -> None:
    part = types.SimpleNamespace(**{name: getattr(source, name) for name in LENS.reads})
    try:
        view = LENS.get(source)
    except LensValueError:
        with pytest.raises(LensValueError):
            LENS.get_partial(part)
        return
    assert LENS.get_partial(part) == view
    for name in New.__annotations__:
        some = types.SimpleNamespace(**{f: getattr(source, f) for f in LENS.reads_for([name])})
        assert equal_values(getattr(LENS.see_only(some, [name]), name), getattr(view, name))


def test_arrays_of_a_column_come_as_arrays() -> None:
    @atdata.packable
    class Point:
        at: NDArray[np.float64]

    def double(src: Point) -> Point:
        assert isinstance(src.at, np.ndarray)
        return Point(np.asarray(src.at * 2))

    lens = atdata.Lens(double)
    found = lens.get_columns({"at": np.array([1.0, 2.0])})["at"]
    assert found.tolist() == [2.0, 4.0]
    ragged = lens.get_columns({"at": [np.zeros(1), np.ones(2)]})["at"]
    assert [a.tolist() for a in ragged] == [[0.0], [2.0, 2.0]]
