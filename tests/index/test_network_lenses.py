"""Lenses in accounts of the network: declared ones come back whole, and code stays where it is."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.atmosphere import Atmosphere
from atdata.atmosphere.lexicon import check
from atdata.atmosphere.records import LENS
from atdata.errors import EntryNotFoundError, LensError, LensRecordError, LoginError, RecordError, SchemaError
from atdata.lenses.references import CodeReference, LensReference
from servers.atproto import SharedNetwork
from servers.web import WebServer

Login = Callable[..., Atmosphere]
CODE = CodeReference("https://example.org/photos", "ab" * 20, "src/lenses.py")


@atdata.packable
class Photo:
    image: NDArray[np.uint8]
    label: str
    iso: int


@atdata.packable
class Shot:
    pixels: NDArray[np.uint8]
    label: str


@atdata.packable
class Other:
    x: float


@atdata.packable
class Labelled:
    label: str


DECLARED = atdata.Lens.fields(Photo, Shot, rename={"image": "pixels"}, drop=["iso"])


def photos(count: int = 3) -> list[Photo]:
    return [Photo(np.full(4, n, np.uint8), f"photo {n}", 100 * n) for n in range(count)]


@pytest.fixture
def index(login: Login) -> atdata.AtmosphereIndex:
    return atdata.AtmosphereIndex(login())


@pytest.fixture
def reader(index: atdata.AtmosphereIndex, atproto: SharedNetwork) -> Any:
    with Atmosphere(directory=atproto.directory, allow_private=True, handles_at=atproto.pds[0]) as client:
        yield atdata.AtmosphereIndex(client, repo=index.client.did)


def test_a_declared_lens_comes_back(index: atdata.AtmosphereIndex, reader: atdata.AtmosphereIndex) -> None:
    uri = index.publish_lens(DECLARED)
    commit = index.client.latest_commit()
    assert index.publish_lens(DECLARED) == uri
    assert index.client.latest_commit() == commit
    check(LENS, index.client.get_record(uri).value)  # type: ignore[union-attr]
    (listed,) = reader.list_lenses()
    assert (listed.uri, listed.name, listed.declared) == (uri, "Photo_to_Shot", True)
    assert (listed.source, listed.view) == (index.publish_schema(Photo), index.publish_schema(Shot))
    for ref in (uri, "Photo_to_Shot", f"@{index.client.handle}/Photo_to_Shot"):
        found = reader.get_lens(ref)
        assert found == listed
        assert found.load(Photo, Shot) == DECLARED
    made: Any = found.load()  # types out of the schemas
    seen = made.get(atdata.unpack(atdata.pack(photos()[1]), made.source))
    assert (seen.label, seen.pixels.tolist()) == ("photo 1", [1] * 4)
    assert list(reader.list_lenses(source=listed.source, view=listed.view)) == [listed]
    assert list(reader.list_lenses(source=listed.view)) == []
    with pytest.raises(LensRecordError, match="and Other"):
        found.load(Photo, Other)


def test_code_stays_where_it_is(index: atdata.AtmosphereIndex, reader: atdata.AtmosphereIndex) -> None:
    @atdata.lens
    def simplify(src: Photo) -> Labelled:
        return Labelled(src.label)

    with pytest.raises(LensError, match="simplify is code: the network wants to know the repository"):
        index.publish_lens(simplify)
    index.publish_lens(simplify, code=CODE)
    found = reader.get_lens("simplify")
    assert not found.declared
    reference = found.load()
    assert isinstance(reference, LensReference)
    assert reference.code == CODE
    assert "read it, import it, and call bind" in str(reference)
    assert reference.bind(simplify) is simplify


def test_a_lens_of_the_wild(index: atdata.AtmosphereIndex, reader: atdata.AtmosphereIndex, tmp_path: Any) -> None:
    """Is listed with what it says, and nothing of it is run."""
    schema = f"at://{index.client.did}/science.alt.dataset.schema/none"
    code = {"repository": "https://example.org/x", "commit": "0" * 40, "path": "os:system", "language": "python"}
    value = {
        "$type": LENS,
        "name": "touch",
        "sourceSchema": schema,
        "targetSchema": schema,
        "getterCode": code,
        "putterCode": code,
        "language": "python",
        "createdAt": "2026-01-02T03:04:05Z",
    }
    index.client.put_record(LENS, "3llens222222a", value)
    index.client.put_record(LENS, "3llens222222b", {**value, "getterCode": {"path": f"touch {tmp_path}/marker"}})
    (listed,) = reader.list_lenses()
    assert (listed.name, listed.declared, listed.description) == ("touch", False, None)
    assert len(reader.left_out) == 1
    reference: Any = reader.get_lens("touch").load()
    assert isinstance(reference, LensReference)
    assert reference.code is not None
    assert (reference.code.path, reference.qualname, reference.digest) == ("os", "system", None)
    with pytest.raises((LensRecordError, RecordError), match=r"getterCode\.repository: is missing"):
        reader.get_lens(reader.left_out[0].uri)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_says_what_there_is(index: atdata.AtmosphereIndex, reader: atdata.AtmosphereIndex) -> None:
    with pytest.raises(EntryNotFoundError, match="there is no lens 'x'; there are: none"):
        reader.get_lens("x")
    uri = index.publish_lens(DECLARED)
    with pytest.raises(EntryNotFoundError, match="there are: Photo_to_Shot"):
        reader.get_lens("x")
    with pytest.raises(EntryNotFoundError, match="there is no lens at"):
        reader.get_lens(uri[:-1] + ("a" if uri[-1] != "a" else "b"))
    with pytest.raises(LoginError, match="nobody is logged in"):
        reader.publish_lens(DECLARED)


def test_a_dataset_is_loaded_through_lenses_of_its_account(
    index: atdata.AtmosphereIndex, web: WebServer, on_network: Any
) -> None:
    """By anybody who has the class alone; an entry that was pickled finds them too."""
    atdata.LocalDiskStore(web.folder).write_shards(atdata.Dataset.from_samples(photos(), Photo), prefix="photos")
    index.insert_dataset(atdata.Dataset[Photo](web.url("photos/")), name="photos")
    name = f"@{index.client.handle}/photos"
    with pytest.raises(SchemaError, match="no lens leads from Photo"):
        atdata.load_dataset(name, Shot)
    index.publish_lens(DECLARED)
    assert [shot.label for shot in atdata.load_dataset(name, Shot)] == ["photo 0", "photo 1", "photo 2"]
    entry = pickle.loads(pickle.dumps(atdata.AtmosphereIndex().get_dataset(name)))
    assert [shot.label for shot in entry.dataset(Shot)] == ["photo 0", "photo 1", "photo 2"]


def test_lenses_of_others_are_not_taken(
    index: atdata.AtmosphereIndex, login: Login, web: WebServer, on_network: Any
) -> None:
    """What a stranger publishes about somebody's data does not change how that is seen."""
    atdata.LocalDiskStore(web.folder).write_shards(atdata.Dataset.from_samples(photos(), Photo), prefix="photos")
    index.insert_dataset(atdata.Dataset[Photo](web.url("photos/")), name="photos")
    stranger = atdata.AtmosphereIndex(login())
    source = index.publish_schema(Photo)
    stranger.publish_lens(DECLARED, source_schema=source)
    with pytest.raises(SchemaError, match="no lens leads from Photo"):
        atdata.load_dataset(f"@{index.client.handle}/photos", Shot)
    lens: Any = stranger.get_lens("Photo_to_Shot").load(Photo, Shot)  # whoever trusts them takes it
    seen = atdata.load_dataset(f"@{index.client.handle}/photos", Photo).as_type(lens)
    assert [shot.label for shot in seen] == ["photo 0", "photo 1", "photo 2"]


