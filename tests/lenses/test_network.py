"""Which lens leads from one type to another: paths, ambiguity, classes that go and come again."""

from __future__ import annotations

import gc
import importlib
import itertools
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lens_samples import Labelled, Photo, Short, declared, photo, shorten, simplify

import atdata
from atdata.errors import AmbiguousLensError, LensDefinitionError, LensError, LensNotFoundError
from atdata.lenses.network import registered


@atdata.packable
class A:
    a: int


@atdata.packable
class B:
    b: int


@atdata.packable
class C:
    c: int


@atdata.packable
class D:
    d: int


def move(source: Any, view: Any, name: str) -> atdata.Lens[Any, Any]:
    """A lens of a function of that name, which adds nothing."""
    field, target = (next(iter(cls.__annotations__)) for cls in (source, view))

    def getter(src: source) -> view:  # type: ignore[valid-type]
        return view(**{target: getattr(src, field)})

    getter.__name__ = name
    getter.__qualname__ = name
    getter.__annotations__ = {"src": source, "return": view}
    return atdata.Lens(getter)


def network(*lenses: atdata.Lens[Any, Any]) -> atdata.LensNetwork:
    made = atdata.LensNetwork()
    for lens in lenses:
        made.register(lens)
    return made


def test_the_shortest_path_is_taken() -> None:
    ab, bc, cd, ad = move(A, B, "ab"), move(B, C, "bc"), move(C, D, "cd"), move(A, D, "ad")
    net = network(ab, bc, cd)
    assert net.find(A, D) == ab | bc | cd
    assert net.find(A, D).get(A(3)) == D(3)
    assert net.find(A, C) == ab | bc
    assert net.find(B, C) is bc
    net.register(ad)
    assert net.find(A, D) is ad
    assert net.lenses == [ab, bc, cd, ad]


def test_cycles_do_no_harm() -> None:
    ab, ba, bc, aa = move(A, B, "ab"), move(B, A, "ba"), move(B, C, "bc"), move(A, A, "aa")
    net = network(ab, ba, bc, aa)
    assert net.find(A, C) == ab | bc
    assert net.find(A, A) == atdata.Lens.identity(A)
    with pytest.raises(LensNotFoundError):
        net.find(C, A)


def test_several_shortest_paths_are_shown() -> None:
    ab, ac, bd, cd = move(A, B, "ab"), move(A, C, "ac"), move(B, D, "bd"), move(C, D, "cd")
    net = network(ab, ac, bd, cd)
    with pytest.raises(AmbiguousLensError) as caught:
        net.find(A, D)
    assert str(caught.value) == (
        "several paths of 2 lenses lead from A to D: ab (test_network) | bd (test_network); ac (test_network) | "
        "cd (test_network). Use the one you mean"
    )
    assert net.find(A, B) is ab
    other = move(A, B, "other")
    net.register(other)
    with pytest.raises(AmbiguousLensError, match=r"several lenses lead from A to B: ab .*; other "):
        net.find(A, B)


def test_a_great_many_paths_take_no_time() -> None:
    layers = []
    for depth in range(12):
        layer = []
        for i in range(8):
            cls = type(f"L{depth}x{i}", (), {"__annotations__": {f"f{depth}x{i}": int}})
            layer.append(atdata.packable(cls))
        layers.append(layer)
    lenses = [
        move(a, b, f"{a.__name__}_{b.__name__}")
        for before, after in itertools.pairwise(layers)
        for a in before
        for b in after
    ]
    net = network(*lenses)
    with pytest.raises(AmbiguousLensError, match=r"several paths of 11 lenses .*; and more"):
        net.find(layers[0][0], layers[-1][0])


def test_what_is_missing_is_said() -> None:
    net = network(simplify)
    with pytest.raises(LensNotFoundError) as caught:
        net.find(Photo, Short)
    assert str(caught.value) == (
        "no lens leads from Photo to Short, and none follows from their fields. From Photo lenses lead as far as "
        "Labelled. What is missing is the step from Labelled to Short: Short.letter is no field of Labelled; there are "
        "label. Write it: @atdata.lens over `def to_short(src: Labelled) -> Short`, or "
        "atdata.lens(atdata.Lens.fields(Labelled, Short, …)) where only names, types or units changed"
    )
    with pytest.raises(LensNotFoundError) as caught:
        network().find(Photo, Short)
    assert str(caught.value) == (
        "no lens leads from Photo to Short, and none follows from their fields: Short.letter is no field of Photo; "
        "there are image, label, iso, note. Write it: @atdata.lens over `def to_short(src: Photo) -> Short`, or "
        "atdata.lens(atdata.Lens.fields(Photo, Short, …)) where only names, types or units changed"
    )
    with pytest.raises(LensDefinitionError, match="a lens is looked for to no sample type"):
        net.find(Photo, int)
    with pytest.raises(LensDefinitionError, match=r"<function photo at .*> is not a lens"):
        net.register(photo)  # type: ignore[arg-type]


def test_a_subset_of_fields_needs_no_lens() -> None:
    found = atdata.LensNetwork().find(Photo, Labelled)
    assert found == declared
    assert found.get(photo()) == Labelled("cat")
    assert found.put(Labelled("dog"), photo()) == photo("dog")


