"""`atdata lens ls` and `lens show`, as a person uses them, on an index and on an account."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_process import Answer

import atdata
from atdata.atmosphere import Atmosphere
from atdata.index import lenses as shelf
from atdata.index.backend import LensRow
from atdata.lenses.references import CodeReference
from servers.atproto import SharedNetwork

Run = Callable[..., Answer]
CODE = CodeReference("https://example.org/photos", "ab" * 20, "src/lenses.py")


@atdata.packable
class Photo:
    lbl: str
    length: int
    iso: int


@atdata.packable
class Shot:
    label: str
    length: float
    split: str


DECLARED = atdata.Lens.fields(
    Photo, Shot, rename={"lbl": "label"}, drop=["iso"], cast=["length"], scale={"length": 0.01},
    default={"split": "train"},
)  # fmt: skip


def shoot(src: Photo) -> Shot:
    """Takes the photo."""
    return Shot(src.lbl, src.length / 100, "train")


@pytest.fixture
def index(tmp_path: Path) -> Any:
    with atdata.LocalIndex(tmp_path / "index.db") as index:
        yield index


def test_an_index_without_lenses(run: Run, index: atdata.LocalIndex) -> None:
    answer = run("lens", "ls", "--index", "index.db")
    assert (answer.code, answer.out, answer.err) == (0, f"0 lenses in {index.url}\n", "")
    missing = run("lens", "show", "x", "--index", "index.db")
    assert (missing.code, missing.out) == (1, "")
    assert "there is no lens 'x'; there are: none" in missing.err


def test_lenses_are_listed_and_shown(run: Run, index: atdata.LocalIndex) -> None:
    declared = index.publish_lens(DECLARED)
    code = index.publish_lens(atdata.Lens(shoot), code=CODE)
    answer = run("lens", "ls", ATDATA_INDEX="index.db")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        f"Photo_to_Shot  Photo@1.0.0 -> Shot@1.0.0  declared  {declared}",
        f"shoot  Photo@1.0.0 -> Shot@1.0.0  code  {code}",
        f"2 lenses in {index.url}",
    ]
    listed = run("lens", "ls", "--index", "index.db", "--json").document
    assert listed["index"] == index.url
    assert [(each["name"], each["declared"], each["uri"]) for each in listed["lenses"]] == [
        ("Photo_to_Shot", True, declared),
        ("shoot", False, code),
    ]
    assert listed["lenses"][0]["source"] == "atdata://local/schema/Photo@1.0.0"
    for ref in ("Photo_to_Shot", declared, declared.rpartition("/")[2], "@local/Photo_to_Shot"):
        shown = run("lens", "show", ref, "--index", "index.db")
        assert (shown.code, shown.err) == (0, "")
        lines = shown.out.splitlines()
        assert lines[0] == "Photo_to_Shot: Photo@1.0.0 -> Shot@1.0.0"
        assert lines[1].startswith(f"  {declared}, of ")
        assert lines[2:] == [
            "  rename   lbl -> label",
            "  drop     iso",
            "  default  split = 'train'",
            "  cast     length",
            "  scale    length = 1/100 of what is stored",
        ]
    document = run("lens", "show", "Photo_to_Shot", "--index", "index.db", "--json").document
    assert atdata.Lens.from_record(document["record"], Photo, Shot) == DECLARED
    told = run("lens", "show", "shoot", "--index", "index.db")
    assert told.code == 0
    assert "Takes the photo." in told.out
    assert f"get shoot from src/lenses.py of https://example.org/photos at commit {'ab' * 20}, read it" in told.out


def test_wrong_references(run: Run, index: atdata.LocalIndex, tmp_path: Path) -> None:
    index.publish_lens(DECLARED)
    for arguments, message in (
        (("lens", "ls", "Photo_to_Shot", "--index", "index.db"), "'Photo_to_Shot' is no account: write @HANDLE"),
        (("lens", "ls", "--index", "nothing.db"), "there is no index here"),
        (("lens", "show", "Photo", "--index", "index.db"), "there is no lens 'Photo'; there are: Photo_to_Shot"),
    ):
        answer = run(*arguments)
        assert (answer.code, answer.out) == (1, "")
        assert message in answer.err
    assert not (tmp_path / "nothing.db").exists()


def test_a_hostile_lens_does_not_steer_the_terminal(run: Run, index: atdata.LocalIndex) -> None:
    """It is listed as it is, and shown by what is wrong with it."""
    record: Any = copy.deepcopy(DECLARED.to_record())
    record |= {"name": "evil", "description": "\x1b[2J\u202e"}
    ends = [index._schemas.get(index.publish_schema(cls))[0] for cls in (Photo, Shot)]

    def put(record: Any) -> None:
        text = msgspec.json.encode(record).decode()
        index._backend.add_lens(LensRow(shelf._cid(record, *ends), record["name"], *ends, text, 1))

    put(record)
    shown = run("lens", "show", "evil", "--index", "index.db")
    assert shown.code == 0
    assert "\\x1b[2J\\u202e" in shown.out
    record["getter"]["declared"]["drop"] = ["\x1b[2J"]
    put(record | {"name": "worse\x1b"})
    answers = [run("lens", "ls", "--index", "index.db"), run("lens", "show", "worse\x1b", "--index", "index.db")]
    assert [answer.code for answer in answers] == [0, 1]
    assert "a lens record is text" in answers[1].err
    for answer in (shown, *answers):
        assert "\x1b" not in answer.out + answer.err


@pytest.mark.slow
def test_lenses_of_an_account(run: Run, atproto: SharedNetwork) -> None:
    account = atproto.make_account()
    world = {
        "ATDATA_ALLOW_PRIVATE": "1",
        "ATDATA_PLC_DIRECTORY": atproto.directory,
        "ATDATA_HANDLES_AT": atproto.pds[0],
    }
    with Atmosphere.login(
        account.handle, account.password, pds_url=account.pds, directory=atproto.directory, allow_private=True
    ) as client:
        uri = atdata.AtmosphereIndex(client).publish_lens(DECLARED)
    name = f"@{account.handle}"
    for arguments in ((name,), ("--index", name)):
        answer = run("lens", "ls", *arguments, **world)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.splitlines() == [
            f"Photo_to_Shot  Photo@1.0.0 -> Shot@1.0.0  declared  {uri}",
            f"1 lens in {name}",
        ]
    for arguments in ((f"{name}/Photo_to_Shot",), (uri,), ("Photo_to_Shot", "--index", name)):
        shown = run("lens", "show", *arguments, "--json", **world)
        assert (shown.code, shown.err) == (0, "")
        assert (shown.document["uri"], shown.document["declared"]) == (uri, True)
        assert atdata.Lens.from_record(shown.document["record"], Photo, Shot) == DECLARED
    which = run("lens", "show", name, **world)
    assert which.code == 1
    assert f"which lens? Write {name}/NAME" in which.err
