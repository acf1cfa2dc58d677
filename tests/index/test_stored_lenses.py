"""Lenses in local indexes: hostile and damaged ones, older databases, and several writers at once."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

import atdata
import atdata.index
from atdata.errors import (
    AmbiguousLensError,
    CatalogError,
    CatalogVersionError,
    EntryNotFoundError,
    LensRecordError,
    SchemaError,
)
from atdata.index import held, migration
from atdata.index import lenses as shelf
from atdata.index.backend import LensRow
from atdata.index.engine import Database
from atdata.lenses.references import CodeReference, LensReference
from atdata.samples import codec

CODE = CodeReference("https://example.org/words", "ab" * 20, "words.py")


@atdata.packable
class Word:
    text: str


@atdata.packable
class Term:
    term: str


@atdata.packable
class Entry:
    entry: str


TERMS = atdata.Lens.fields(Word, Term, rename={"text": "term"})
ENTRIES = atdata.Lens.fields(Term, Entry, rename={"term": "entry"})


def capital(src: Word) -> Term:
    return Term(src.text.upper())


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "index.db")
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def index(url: str, tmp_path: Path) -> Iterator[atdata.LocalIndex]:
    """An index with a dataset of three words."""
    with atdata.LocalIndex(url, store=atdata.LocalDiskStore(tmp_path / "words")) as index:
        index.write_samples([Word(text) for text in "abc"], name="words")
        yield index


def smuggle(index: atdata.LocalIndex, record: Any, source: type = Word, view: type = Term) -> str:
    """A lens that whoever writes into the database can put there, with the identifier that it should have."""
    schemas, backend = index._schemas, index._backend
    ends = [schemas.get(index.publish_schema(cls))[0] for cls in (source, view)]
    cid = shelf._cid(record, *ends)
    backend.add_lens(LensRow(cid, record["name"], *ends, msgspec.json.encode(record).decode(), 1))
    return f"atdata://local/lens/{cid}"


def changed(**parts: Any) -> dict[str, Any]:
    record = copy.deepcopy(TERMS.to_record())
    del record["getter"]["mappings"]
    record["getter"]["kind"] = "declared"
    record["getter"]["declared"] |= parts
    return record | {"name": "hostile"}


# -- hostile lenses ------------------------------------------------------------------------------------------------

in_a_file = pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # where the database makes no difference


@in_a_file
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"rename": {"no_such": "term"}}, "Word has no field 'no_such'"),
        ({"rename": {"text": "no_such"}}, "Term has no field 'no_such'"),
        ({"drop": ["secret"]}, "Word has no field 'secret'"),
        ({"drop": ["__class__.__init__"]}, "Word has no field '__class__'"),
        ({"exec": "__import__('os').abort()"}, "a declared lens has no part 'exec'"),
        ({"rename": {}, "drop": ["text"], "default": {"term": {"msgpack": "wQ=="}}}, "the default"),
        ({"drop": [f"f{i}" for i in range(10_001)]}, "has at most 10000 parts"),
    ],
)
def test_a_stored_lens_that_makes_no_sense_is_refused_by_name(
    index: atdata.LocalIndex, parts: dict[str, Any], message: str
) -> None:
    """It is listed, it is not loaded, and it spoils no other."""
    uri = smuggle(index, changed(**parts))
    (listed,) = index.list_lenses()
    assert (listed.uri, listed.name, listed.declared) == (uri, "hostile", True)
    with pytest.raises(LensRecordError) as caught:
        index.get_lens("hostile").load()
    assert message in str(caught.value)
    assert caught.value.url == uri
    with pytest.raises(SchemaError) as refused:
        atdata.load_dataset("words", Term, index=index)
    assert "no lens leads from Word" in str(refused.value)
    assert "The index has lenses that cannot be used: hostile: " in str(refused.value)
    assert message in str(refused.value)
    index.publish_lens(TERMS)
    assert [s.term for s in atdata.load_dataset("words", Term, index=index)] == ["a", "b", "c"]


@in_a_file
@pytest.mark.parametrize(
    "getter",
    [
        {"kind": "code_reference", "module": "hostile_stored_lens", "qualname": "run"},
        {"kind": "code_reference", "module": "os", "qualname": "system"},
        {"kind": "opaque"},
        # As others store them for any lens whose fields have the same names, whatever it does.
        {"kind": "field_mapping", "mappings": [{"source_field": "text", "view_field": "term", "transform": None}]},
        {"kind": "field_mapping", "mappings": [{"source_field": "text", "view_field": "term", "transform": "eval"}]},
    ],
)  # fmt: skip
def test_what_is_not_declared_is_never_run(
    index: atdata.LocalIndex, getter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is imported, and no meaning is made up: who wants to see data through it is told that it is code."""
    marker = tmp_path / "ran"
    (tmp_path / "hostile_stored_lens.py").write_text(f"def run(s): ...\nopen({str(marker)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    record = {"name": "hostile", "source_schema": "Word", "view_schema": "Term", "getter": getter, "putter": getter}
    smuggle(index, record)
    stored = index.get_lens("hostile")
    assert not stored.declared
    reference = stored.load()
    assert isinstance(reference, LensReference)
    with pytest.raises(LensRecordError, match="no hash of its code"):
        reference.bind(atdata.Lens(capital))
    with pytest.raises(SchemaError, match=r"through code that the index only refers to: the lens hostile \(Word ->"):
        atdata.load_dataset("words", Term, index=index)
    assert not marker.exists()
    assert "hostile_stored_lens" not in sys.modules


def test_a_lens_stored_for_other_schemas_is_refused(index: atdata.LocalIndex) -> None:
    record = {**TERMS.to_record(), "source_cid": atdata.Schema.of(Entry).cid}
    smuggle(index, record)
    with pytest.raises(
        LensRecordError, match=r"the lens is stored for Word \(bafyrei\w+\), and Word \(bafyrei\w+\) has"
    ):
        index.get_lens("Word_to_Term").load()


def altered(url: str, column: str, value: str) -> None:
    """Somebody changes the only lens in the database."""
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            (key,) = client.keys("atdata:lens:*")
            client.hset(key, column, value)
        return
    database = Database(sa.make_url(url) if "://" in url else Path(url))
    database.write(lambda c, again: c.execute(sa.text(f"UPDATE atdata_lenses SET {column} = :value"), {"value": value}))
    database.close()


@pytest.mark.parametrize("value", ["{}", "", "[1]", '{"name": 1', '{"a": "\\ud800"}', '{"a": ' * 5000])
def test_an_altered_lens_is_noticed(index: atdata.LocalIndex, url: str, value: str) -> None:
    """By whoever reads it."""
    index.publish_lens(TERMS)
    altered(url, "record", value)
    for read in (
        lambda: list(index.list_lenses()),
        lambda: index.get_lens("Word_to_Term"),
        lambda: atdata.load_dataset("words", Term, index=index),
    ):
        with pytest.raises(CatalogError, match="the lens 'Word_to_Term' in the index"):
            read()


def test_a_lens_whose_name_was_altered_is_noticed(index: atdata.LocalIndex, url: str) -> None:
    uri = index.publish_lens(TERMS)
    altered(url, "name", "other")
    with pytest.raises(CatalogError, match="it was altered"):
        index.get_lens(uri)


# -- seeing data through them --------------------------------------------------------------------------------------


def test_entries_are_seen_through_lenses_too(index: atdata.LocalIndex) -> None:
    index.publish_lens(TERMS)
    index.publish_lens(ENTRIES)
    entry = index.get_dataset("words@1.0.0")
    assert [s.entry for s in entry.dataset(Entry)] == ["a", "b", "c"]
    assert entry.dataset(Word).steps == ()
    assert [s.term for s in next(index.search("words")).dataset(Term).shuffled(seed=1)]
    with pytest.raises(SchemaError, match="no lens leads from Word"):
        entry.dataset(atdata.packable(type("X", (), {"__annotations__": {"x": int}})))


def test_lenses_of_this_process_come_first(index: atdata.LocalIndex) -> None:
    """Between the same types; elsewhere they go together with those of the index."""
    index.publish_lens(TERMS)
    index.publish_lens(ENTRIES)
    assert [s.entry for s in atdata.load_dataset("words", Entry, index=index)] == ["a", "b", "c"]
    mine = atdata.lens(atdata.Lens(capital))
    assert [s.term for s in atdata.load_dataset("words", Term, index=index)] == ["A", "B", "C"]
    assert [s.entry for s in atdata.load_dataset("words", Entry, index=index)] == ["A", "B", "C"]
    assert [s.term for s in index.get_dataset("words").dataset(Term)] == ["A", "B", "C"]
    assert mine.source is Word


@in_a_file
def test_two_lenses_that_nothing_tells_apart(index: atdata.LocalIndex) -> None:
    index.publish_lens(TERMS)
    index.publish_lens(atdata.Lens(capital), code=CODE)
    with pytest.raises(AmbiguousLensError) as caught:
        atdata.load_dataset("words", Term, index=index)
    assert str(caught.value) == (
        "several lenses lead from Word 1.0.0 to Term: Word_to_Term (the index); capital (the index). Use the one you "
        "mean [words@1.0.0]"
    )
    lens: Any = index.get_lens("Word_to_Term").load(Word, Term)
    assert atdata.load_dataset("words", Word, index=index).as_type(lens)[0] == Term("a")


@in_a_file
def test_a_cycle_of_lenses_does_no_harm(index: atdata.LocalIndex) -> None:
    back = atdata.Lens.fields(Term, Word, rename={"term": "text"})
    for lens in (TERMS, back, ENTRIES, atdata.Lens.fields(Entry, Word, rename={"entry": "text"})):
        index.publish_lens(lens)
    assert [s.entry for s in atdata.load_dataset("words", Entry, index=index)] == ["a", "b", "c"]
    assert atdata.load_dataset("words", Word, index=index).steps == ()


@in_a_file
def test_the_step_that_is_missing_is_named(index: atdata.LocalIndex) -> None:
    """With what the index has on both sides of it."""
    last = atdata.packable(type("Last", (), {"__annotations__": {"last": str}}))
    index.publish_lens(TERMS)
    index.publish_lens(atdata.Lens.fields(Entry, last, rename={"entry": "last"}))
    with pytest.raises(SchemaError) as caught:
        atdata.load_dataset("words", last, index=index)
    assert "From Word 1.0.0 lenses lead as far as Term 1.0.0 and to Last they lead from Entry 1.0.0" in str(
        caught.value
    )
    assert "What is missing is the step from Term 1.0.0 to Entry 1.0.0" in str(caught.value)


@in_a_file
def test_no_class_is_made_of_what_is_not_on_the_way(index: atdata.LocalIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many lenses others have put into the index."""
    classes = [atdata.packable(type(f"T{i}", (), {"__annotations__": {f"f{i}": int}})) for i in range(30)]
    for i in range(0, 30, 2):
        index.publish_lens(atdata.Lens.fields(classes[i], classes[i + 1], rename={f"f{i}": f"f{i + 1}"}))
    index.publish_lens(TERMS)
    made: list[str] = []
    plan = atdata.Schema.sample_type
    monkeypatch.setattr(atdata.Schema, "sample_type", lambda self: made.append(self.name) or plan(self))  # type: ignore[func-returns-value]
    assert atdata.load_dataset("words", Term, index=index)[0] == Term("a")
    assert set(made) == {"Word"}
    assert codec.plan(Term)


@in_a_file
def test_a_stranger_s_index_may_hold_none(index: atdata.LocalIndex) -> None:
    """One from before lenses were part of the contract."""
    index.publish_lens(TERMS)

    class Older:
        def __getattr__(self, name: str) -> Any:
            if "lens" in name:
                raise AttributeError(name)
            return getattr(index, name)

    assert atdata.load_dataset("words", Word, index=Older())[0] == Word("a")  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="no lens leads from Word"):
        atdata.load_dataset("words", Term, index=Older())  # type: ignore[arg-type]


@in_a_file
def test_a_lens_that_is_not_what_was_listed_is_refused(index: atdata.LocalIndex) -> None:
    """What a server lists is taken for no more than that: the lenses that are used are asked for one by one."""
    index.publish_lens(TERMS)
    lie = changed(rename={}, drop=["text"], default={"term": {"value": "lie"}})

    class Liar:
        def __getattr__(self, name: str) -> Any:
            return getattr(index, name)

        def list_lenses(self) -> Iterator[Any]:
            for stored in index.list_lenses():
                yield dataclasses.replace(stored, record=lie)

    with pytest.raises(LensRecordError, match="the lens is not what was listed of it"):
        atdata.load_dataset("words", Term, index=Liar())  # type: ignore[arg-type]


@in_a_file
def test_more_lenses_than_can_be_searched(index: atdata.LocalIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are refused, before a class is made of any; others that are not on the way do not count."""
    monkeypatch.setattr(held, "_MOST", 3)
    classes = [atdata.packable(type(f"T{i}", (), {"__annotations__": {f"f{i}": int}})) for i in range(6)]
    for i in range(5):
        index.publish_lens(atdata.Lens.fields(classes[i], classes[i + 1], rename={f"f{i}": f"f{i + 1}"}))
    index.publish_lens(TERMS)
    assert atdata.load_dataset("words", Term, index=index)[0] == Term("a")
    index.write_samples([classes[0](f0=1)], name="t")
    with pytest.raises(SchemaError, match="5 lenses of the index may lead from T0 to T5, too many to search"):
        atdata.load_dataset("t", classes[5], index=index)
    assert len(atdata.load_dataset("t", classes[3], index=index)) == 1


@in_a_file
def test_an_index_that_lists_without_an_end(index: atdata.LocalIndex) -> None:
    """As a stranger's server may."""
    index.publish_lens(TERMS)

    class Endless:
        def __getattr__(self, name: str) -> Any:
            return getattr(index, name)

        def list_lenses(self) -> Iterator[Any]:
            (stored,) = index.list_lenses()
            return itertools.repeat(stored)

    with pytest.raises(SchemaError, match="more than 10,000 lenses, too many to search: read the data as it is stored"):
        atdata.load_dataset("words", Term, index=Endless())  # type: ignore[arg-type]


# -- several writers -----------------------------------------------------------------------------------------------

_PUBLISH = """
import sys, atdata
@atdata.packable
class Word:
    text: str
@atdata.packable
class Term:
    term: str
with atdata.LocalIndex(sys.argv[1]) as index:
    print("ready", flush=True)
    sys.stdin.readline()
    print(index.publish_lens(atdata.Lens.fields(Word, Term, rename={"text": "term"})))
"""


def test_processes_publish_one_lens(index: atdata.LocalIndex, url: str) -> None:
    """At the same time: it is there once, with its schemas."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _PUBLISH, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said = [process.communicate("go\n")[0].split() for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert said == [[index.publish_lens(TERMS)]] * 4
    assert len(list(index.list_lenses())) == 1
    assert [schema.name for schema in index.list_schemas()] == ["Term", "Word"]


def test_threads_publish_and_list(index: atdata.LocalIndex) -> None:
    failed: list[BaseException] = []
    classes = [atdata.packable(type(f"T{i}", (), {"__annotations__": {f"f{i}": int}})) for i in range(12)]

    def work(first: int) -> None:
        try:
            for i in range(first, 11, 3):
                lens = atdata.Lens.fields(classes[i], classes[i + 1], rename={f"f{i}": f"f{i + 1}"})
                uri = index.publish_lens(lens)
                assert uri in [stored.uri for stored in index.list_lenses()]
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(list(index.list_lenses())) == 11


def test_pages_of_lenses(index: atdata.LocalIndex) -> None:
    """By name, each once, across the borders of pages."""
    fields = {f"f{i}": int for i in range(250)}
    wide = atdata.packable(type("Wide", (), {"__annotations__": fields}))
    for i in range(230):
        one = atdata.packable(type("One", (), {"__annotations__": {"x": int}}))
        record = atdata.Lens.fields(wide, one, rename={f"f{i}": "x"}, drop=set(fields) - {f"f{i}"}).to_record()
        smuggle(index, record | {"name": f"lens{i % 115:03d}"}, wide, one)
    names = [stored.name for stored in index.list_lenses()]
    assert names == sorted(f"lens{i:03d}" for i in range(115) for _ in range(2))
    assert len({stored.uri for stored in index.list_lenses()}) == 230


# -- older and newer indexes -----------------------------------------------------------------------------------------


def first_revision(database: Database) -> None:
    """The tables as the first atdata made them, by the migration that it had."""

    def work(connection: sa.Connection, again: bool) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(atdata.index.__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")

    database.write(work)


@pytest.fixture(params=["sqlite", "postgres"])
def older(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database of the first revision, with a dataset in two versions."""
    url: str = str(tmp_path / "older.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    database = Database(sa.make_url(url) if "://" in url else Path(url))
    first_revision(database)
    database.close()
    with monkeypatch.context() as patch:  # what writes datasets is as it was
        patch.setattr(migration, "REVISIONS", ("0001",))
        with atdata.LocalIndex(url, store=atdata.LocalDiskStore(tmp_path / "words")) as index:
            index.write_samples([Word("a")], name="words", tags=["t"])
            index.append("words", [Word("b")])
            index.label("words", "stable", version="1.0.0")
    return url


def migrate(url: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "atdata", "index", "migrate", url, "--json"], capture_output=True, text=True, check=False
    )


def test_an_index_of_the_first_revision_is_migrated(older: str) -> None:
    """By the command that the refusal names; all that it had is there, and lenses can be published."""
    with pytest.raises(CatalogVersionError, match="atdata index migrate"):
        atdata.LocalIndex(older)
    done = migrate(older)
    assert (done.returncode, done.stderr) == (0, "")
    assert (json.loads(done.stdout)["before"], json.loads(done.stdout)["revision"]) == ("0001", "0002")
    with atdata.LocalIndex(older) as index:
        assert [entry.version for entry in index.list_versions("words")] == ["1.1.0", "1.0.0"]
        assert index.labels("words") == {"stable": "1.0.0"}
        assert [word.text for word in index.get_dataset("words").dataset(Word)] == ["a", "b"]
        assert list(index.list_lenses()) == []
        index.publish_lens(TERMS)
        assert [s.term for s in atdata.load_dataset("words@stable", Term, index=index)] == ["a"]
    assert json.loads(migrate(older).stdout)["before"] == "0002"


def test_a_newer_index_is_still_refused(older: str) -> None:
    assert migrate(older).returncode == 0
    database = Database(sa.make_url(older) if "://" in older else Path(older))
    database.write(lambda c, again: c.execute(sa.text("UPDATE atdata_revision SET version_num = '0003'")))
    database.close()
    with pytest.raises(CatalogVersionError, match="made by a newer atdata"):
        atdata.LocalIndex(older)
    done = migrate(older)
    assert done.returncode == 1
    assert "made by a newer atdata" in done.stderr


def test_an_older_index_in_redis_needs_nothing(redis_url: str, tmp_path: Path) -> None:
    """Lenses are keys beside those that it had."""
    with atdata.LocalIndex(redis_url, store=atdata.LocalDiskStore(tmp_path / "words")) as index:
        index.write_samples([Word("a")], name="words")
    with redis.Redis.from_url(redis_url) as client:
        assert client.get("atdata:format") == b"1"
        assert not [key for key in client.keys("atdata:*") if b"lens" in key]
    with atdata.LocalIndex(redis_url) as index:
        index.publish_lens(TERMS)
        assert atdata.load_dataset("words", Term, index=index)[0] == Term("a")


def test_a_lens_of_schemas_that_are_not_there_is_not_added(index: atdata.LocalIndex) -> None:
    ends = [index._schemas.get(index.publish_schema(cls))[0] for cls in (Word, Term)]
    gone = msgspec.structs.replace(ends[1], version="9.0.0")
    with pytest.raises(EntryNotFoundError, match=r"no schema Term@9\.0\.0"):
        index._backend.add_lens(LensRow("bafyrei" + "a" * 52, "x", ends[0], gone, "{}", 1))
    assert list(index.list_lenses()) == []