def test_a_lens_that_fits_nothing_spoils_no_other(
    index: atdata.AtmosphereIndex, web: WebServer, on_network: Any
) -> None:
    """Hostile records between the dataset's schemas: passed over, and named where nothing else leads there."""
    atdata.LocalDiskStore(web.folder).write_shards(atdata.Dataset.from_samples(photos(), Photo), prefix="photos")
    index.insert_dataset(atdata.Dataset[Photo](web.url("photos/")), name="photos")
    name = f"@{index.client.handle}/photos"
    source, view = index.publish_schema(Photo), index.publish_schema(Shot)
    good = DECLARED.to_network_record(source, view, "2026-01-02T03:04:05Z")
    hostile: Any = json.loads(json.dumps(good))
    hostile["name"] = "hostile"
    hostile["metadata"]["atdataLens"]["declared"]["rename"] = {"no_such_field": "pixels"}
    nowhere = {**hostile, "name": "nowhere", "targetSchema": f"at://{index.client.did}/science.alt.dataset.schema/none"}
    index.client.put_record(LENS, "3llens222222c", hostile)
    index.client.put_record(LENS, "3llens222222d", nowhere)
    gone = {**hostile, "name": "gone", "sourceSchema": f"at://did:plc:{'a' * 24}/science.alt.dataset.schema/none"}
    index.client.put_record(LENS, "3llens222222e", gone)
    with pytest.raises(SchemaError) as caught:
        atdata.load_dataset(name, Shot)
    assert "no lens leads from Photo" in str(caught.value)
    assert "Photo has no field 'no_such_field'" in str(caught.value)
    for unusable in ("hostile: ", "nowhere: there is no schema at", "gone: "):
        assert unusable in str(caught.value)
    index.publish_lens(DECLARED)
    assert [shot.label for shot in atdata.load_dataset(name, Shot)] == ["photo 0", "photo 1", "photo 2"]
