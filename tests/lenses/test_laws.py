"""`check_laws`: which law is broken, on which smallest example, said so that people can read it."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from typing import Any, Literal

import numpy as np
import pytest
from lens_samples import Labelled, Photo, Short, declared, photo, shorten, simplify
from numpy.typing import NDArray

import atdata
from atdata.errors import LensError, LensLawError, LensValueError
from atdata.testing.laws import Law


def read(src: Photo) -> Labelled:
    return Labelled(src.label)


def broken(lens: atdata.Lens[Any, Any], *laws: str) -> dict[str, Law]:
    with pytest.raises(LensLawError) as caught:
        atdata.check_laws(lens, examples=40)
    found = {law.name: law for law in caught.value.report.broken}
    assert set(found) == set(laws)
    assert all(str(law).split("\n")[0].strip() in str(caught.value) for law in found.values())
    return found


def test_a_lens_that_obeys() -> None:
    report = atdata.check_laws(simplify, examples=40)
    assert [(law.name, law.holds, law.examples) for law in report.laws] == [
        ("Get", True, 40),
        ("GetPut", True, 40),
        ("PutGet", True, 40),
        ("PutPut", True, 40),
    ]
    assert str(report).splitlines()[:2] == [
        "simplify: Photo -> Labelled",
        "  Get    holds on 40 examples: every sample has a view that can be stored",
    ]
    assert report == atdata.check_laws(simplify, examples=40)  # the same examples every time
    assert atdata.check_laws(declared, examples=20).broken == ()


def test_of_a_lens_that_only_reads_reading_is_tried() -> None:
    assert [law.name for law in atdata.check_laws(atdata.Lens(read), examples=20).laws] == ["Get"]


def test_getput_is_broken() -> None:
    def writes_too_much(view: Labelled, src: Photo) -> Photo:
        return dataclasses.replace(src, label=view.label, note="")

    law = broken(atdata.Lens(read, writes_too_much), "GetPut")["GetPut"]
    assert law.problem == "different in note"
    assert law.example["s"].note == "0"  # the smallest text that is lost
    assert law.example["put(get(s), s)"].note == ""
    lines = str(law).splitlines()
    assert lines[0] == "GetPut is broken: put(get(s), s) == s: writing back what was read changes nothing"
    assert lines[2:] == [
        "    s = Photo(image=uint8 () 0, label='', iso=0, note='0')",
        "    get(s) = Labelled(label='')",
        "    put(get(s), s) = Photo(image=uint8 () 0, label='', iso=0, note='')",
    ]


def test_putget_is_broken() -> None:
    def writes_nothing(view: Labelled, src: Photo) -> Photo:
        return src

    law = broken(atdata.Lens(read, writes_nothing), "PutGet")["PutGet"]
    assert law.problem == "different in label"
    assert {law.example["v"].label, law.example["get(put(v, s))"].label} == {"", "0"}


def test_putput_is_broken() -> None:
    def counts(view: Labelled, src: Photo) -> Photo:
        changed = view.label != src.label
        return dataclasses.replace(src, label=view.label, iso=min(src.iso, 2**62) + 1 if changed else src.iso)

    law = broken(atdata.Lens(read, counts), "PutPut")["PutPut"]
    assert law.problem == "different in iso"
    assert set(law.example) == {"s", "v1", "v2", "put(v2, s)", "put(v1, s)", "put(v2, put(v1, s))"}


def test_a_getter_that_fails_on_some_samples() -> None:
    def first(src: Photo) -> Short:
        return Short(src.label[0])

    law = broken(atdata.Lens(first), "Get")["Get"]
    assert law.problem == "get(s) raised IndexError: string index out of range"
    assert law.example["s"].label == ""


def test_a_view_that_cannot_be_stored() -> None:
    def none(src: Photo) -> Labelled:
        return Labelled(None)  # type: ignore[arg-type]

    law = broken(atdata.Lens(none), "Get")["Get"]
    assert law.problem == "get(s) cannot be stored: Labelled.label: expected str, got NoneType"


def test_a_putter_that_changes_what_it_is_given() -> None:
    def in_place(view: Labelled, src: Photo) -> Photo:
        src.label = view.label
        return src

    found = broken(atdata.Lens(read, in_place), "PutGet", "PutPut")
    assert found["PutGet"].problem == "put(v, s) changed label of the Photo it was given"
    assert found["PutGet"].example["s"].label != found["PutGet"].example["v"].label  # as it was before


def test_a_lens_that_is_different_every_time() -> None:
    calls = []

    def random(src: Photo) -> Labelled:
        calls.append(1)
        return Labelled(src.label + "x" * (len(calls) % 7))

    law = broken(atdata.Lens(random, lambda view, src: dataclasses.replace(src, label=view.label)), "GetPut", "PutGet")
    assert all(found.problem for found in law.values())


@atdata.packable
class Signal:
    values: NDArray[np.float64]


@atdata.packable
class Halved:
    values: NDArray[np.float64]


def test_nan_equals_nan_and_arrays_are_compared_whole() -> None:
    def halve(src: Signal) -> Halved:
        return Halved(np.asarray(src.values / 2))

    def double(view: Halved, src: Signal) -> Signal:
        with np.errstate(over="ignore"):
            return Signal(np.asarray(view.values * 2))

    # The byte order is lost, and so are the last bits of the smallest numbers; NaN, found on the way, makes no noise.
    with pytest.raises(LensLawError) as caught:
        atdata.check_laws(atdata.Lens(halve, double))
    assert caught.value.report["GetPut"].problem == "different in values"

    def same(src: Signal) -> Halved:
        return Halved(src.values.copy())

    def back(view: Halved, src: Signal) -> Signal:
        return Signal(view.values.copy())

    assert atdata.check_laws(atdata.Lens(same, back), examples=60).broken == ()


def test_arrays_are_shown_in_short() -> None:
    def drop_last(src: Signal) -> Halved:
        return Halved(src.values.reshape(-1)[:-1])

    sources = [Signal(np.arange(100.0).reshape(10, 10))]
    with pytest.raises(LensLawError) as caught:
        atdata.check_laws(atdata.Lens(drop_last, lambda view, src: Signal(view.values)), samples=sources)
    text = str(caught.value)
    assert "s = Signal(values=float64 (10, 10) [[ 0., 1., ..., 8., 9.], [10., 11., ..., 18., 19.], ...," in text
    assert "put(get(s), s) = Signal(values=float64 (99,) [ 0., 1., ..., 97., 98.])" in text


@atdata.packable
class Choice:
    label: Literal["a", "b"]


def test_what_is_refused_counts_as_no_example() -> None:
    choice = atdata.Lens.fields(Labelled, Choice, cast=["label"])
    with pytest.raises(
        LensLawError, match=r"could not be tried, as all samples were refused.*give samples that suit it"
    ):
        atdata.check_laws(choice, examples=5)
    report = atdata.check_laws(choice, examples=20, samples=[Labelled("a"), Labelled("b"), Labelled("c")])
    assert all(law.examples > 0 for law in report.laws)

    def even(src: Photo) -> Labelled:
        if src.iso % 2:
            raise LensValueError("odd")
        return Labelled(src.label)

    assert atdata.check_laws(atdata.Lens(even), examples=20)["Get"].holds


def test_composed_lenses_are_tried_too() -> None:
    # More letters than one, or none, are not read back.
    found = broken(simplify | shorten, "PutGet", "PutPut")
    assert [law.problem for law in found.values()] == ["different in letter", "different in label"]
    view = atdata.Lens.fields(Labelled, Short, rename={"label": "letter"})
    assert atdata.check_laws(simplify | view, examples=20).broken == ()
    assert atdata.check_laws(atdata.Lens.identity(Photo), examples=20).broken == ()


def test_types_without_declared_fields() -> None:
    def name_it(src: atdata.DictSample) -> Labelled:
        return Labelled("")

    with pytest.raises(LensError, match="name_it: the laws are tried on classes with declared fields"):
        atdata.check_laws(atdata.Lens(name_it))


def test_the_error_survives_pickling() -> None:
    error = LensLawError("broken", report=atdata.check_laws(simplify, examples=2))
    assert pickle.loads(pickle.dumps(error)).report == error.report


def test_without_hypothesis() -> None:
    program = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import atdata\n"
        "@atdata.packable\nclass A:\n    x: int\n"
        "try: atdata.check_laws(atdata.Lens.identity(A))\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "generating samples needs Hypothesis: pip install hypothesis\n"


def test_samples_given_are_not_changed() -> None:
    def in_place(view: Labelled, src: Photo) -> Photo:
        src.label = view.label
        return src

    mine = [photo("mine")]
    with pytest.raises(LensLawError):
        atdata.check_laws(atdata.Lens(read, in_place), samples=mine)
    assert mine == [photo("mine")]
