"""`atdata lens path`: the lenses between two classes of somebody's modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_process import Answer

import atdata

MODULE = """
import atdata, dataclasses

@atdata.packable
class Photo:
    label: str
    iso: int

@atdata.packable
class Named:
    name: str

@atdata.packable
class Short:
    letter: str

naming = atdata.lens(atdata.Lens.fields(Photo, Named, rename={"label": "name"}, drop=["iso"]))
"""
MORE = """
import atdata
from photos import Named, Short

@atdata.lens
def shorten(src: Named) -> Short:
    return Short(src.name[:1])
"""

Run = Callable[..., Answer]


@pytest.fixture(autouse=True)
def modules(tmp_path: Path) -> None:
    (tmp_path / "photos.py").write_text(MODULE)
    (tmp_path / "more_lenses.py").write_text(MORE)


def test_a_path_is_shown(run: Run) -> None:
    answer = run("lens", "path", "photos:Photo", "photos:Short", "--import", "more_lenses")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        "Photo -> Named: fields(Photo -> Named) (declared, or follows from the fields)",
        "Named -> Short: shorten (code in more_lenses)",
        "reads label of Photo",
        "cannot be written back: a putter is missing",
    ]


def test_a_path_as_json(run: Run) -> None:
    answer = run("lens", "path", "photos:Photo", "photos:Named", "--json")
    assert answer.code == 0
    assert answer.document["reads"] == ["label"]
    assert answer.document["editable"] is True
    assert [step["name"] for step in answer.document["steps"]] == ["fields(Photo -> Named)"]


def test_there_is_none(run: Run) -> None:
    answer = run("lens", "path", "photos:Photo", "photos:Short")
    assert answer.code == 1
    assert answer.out == ""
    assert "atdata: error: no lens leads from Photo to Short, and none follows from their fields" in answer.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("photos.Photo", "photos:Named"), 2, "'photos.Photo' is not of the form module:Class"),
        (("photos:Phot", "photos:Named"), 1, "the module photos has no Phot"),
        (("phots:Photo", "photos:Named"), 1, "No module named 'phots'"),
        (("photos:Photo", "photos:naming"), 1, "a lens is looked for to no sample type"),
        (("photos:Photo",), 2, "Missing argument"),
    ],
)
def test_what_is_not_there(run: Run, arguments: tuple[str, ...], code: int, message: str) -> None:
    answer = run("lens", "path", *arguments)
    assert answer.code == code
    assert message in answer.err
    assert "Traceback" not in answer.err


def test_a_path_through_lenses_of_an_index(run: Run, tmp_path: Path) -> None:
    """Between types of the index, and from one of them to a class; as load_dataset goes, and with its refusals."""
    photo = atdata.packable(type("Photo", (), {"__annotations__": {"label": str, "iso": int}}))
    named = atdata.packable(type("Named", (), {"__annotations__": {"name": str}}))
    titled = atdata.packable(type("Titled", (), {"__annotations__": {"title": str}}))
    with atdata.LocalIndex(tmp_path / "index.db") as index:
        index.publish_lens(atdata.Lens.fields(photo, named, rename={"label": "name"}, drop=["iso"]))
        index.publish_lens(atdata.Lens.fields(named, titled, rename={"name": "title"}))
    here = {"ATDATA_INDEX": "index.db"}
    answer = run("lens", "path", "Photo@1.0.0", "Titled", **here)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        "Photo -> Named: Photo_to_Named (declared in the index)",
        "Named -> Titled: Named_to_Titled (declared in the index)",
        "reads label of Photo",
        "can be written back",
    ]
    mixed = run("lens", "path", "Photo", "photos:Short", "--import", "more_lenses", "--index", "index.db", "--json")
    assert mixed.code == 0
    assert [(step["name"], step["how"]) for step in mixed.document["steps"][1:]] == [("shorten", "code in more_lenses")]
    assert mixed.document["reads"] == ["label"]
    none = run("lens", "path", "Titled", "Photo", **here)
    assert none.code == 1
    assert "no lens leads from Titled 1.0.0 to Photo" in none.err
    for arguments, message in (
        (("Photos", "Titled"), "the index has no schema Photos; there are Photo"),
        (("Photo@9.0.0", "Titled"), "the schema Photo has no version 9.0.0"),
        (("Photo@x", "Titled"), "'x' is not a version"),
    ):
        answer = run("lens", "path", *arguments, **here)
        assert answer.code == 1
        assert message in answer.err
