"""Declared lenses: what each operation does, that the laws hold for all of them, and what is refused."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from lens_samples import Box, Color, Labelled, New, Old, Photo, everything, old, photo
from numpy.typing import NDArray

import atdata
from atdata.errors import LensDefinitionError, LensError, LensValueError
from atdata.samples.packable import equal_values
from atdata.testing import samples

fields = atdata.Lens.fields
LENS = everything()


def test_every_operation_at_once() -> None:
    assert LENS.get(old()) == New(
        label="cat",
        color="red",
        count=3,
        metres=2.5,
        kilos=1.5,
        pixels=np.array([[0, -2, -4], [-6, -8, -10]], np.int32),
        exact=np.array([0.5, 0.25], np.float32),
        when="2026-01-02T03:04:00",
        x=1.0,
        y=2.0,
        frame=Box(3.0, 4.0),
        maybe=7,
        many=(1.0, 2.0),
        same={"k": 1.5},
        split="train",
        tags=["a", "b"],
        mean=np.array([0.0, 1.0, 2.0]),
    )
    view = dataclasses.replace(
        LENS.get(old()),
        label="dog",
        color="blue",
        count=4,
        metres=3.07,
        kilos=2.25,
        pixels=np.array([[-2]], np.int32),
        exact=np.array([1.0], np.float32),
        when="2025-01-02T03:04:00+00:00",
        x=5.0,
        frame=Box(6.0, 4.0),
        maybe=8,
        many=(3.0,),
        same={},
    )
    assert LENS.put(view, old()) == old(
        lbl="dog",
        color=Color.BLUE,
        count=4,
        cm=307,
        grams=2250.0,
        pixels=np.array([[1]], np.uint8),
        exact=np.array([1.0]),
        when=datetime.fromisoformat("2025-01-02T03:04:00+00:00"),
        box=Box(5.0, 2.0),
        left=6.0,
        maybe=8,
        many=[3],
        same={},
    )


def made_of(name: str, hint: Any) -> type:
    return atdata.packable(type(name, (), {"__annotations__": {"x": hint}}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old_type", "new_type", "declared"),
    [
        (str, int, {"drop": ["x"], "default": {"x": 7}}),
        (int, int | None, {}),
        (int | None, int, {"cast": ["x"]}),
        (int, float, {"cast": ["x"]}),
        (float, int, {"cast": ["x"]}),
        (bool, int, {"cast": ["x"]}),
        (int, bool, {"cast": ["x"]}),
        (int, str, {"cast": ["x"]}),
        (float, str, {"cast": ["x"]}),
        (Color, str, {"cast": ["x"]}),
        (datetime, str, {"cast": ["x"]}),
        (atdata.Image, bytes, {"cast": ["x"]}),
        (list[int], tuple[float, ...], {"cast": ["x"]}),
        (dict[str, float | None], dict[str, float], {"cast": ["x"]}),
        (int, int, {"scale": {"x": 3}}),
        (int, int, {"scale": {"x": Fraction(1, 3)}}),
        (float, float, {"scale": {"x": 1000}}),
        (float, float, {"scale": {"x": 0.001}}),
        (float, float, {"scale": {"x": Fraction(-7, 3)}}),
        (int, float, {"cast": ["x"], "scale": {"x": 0.01}}),
        (float, int, {"cast": ["x"], "scale": {"x": 100}}),
        (NDArray[np.float64], NDArray[np.float32], {"cast": ["x"]}),
        (NDArray[np.float16], NDArray[np.float64], {"cast": ["x"]}),
        (NDArray[np.int64], NDArray[np.uint8], {"cast": ["x"]}),
        (NDArray[np.int64], NDArray[np.float64], {"cast": ["x"]}),
        (NDArray[np.float32], NDArray[np.int16], {"cast": ["x"]}),
        (NDArray[np.complex64], NDArray[np.complex128], {"cast": ["x"]}),
        (NDArray[np.bool_], NDArray[np.int8], {"cast": ["x"]}),
        (NDArray[np.float32], NDArray[np.float32], {"scale": {"x": 0.1}}),
        (NDArray[np.int16], NDArray[np.int16], {"scale": {"x": 2}}),
        (NDArray[np.int16], NDArray[np.float64], {"cast": ["x"], "scale": {"x": 0.01}}),
        (np.ndarray, NDArray[np.float32], {"cast": ["x"]}),
        (Annotated[NDArray[np.uint8], atdata.Shape("h", 2)], NDArray[np.uint8] | None, {}),
    ],
)
def test_the_laws_hold_for_every_operation(old_type: Any, new_type: Any, declared: dict[str, Any]) -> None:
    source, view = made_of("Source", old_type), made_of("View", new_type)
    if declared.get("default"):
        view = atdata.packable(type("View", (), {"__annotations__": {"y": new_type}}))
        declared = {"drop": ["x"], "default": {"y": 7}}
    report = atdata.check_laws(fields(source, view, **declared), examples=60)
    assert {law.name for law in report.laws} == {"Get", "GetPut", "PutGet", "PutPut"}
    assert all(law.examples > 0 for law in report.laws)


@given(samples(Old))
def test_what_can_be_read_can_be_written_back_unchanged(source: Old) -> None:
    try:
        view = LENS.get(source)
    except LensValueError:
        return
    assert LENS.put(view, source) == source
    atdata.pack(view)


def test_constants_are_made_anew() -> None:
    first, second = LENS.get(old()), LENS.get(old())
    first.tags.append("mine")
    first.mean[0] = 9
    assert second.tags == ["a", "b"]
    assert LENS.get(old()).mean[0] == 0


def test_the_source_is_never_changed() -> None:
    source = old()
    view = LENS.get(source)
    view.label = "other"
    LENS.put(view, source)
    assert source == old()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, r"New\.split: is always 'train': the source has no field for 'test'"),
        ({"tags": ["a"]}, r"New\.tags: is always \['a', 'b'\]"),
        ({"mean": np.arange(3.0, dtype=np.float32)}, r"New\.mean: expected ndarray\[float64\], got float32|New\.mean"),
        ({"color": "green"}, r"New\.color: 'green' is not a member of Color"),
        ({"count": None}, r"New\.count: expected int, got NoneType"),
        ({"metres": 2.505}, r"New\.metres: 2\.505 cannot be made int without losing something"),
        ({"metres": float("nan")}, r"New\.metres: nan is no whole number"),
        ({"pixels": np.array([[3]], np.int32)}, r"New\.pixels: 3 at \[0, 0\] cannot be made uint8"),
        ({"pixels": np.array([[2]], np.int32)}, r"New\.pixels: 2 at \[0, 0\] cannot be made uint8"),
        ({"when": "yesterday"}, r"New\.when: 'yesterday' is not a date and time"),
        (
            {"when": "2026-01-02"},
            r"New\.when: '2026-01-02' cannot be written back: it would be read as '2026-01-02T00:",
        ),
        ({"many": (0.5,)}, r"New\.many: 0\.5 cannot be made int"),
        ({"many": 3}, r"New\.many: expected tuple\[float, \.\.\.\], got int"),
        ({"frame": None}, r"New\.frame\.x: AttributeError: 'NoneType' object has no attribute 'x'"),
    ],
)
def test_views_that_cannot_be_written_back(changes: dict[str, Any], message: str) -> None:
    view = dataclasses.replace(LENS.get(old()), **changes)
    with pytest.raises(LensValueError, match=message) as caught:
        LENS.put(view, old())
    assert caught.value.field is not None
    assert caught.value.field.startswith(f"New.{next(iter(changes))}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maybe": None}, r"New\.maybe: expected int, got NoneType"),
        ({"cm": 2**60 + 1}, r"New\.metres: 1152921504606846977 cannot be made float without losing something"),
        ({"cm": "250"}, r"New\.metres: TypeError"),
        ({"many": [1, 2**53 + 1]}, r"New\.many: 9007199254740993 cannot be made float"),
        ({"pixels": None}, r"New\.pixels: expected ndarray\[uint8\], got NoneType"),
        ({"pixels": np.zeros(2)}, r"New\.pixels: expected uint8 array, got float64"),
        ({"exact": np.array([1e300])}, r"New\.exact: 1e\+300 at \[0\] cannot be made float32"),
        ({"grams": 1}, None),
    ],
)
def test_sources_that_cannot_be_read(changes: dict[str, Any], message: str | None) -> None:
    if message is None:
        LENS.get(old(**changes))
        return
    with pytest.raises(LensValueError, match=message):
        LENS.get(old(**changes))


def test_what_was_rounded_cannot_be_changed_but_all_else_can() -> None:
    source = old(exact=np.array([0.1, 0.2]), grams=0.3)
    view = LENS.get(source)
    assert view.exact.tolist() == [np.float32(0.1), np.float32(0.2)]
    again = LENS.put(dataclasses.replace(view, label="dog", exact=view.exact.copy()), source)
    assert again == dataclasses.replace(source, lbl="dog")
    with pytest.raises(
        LensValueError, match=r"New\.exact: the source's array of float64 \(2,\) is only read approximat"
    ):
        LENS.put(dataclasses.replace(view, exact=np.array([0.5], np.float32)), source)


# -- what is declared wrongly --------------------------------------------------------------------------------


@atdata.packable
class Exif:
    iso: int
    lens: str


@atdata.packable
class Shot:
    exif: Exif
    maybe: Exif | None
    label: str


@atdata.packable
class Flat:
    iso: int
    lens: str
    label: str


REST = ["image", "iso", "note"]


@pytest.mark.parametrize(
    ("source", "view", "declared", "message"),
    [
        (
            Photo,
            Labelled,
            {},
            r"Photo\.image: goes nowhere: drop it, or rename it to a field of Labelled; there are label",
        ),
        (Photo, Labelled, {"drop": ["imgae"]}, r"Photo\.imgae: Photo has no field 'imgae'; did you mean image\?"),
        (Labelled, Photo, {"default": {"iso": 1}}, r"Photo\.image: comes from nowhere: give it a default, or rename"),
        (
            Photo,
            Labelled,
            {"drop": [*REST, "label"]},
            r"Labelled\.label: comes from nowhere: Photo\.label is dropped",
        ),
        (
            Photo,
            Labelled,
            {"drop": REST, "rename": {"label": "lable"}},
            r"Labelled\.lable: Labelled has no field 'lable'; did you mean label\?",
        ),
        (Photo, Labelled, {"drop": REST, "rename": {"lbl": "label"}}, r"Photo\.lbl: Photo has no field 'lbl'"),
        (
            Photo,
            Labelled,
            {"drop": ["image", "iso"], "rename": {"note": "label"}},
            r"Photo\.label: goes nowhere",
        ),
        (
            Photo,
            Labelled,
            {"drop": ["image", "iso"], "rename": {"note": "label", "label": "label"}},
            r"Labelled\.label: comes from both note and label",
        ),
        (
            Photo,
            Labelled,
            {"drop": [*REST, "label"], "rename": {"label": "label"}},
            r"is both dropped and moved to label",
        ),
        (Photo, Labelled, {"drop": REST, "rename": {"label": 3}}, r"Photo\.label: rename gives it no name, but 3"),
        (
            Photo,
            Labelled,
            {"drop": REST, "default": {"label": "x"}},
            r"Labelled\.label: has a default, but Photo has such",
        ),
        (
            Photo,
            Labelled,
            {"drop": [*REST, "label"], "default": {"label": 3}},
            r"Labelled\.label: the default does not fit: expected str, got int",
        ),
        (
            Photo,
            Labelled,
            {"drop": REST, "rename": {"label": "label"}, "default": {"label": "x"}},
            r"has both a default and a field that it comes from",
        ),
        (Photo, Labelled, {"drop": REST, "cast": ["label"]}, r"Labelled\.label: needs no cast: it is str in both"),
        (
            Photo,
            Labelled,
            {"drop": ["image", "note", "label"], "rename": {"iso": "label"}},
            r"Labelled\.label: is str, and Photo\.iso is int: say cast=\['label'\] if that is meant",
        ),
        (
            Photo,
            Labelled,
            {"drop": ["label", "note", "iso"], "rename": {"image": "label"}, "cast": ["label"]},
            r"Labelled\.label: is str, and no cast leads there from Photo\.image, which is ndarray\[uint8\]; write",
        ),
        (
            Photo,
            Labelled,
            {"drop": REST, "scale": {"label": 2}},
            r"Labelled\.label: cannot be scaled: Photo\.label is str",
        ),
        (Photo, Labelled, {"drop": REST, "scale": {"label": 0}}, r"label: a factor of 0 would lose every value"),
        (Photo, Labelled, {"drop": REST, "scale": {"label": float("inf")}}, r"label: inf is no factor"),
        (Photo, Labelled, {"drop": REST, "scale": {"label": True}}, r"label: a factor is a number, not True"),
        (Photo, Labelled, {"drop": REST, "scale": {"label": 2**60}}, r"ratio of whole numbers up to 2\*\*53"),
        (Photo, Labelled, {"drop": "image"}, r"drop is a list of names of fields, not 'image'"),
        (Photo, Labelled, {"rename": ["lbl"]}, r"rename is a dict with names of fields as keys, not \['lbl'\]"),
        (
            Photo,
            Labelled,
            {"drop": REST, "nest": {"label": ["iso"]}},
            r"label is str, so there is no field 'iso' in it",
        ),
        (Photo, Labelled, {"drop": REST, "unnest": ["label"]}, r"Photo\.label: is str, which has no fields to unnest"),
        (Shot, Flat, {"unnest": ["maybe"]}, r"Shot\.maybe: is Exif or None, which has no fields to unnest"),
        (
            Shot,
            Flat,
            {"rename": {"maybe.iso": "iso"}},
            r"Shot\.maybe\.iso: maybe is Exif or None and may be None, so there is no field 'iso' in it",
        ),
        (Shot, Flat, {"unnest": ["exif"]}, r"Shot\.maybe: goes nowhere"),
        (Shot, Flat, {"drop": ["maybe"], "rename": {"exif.iso": "iso"}}, r"Flat\.lens: comes from nowhere.*exif\.lens"),
        (
            Shot,
            Flat,
            {"drop": ["maybe", "exif"], "rename": {"exif.iso": "iso", "exif.lens": "lens"}},
            r"Shot\.exif: is named both whole and by its parts",
        ),
        (Shot, Flat, {"drop": ["a" + ".a" * 40]}, r"nested more than 32 deep"),
        (Flat, Shot, {"nest": {"exif": ["iso", "lens"]}}, r"Shot\.maybe: comes from nowhere"),
        (int, Labelled, {}, r"the source of the lens is no sample type: <class 'int'>"),
        (Photo, "Labelled", {"drop": REST}, r"the view of the lens is no sample type"),
        (
            atdata.DictSample,
            Labelled,
            {},
            r"the source of a declared lens has declared fields, which DictSample has not",
        ),
    ],
)
def test_declarations_that_make_no_sense(source: Any, view: Any, declared: dict[str, Any], message: str) -> None:
    with pytest.raises(LensDefinitionError, match=message):
        fields(source, view, **declared)


# -- one operation by itself ---------------------------------------------------------------------------------


def test_parts_go_in_and_out_of_nested_samples() -> None:
    flat = fields(Shot, Flat, drop=["maybe"], unnest=["exif"])
    shot = Shot(Exif(100, "50mm"), None, "cat")
    assert flat.get(shot) == Flat(100, "50mm", "cat")
    assert flat.put(Flat(200, "50mm", "dog"), shot) == Shot(Exif(200, "50mm"), None, "dog")
    assert flat.reads == {"exif", "label"}
    back = fields(Flat, Shot, nest={"exif": ["iso", "lens"]}, default={"maybe": None})
    assert back.get(Flat(100, "50mm", "cat")) == shot
    assert back.put(Shot(Exif(7, "x"), None, "y"), Flat(1, "2", "3")) == Flat(7, "x", "y")
    partly = fields(Shot, Flat, drop=["maybe", "exif.lens"], rename={"exif.iso": "iso"}, default={"lens": ""})
    assert partly.get(shot) == Flat(100, "", "cat")
    assert partly.put(Flat(5, "", "cat"), shot) == Shot(Exif(5, "50mm"), None, "cat")
    both = flat | fields(Flat, Shot, nest={"exif": ["iso", "lens"]}, default={"maybe": Exif(0, "")})
    assert both.get(shot) == Shot(Exif(100, "50mm"), Exif(0, ""), "cat")


def test_parts_of_the_same_nested_class_may_be_changed_in_place() -> None:
    @atdata.packable
    class Metres:
        box: Box
        label: str

    @atdata.packable
    class Feet:
        box: Box
        label: str

    feet = fields(Metres, Feet, scale={"box.x": Fraction(10_000, 3048)})
    assert feet.get(Metres(Box(0.3048, 2.0), "a")).box == Box(1.0, 2.0)
    assert feet.put(Feet(Box(10.0, 3.0), "a"), Metres(Box(0.3048, 2.0), "a")).box == Box(3.048, 3.0)


def test_a_nested_sample_moves_whole_while_another_is_made() -> None:
    @atdata.packable
    class Before:
        box: Box
        x: float
        y: float

    @atdata.packable
    class After:
        outer: Box
        box: Box

    made = fields(Before, After, rename={"box": "outer"}, nest={"box": ["x", "y"]})
    assert made.get(Before(Box(1, 2), 3, 4)) == After(Box(1, 2), Box(3, 4))
    assert made.put(After(Box(5, 6), Box(7, 8)), Before(Box(1, 2), 3, 4)) == Before(Box(5, 6), 7, 8)


def test_fields_trade_their_names() -> None:
    @atdata.packable
    class Pair:
        a: int
        b: int

    @atdata.packable
    class Riap:
        a: int
        b: int

    swap = fields(Pair, Riap, rename={"a": "b", "b": "a"})
    assert swap.get(Pair(1, 2)) == Riap(2, 1)
    assert swap.put(Riap(3, 4), Pair(1, 2)) == Pair(4, 3)
    assert fields(Pair, Pair, rename={"a": "b", "b": "a"}).get(Pair(1, 2)) == Pair(2, 1)


def test_wider_types_need_no_cast() -> None:
    @atdata.packable
    class Tight:
        n: int
        choice: Literal["a", "b"]
        array: Annotated[NDArray[np.uint8], atdata.Shape(2, 3)]
        items: list[int]

    @atdata.packable
    class Wide:
        n: int | None
        choice: str
        array: np.ndarray[Any, Any] | None
        items: list[int | None]

    wide = fields(Tight, Wide)
    one = Tight(1, "a", np.zeros((2, 3), np.uint8), [1])
    assert wide.get(one).array is one.array
    assert wide.put(Wide(2, "b", np.ones((2, 3), np.uint8), [3]), one) == Tight(2, "b", np.ones((2, 3), np.uint8), [3])
    for changes in ({"n": None}, {"choice": "c"}, {"array": None}, {"array": np.zeros(3)}, {"items": [None]}):
        with pytest.raises(LensValueError):
            wide.put(dataclasses.replace(wide.get(one), **changes), one)
    narrow = fields(Wide, Tight, cast=["n", "choice", "array", "items"])
    assert narrow.get(wide.get(one)) == one
    for changes in ({"n": None}, {"choice": "c"}, {"array": None}, {"array": np.zeros((3, 2), np.uint8)}):
        with pytest.raises(LensValueError):
            narrow.get(dataclasses.replace(wide.get(one), **changes))


def test_classes_that_are_frozen_by_name_only_or_compute() -> None:
    @atdata.packable
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Cold:
        a: int
        twice: int = dataclasses.field(init=False, default=0)

        def __post_init__(self) -> None:
            object.__setattr__(self, "twice", 2 * self.a)

    @atdata.packable
    class Warm:
        b: int

    warm = fields(Cold, Warm, rename={"a": "b"})
    assert warm.put(Warm(5), Cold(a=1)) == Cold(a=5)
    assert warm.put(Warm(5), Cold(a=1)).twice == 10
    cold = fields(Warm, Cold, rename={"b": "a"})
    assert cold.get(Warm(4)).twice == 8


def test_declarations_are_compared_by_what_they_say() -> None:
    one = fields(Photo, Labelled, drop=["image", "iso", "note"])
    other = fields(Photo, Labelled, drop={"note", "iso", "image"})
    assert one == other
    assert hash(one) == hash(other)
    assert one.cid == other.cid
    assert one != fields(Photo, Labelled, drop=["image", "iso", "label"], rename={"note": "label"})
    assert one != "lens"
    assert repr(one) == "<Lens fields(Photo -> Labelled): Photo -> Labelled>"


def test_many_columns_at_once_are_as_one_by_one() -> None:
    with pytest.raises(LensError, match=r"New has no field 'lable'; did you mean label or maybe\?"):
        LENS.get_columns({"lbl": ["a"]}, ["lable"])
    with pytest.raises(LensValueError, match=r"New\.maybe: expected int, got NoneType \(sample 1 of the batch\)"):
        LENS.get_columns({"maybe": [1, None]}, ["maybe"])
    with pytest.raises(LensValueError, match=r"New\.exact: 1e\+300 at \[1\] cannot be made float32.*\(sample 2 of the"):
        LENS.get_columns({"exact": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 1e300]])}, ["exact"])
    found = LENS.get_columns({"exact": np.ones((3, 2))}, ["exact"])["exact"]
    assert (found.dtype, found.shape) == (np.float32, (3, 2))


@given(samples(Old), samples(Old))
def test_columns_have_the_same_values_as_samples(first: Old, second: Old) -> None:
    sources = [first, second, old(), first]
    columns = atdata.SampleBatch(sources)
    for name in New.__annotations__:
        try:
            views = [LENS.see_only(source, [name]) for source in sources]
        except LensValueError:
            with pytest.raises(LensValueError):
                LENS.get_columns({f: columns[f] for f in LENS.reads_for([name])} or {"cm": [0] * 4}, [name])
            continue
        given_columns = {f: columns[f] for f in LENS.reads_for([name])} or {"cm": [0] * 4}
        found = LENS.get_columns(given_columns, [name])
        assert list(found) == [name]
        values = atdata.SampleBatch([getattr(v, name) for v in views])._samples or []
        assert len(found[name]) == 4
        for i, value in enumerate(values):
            got = found[name][i, ...] if isinstance(found[name], np.ndarray) else found[name][i]
            assert equal_values(got, value), (name, got, value)


def test_reading_is_cheap() -> None:
    assert fields(Photo, Labelled, drop=REST).get(photo()) == Labelled("cat")