def test_a_registered_lens_comes_before_the_fields_and_those_before_a_path() -> None:
    @atdata.packable
    class Other:
        text: str

    there = atdata.Lens.fields(Photo, Other, rename={"label": "text"}, drop=["image", "iso", "note"])
    back = atdata.Lens.fields(Other, Labelled, rename={"text": "label"})
    net = network(there, back)
    assert net.find(Photo, Labelled) == declared
    net.register(simplify)
    assert net.find(Photo, Labelled) is simplify


def test_the_network_keeps_no_class_alive() -> None:
    net = atdata.LensNetwork()

    def scope() -> tuple[weakref.ref[Any], weakref.ref[Any]]:
        @atdata.packable
        class Gone:
            g: int

        def forget(src: A) -> Gone:
            return Gone(src.a)

        forget.__annotations__ = {"src": A, "return": Gone}
        lens = atdata.Lens(forget)
        net.register(lens)
        assert net.find(A, Gone) is lens
        with pytest.raises(LensNotFoundError):
            net.find(Gone, A)
        return weakref.ref(Gone), weakref.ref(lens)

    cls, lens = scope()
    gc.collect()
    assert lens() is None
    assert cls() is None
    assert net.lenses == []

    @atdata.packable
    class Gone:
        g: int

    with pytest.raises(
        LensNotFoundError, match=r"\. forget was registered, but nothing holds it any more: keep it in a"
    ):
        net.find(A, Gone)


def test_a_declared_lens_lives_as_long_as_its_variable() -> None:
    net = network(kept := atdata.Lens.fields(A, B, rename={"a": "b"}))
    assert net.find(A, B) is kept
    del kept
    assert net.lenses == []  # at once, without a collection
    with pytest.raises(LensNotFoundError, match="was registered, but nothing holds it any more"):
        net.find(A, B)


def test_a_lens_defined_again_takes_the_place_of_the_first() -> None:
    first, second = move(A, B, "same"), move(A, B, "same")
    net = network(first, second)
    assert net.find(A, B) is second
    elsewhere = move(A, C, "same")
    net.register(elsewhere)
    assert net.lenses == [elsewhere]
    one, two = (atdata.Lens.fields(A, B, rename={"a": "b"}) for _ in range(2))
    net.register(one)
    net.register(two)
    assert net.find(A, B) is two


def test_lenses_of_one_factory_are_apart() -> None:
    def make(source: Any, view: Any) -> atdata.Lens[Any, Any]:
        def getter(src: source) -> view:  # type: ignore[valid-type]
            return view(0)

        getter.__annotations__ = {"src": source, "return": view}
        return atdata.Lens(getter)

    ab, bc = make(A, B), make(B, C)
    net = network(ab, bc)
    assert net.find(A, C) == ab | bc


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "reloaded_lenses.py").write_text(
        "import atdata\n"
        "@atdata.packable\nclass Wide:\n    x: int\n    y: int\n"
        "@atdata.packable\nclass Thin:\n    z: int\n"
        "@atdata.lens\ndef thin(src: Wide) -> Thin:\n    return Thin(src.x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("reloaded_lenses")
    del sys.modules["reloaded_lenses"]


def test_a_module_loaded_again(module: Any) -> None:
    old_wide, old_thin, old_lens = module.Wide, module.Thin, module.thin
    assert registered.find(module.Wide, module.Thin) is old_lens
    importlib.reload(module)
    assert module.Wide is not old_wide
    assert registered.find(module.Wide, module.Thin) is module.thin
    # The old classes are still in somebody's hands, and as good as the new ones.
    found = registered.find(old_wide, old_thin)
    assert found.get(old_wide(1, 2)) == old_thin(1)
    assert type(found.get(old_wide(1, 2))) is old_thin


def test_a_class_built_from_a_stored_schema_will_do() -> None:
    stored = atdata.Schema.from_record(atdata.Schema.of(Photo).to_record()).sample_type()
    assert stored is not Photo
    net = network(simplify, shorten)
    found = net.find(stored, Short)
    one = photo()
    built = stored(image=one.image, label="cat", iso=1)
    assert found.get(built) == Short("c")
    assert found.put(Short("b"), built).label == "bat"
    assert type(found.put(Short("b"), built)) is stored
    assert found.parts[1:] == (simplify, shorten)
    assert net.find(stored, Labelled).parts[1:] == (simplify,)  # as for the class itself, not its fields


def test_along_the_versions_of_a_schema() -> None:
    @atdata.packable
    class V1:
        lbl: str

    @atdata.packable
    class V2:
        label: str

    @atdata.packable
    class V3:
        label: str | None
        split: str = "train"

    net = network(renamed := atdata.Lens.fields(V1, V2, rename={"lbl": "label"}))
    whole = net.along([V1, V2, V3])
    assert whole.get(V1("cat")) == V3("cat", "train")
    assert whole.put(V3("dog", "train"), V1("cat")) == V1("dog")
    assert whole.parts[0] is renamed
    assert net.along([V1]) == atdata.Lens.identity(V1)
    with pytest.raises(
        LensNotFoundError,
        match=r"step 2 of 2: no lens leads from V2 to V1, and none follows from their fields: V1\.lbl is",
    ):
        net.along([V2, V2, V1])
    with pytest.raises(LensError, match="one type at least"):
        net.along([])
