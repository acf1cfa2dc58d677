"""Lenses of functions: what a getter and a putter may be, what goes wrong with them, and where they can be sent."""

import concurrent.futures
import copy
import dataclasses
import functools
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import lens_samples
import pytest
import typing_extensions
from lens_samples import Labelled, Photo, declared, photo, shorten, simplify

import atdata
from atdata.errors import LensDefinitionError, LensError

Alias = typing_extensions.TypeAliasType("Alias", Photo)


def test_annotations_that_are_classes_and_aliases() -> None:
    def getter(src: Alias) -> "Labelled":
        return Labelled(src.label)

    made = atdata.Lens(getter)
    assert (made.source, made.view) == (Photo, Labelled)
    assert made.get(photo()) == Labelled("cat")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`type` statements came with Python 3.12")
def test_a_type_statement() -> None:
    space: dict[str, Any] = {"Photo": Photo, "Labelled": Labelled}
    exec("type P = Photo\ndef f(src: P) -> Labelled:\n    return Labelled(src.label)\n", space)
    assert atdata.Lens(space["f"]).source is Photo


def test_classes_and_functions_of_a_function() -> None:
    @atdata.packable
    class Here:
        x: int

    @atdata.packable
    class There:
        x: int

    @atdata.lens
    def go(src: "Here") -> "There":
        return There(src.x)

    @go.putter
    def back(view: "There", src: "Here") -> "Here":
        return Here(view.x)

    assert (go.source, go.view) == (Here, There)
    assert go.put(There(2), Here(1)) == Here(2)
    assert back(There(2), Here(1)) == Here(2)  # the function stays what it was


def test_a_dict_sample_can_be_seen_too() -> None:
    @atdata.lens
    def name_it(src: atdata.DictSample) -> Labelled:
        return Labelled(src.label)

    assert name_it.get(atdata.DictSample(label="cat", more=1)) == Labelled("cat")
    assert name_it.reads is None


def without_annotations(src):
    return Labelled(src.label)


def without_result(src: Photo):
    return Labelled(src.label)


def two_parameters(src: Photo, scale: float) -> Labelled:
    return Labelled(src.label)


def no_parameter() -> Labelled:
    return Labelled("")


def by_name(*, src: Photo) -> Labelled:
    return Labelled(src.label)


def any_number(*src: Photo) -> Labelled:
    return Labelled(src[0].label)


def of_numbers(src: int) -> Labelled:
    return Labelled(str(src))


def to_nothing(src: Photo) -> None:
    return None


def to_several(src: Photo) -> Labelled | None:
    return None


def unknown(src: "Phot") -> Labelled:  # noqa: F821
    return Labelled("")


async def later(src: Photo) -> Labelled:
    return Labelled(src.label)


@pytest.mark.parametrize(
    ("getter", "message"),
    [
        (without_annotations, "without_annotations does not say the type of its parameter src: write def"),
        (without_result, "without_result does not say the type of what it gives"),
        (two_parameters, r"two_parameters has 2 parameters \(src, scale\): a getter takes the sample alone"),
        (no_parameter, r"no_parameter has 0 parameters \(none\)"),
        (by_name, "by_name takes src: .*Photo: the parameters of a getter are given by position"),
        (any_number, r"any_number takes \*src"),
        (of_numbers, "of_numbers reads no sample type: <class 'int'> is not a sample type: decorate the class"),
        (to_nothing, "to_nothing gives no sample type: <class 'NoneType'>"),
        (to_several, "to_several gives no sample type"),
        (unknown, "an annotation of unknown names 'Phot', which is not defined where unknown is"),
        (later, "later is async or yields"),
        (lambda src: Labelled(src.label), "<lambda> does not say the type of its parameter src"),
        (Photo, "a getter is a function with annotations, not <class"),
        ("simplify", "a getter is a function with annotations, not 'simplify'"),
    ],
)
def test_getters_that_make_no_sense(getter: Any, message: str) -> None:
    with pytest.raises(LensDefinitionError, match=message):
        atdata.Lens(getter)
    if not isinstance(getter, str | type):
        with pytest.raises(LensDefinitionError, match=message):
            atdata.lens(getter)


@pytest.mark.parametrize(
    ("putter", "message"),
    [
        (
            lambda view: view,
            r"<lambda> has 1 parameters \(view\): a putter of getter is def <lambda>\(view: Labelled, ",
        ),
        (lambda view, src, more: src, "has 3 parameters"),
        (dataclasses.replace, r"takes \*\*changes"),
        (None.__init__, "a putter is a function with annotations"),
    ],
)
def test_putters_that_make_no_sense(putter: Any, message: str) -> None:
    def getter(src: Photo) -> Labelled:
        return Labelled(src.label)

    made = atdata.Lens(getter)
    with pytest.raises(LensDefinitionError, match=message):
        made.putter(putter)
    assert not made.editable


def test_a_putter_with_its_parameters_the_wrong_way_round() -> None:
    with pytest.raises(
        LensDefinitionError, match=r"src of swapped is Photo, not Labelled: a putter of simplify is def "
    ):

        @simplify.putter
        def swapped(src: Photo, view: Labelled) -> Photo:
            return src

    with pytest.raises(LensDefinitionError, match="return of wrong is Labelled, not Photo"):

        @simplify.putter  # type: ignore[arg-type]
        def wrong(view: Labelled, src: Photo) -> Labelled:
            return view

    assert simplify.put(Labelled("dog"), photo()) == photo("dog")  # it has its own still


def test_a_putter_may_leave_out_annotations_and_come_again() -> None:
    def getter(src: Photo) -> Labelled:
        return Labelled(src.label)

    made = atdata.Lens(getter, lambda view, src: dataclasses.replace(src, label=view.label))
    assert made.put(Labelled("dog"), photo()) == photo("dog")
    made.putter(lambda view, src: src)
    assert made.put(Labelled("dog"), photo()) == photo("cat")


def test_a_lens_without_a_putter_writes_nothing() -> None:
    def getter(src: Photo) -> Labelled:
        return Labelled(src.label)

    made = atdata.Lens(getter)
    assert not made.editable
    with pytest.raises(
        LensError, match=r"getter has no putter, so nothing can be written back: add one with @getter\."
    ):
        made.put(Labelled("dog"), photo())


def test_samples_of_other_types_are_refused() -> None:
    def liar(src: Photo) -> Labelled:
        return src  # type: ignore[return-value]

    made = atdata.Lens(liar, lambda view, src: view)  # type: ignore[arg-type, return-value]
    with pytest.raises(LensError, match="liar gave Photo, not Labelled"):
        made.get(photo())
    with pytest.raises(LensError, match="liar reads Photo, not Labelled"):
        made.get(Labelled("x"))  # type: ignore[arg-type]
    with pytest.raises(LensError, match="liar writes Labelled, not Photo"):
        made.put(photo(), photo())  # type: ignore[arg-type]
    with pytest.raises(LensError, match="liar writes into Photo, not Labelled"):
        made.put(Labelled("x"), Labelled("y"))  # type: ignore[arg-type]
    with pytest.raises(LensError, match="the putter of liar gave Labelled, not Photo"):
        made.put(Labelled("x"), photo())


def test_what_a_getter_raises_is_not_hidden() -> None:
    def breaks(src: Photo) -> Labelled:
        return Labelled(src.lable)  # type: ignore[attr-defined]

    made = atdata.Lens(breaks)
    with pytest.raises(AttributeError, match="lable"):
        made.get(photo())


def test_decorators_below_the_lens() -> None:
    def shout(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return Labelled(function(*args).label.upper())

        return wrapper

    @atdata.lens
    @shout
    def loud(src: Photo) -> Labelled:
        return Labelled(src.label)

    assert loud.get(photo()) == Labelled("CAT")
    assert loud.reads == {"image", "label", "iso", "note"}  # who knows what the wrapper does
    with pytest.raises(LensDefinitionError, match="a getter is a function with annotations, not <functools"):
        atdata.lens(functools.lru_cache(simplify.functions[0]))


# -- other processes -----------------------------------------------------------------------------------------


def use(lens: Any, sample: Any) -> Any:
    return lens.get(sample), lens.editable


@pytest.mark.parametrize(
    "lens", [simplify, shorten, declared, simplify | shorten, atdata.Lens.identity(Photo)], ids=lambda lens: lens.name
)
def test_lenses_go_to_other_processes(lens: Any) -> None:
    again = pickle.loads(pickle.dumps(lens))
    sample = photo() if lens.source is Photo else Labelled("cat")
    assert again.get(sample) == lens.get(sample)
    assert again == lens
    assert hash(again) == hash(lens)
    assert copy.copy(lens) is copy.deepcopy(lens) is lens
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(use, lens, sample).result(60) == (lens.get(sample), True)


def test_a_lens_of_a_function_inside_of_a_function_stays_here() -> None:
    @atdata.lens
    def local(src: Photo) -> Labelled:
        return Labelled(src.label)

    with pytest.raises(
        LensError,
        match=r"local cannot be sent to another process, which would not find it at test_lens\..*<locals>.local",
    ):
        pickle.dumps(local)
    with pytest.raises(LensError, match="local cannot be sent"):
        pickle.dumps(local | shorten)
    assert copy.deepcopy(local) is local


def test_a_lens_whose_name_is_now_another_stays_here() -> None:
    lost = atdata.Lens(lens_samples.simplify.functions[0], lambda view, src: src)
    with pytest.raises(LensError, match="simplify cannot be sent"):
        pickle.dumps(lost)


def test_lenses_of_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import atdata, concurrent.futures, multiprocessing\n"
        "@atdata.packable\nclass A:\n    x: int\n"
        "@atdata.packable\nclass B:\n    x: int\n"
        "@atdata.lens\ndef double(src: A) -> B:\n    return B(src.x * 2)\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:\n"
        "        print(pool.submit(double.get, A(4)).result(60))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "B(x=8)\n"
