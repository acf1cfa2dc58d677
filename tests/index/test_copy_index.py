"""`atdata index copy` and `copy_index`: from index to index, and from those that the public implementation wrote."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import foreign_layouts as foreign
import msgpack
import numpy as np
import pytest
import redis
from foreign_layouts import SCHEMA, Entry, Layout, shard

import atdata
from atdata.errors import CatalogError, EntryFormError
from atdata.index.copying import IndexCopy, copy_index
from atdata.index.foreign import look
from atdata.lenses.references import CodeReference


@atdata.packable
class Word:
    text: str


@pytest.fixture
def target(tmp_path: Path) -> Any:
    with atdata.LocalIndex(tmp_path / "ours.db", store=atdata.LocalDiskStore(tmp_path / "data")) as index:
        yield index


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Makes a foreign index in each kind of database; gives its URL."""

    def make(layout: Layout) -> str:
        if request.param == "sqlite":
            return foreign.in_sqlite(tmp_path / "theirs.db", layout)
        url = request.getfixturevalue(f"{request.param}_url")
        return {"postgres": foreign.in_postgres, "redis": foreign.in_redis}[request.param](url, layout)

    make.kind = request.param
    return make


def theirs(tmp_path: Path, *entries: Entry, **more: Any) -> str:
    return foreign.in_sqlite(tmp_path / "theirs.db", Layout(entries, **more))


def copied(url: str, target: atdata.LocalIndex, **options: Any) -> IndexCopy:
    found = look(url).foreign
    assert found is not None
    return copy_index(found, target, **options)


def sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def reasons(done: IndexCopy) -> dict[str, str]:
    return {what.partition(" (")[0]: why for what, why in done.left_out}


# -- from the public implementation ------------------------------------------------------------------------------


def test_datasets_come_whole(layout: Any, target: atdata.LocalIndex, tmp_path: Path) -> None:
    a, b, c = (shard(tmp_path / f"data--0--{i}.tar", i, i + 10) for i in range(3))
    first = Entry("digits", [a], {"from": "a test", "checksums": {a: sha256(a)}})
    second = Entry("digits", [a, b], created="2026-02-01 12:30:00.5")
    other = Entry("other/one", [c])
    labels = [
        ("digits", second, "", "Handwritten."),
        ("other/one", other, "", None),
        ("other/one", other, "2.1.0", "As published."),
        ("other/one", other, "stable", None),
        ("alias", other, "", None),
    ]
    url = layout(Layout([first, second, other], labels, lenses=2))
    done = copied(url, target)
    assert done.left_out == []
    assert done.schemas == ["Digit@1.0.0"]
    assert sorted(done.versions) == ["alias@1.0.0", "digits@1.0.0", "digits@1.1.0", "other/one@2.1.0"]
    assert done.labels == ["other/one@stable"]
    assert [note.partition(":")[0] for note in done.notes] == ["2 stored lenses stay behind"]

    entry = target.get_dataset("digits@1.0.0")
    assert entry.metadata == {"from": "a test", "checksums": {a: sha256(a)}}
    assert (entry.samples, entry.size, entry.data_urls) == (2, Path(a).stat().st_size, [a])
    assert [ref.info.sha256 for ref in entry.shards if ref.info] == [sha256(a)]
    latest = target.get_dataset("digits")
    assert (latest.version, latest.description, latest.data_urls) == ("1.1.0", "Handwritten.", [a, b])
    if layout.kind != "redis":  # which keeps no times
        assert entry.created_at == datetime(2026, 1, 1, tzinfo=UTC)
        assert latest.created_at == datetime(2026, 2, 1, 12, 30, 0, 500_000, tzinfo=UTC)
    assert target.get_dataset("other/one@stable").version == "2.1.0"
    assert target.get_dataset("other/one").description == "As published."

    ds = atdata.load_dataset("digits", index=target)
    assert ds.sample_type.__name__ == "Digit"
    assert [sample.label for sample in ds] == [0, 10, 1, 11]
    assert ds[2].image.dtype == np.uint8
    np.testing.assert_array_equal(ds[2].image, [[1, 1], [1, 1]])
    assert [s.label for s in atdata.load_dataset("alias", index=target)] == [2, 12]

    again = copied(url, target)
    assert (again.schemas, again.versions, again.labels, again.left_out, again.present) == ([], [], [], [], 4)


def test_the_database_is_not_changed(tmp_path: Path, target: atdata.LocalIndex) -> None:
    url = theirs(tmp_path, Entry("digits", [shard(tmp_path / "a.tar", 1)]))
    before = Path(url).read_bytes()
    copied(url, target)
    assert Path(url).read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("theirs.db*")) == ["theirs.db"]


def test_what_an_interrupted_copy_lacks_is_copied(tmp_path: Path, target: atdata.LocalIndex) -> None:
    urls = [shard(tmp_path / f"{i}.tar", i) for i in range(3)]
    url = theirs(tmp_path, *(Entry(name, [at]) for name, at in zip("abc", urls, strict=True)))

    read = []

    def interrupt() -> None:
        read.append(1)
        if len(read) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copied(url, target, advance=interrupt)
    read = [1, 1, 1]
    done = copied(url, target, advance=interrupt)
    assert done.present == 1
    assert done.versions == ["b@1.0.0", "c@1.0.0"]
    assert len(read) == 5  # the shard of what is there is not read again


def test_what_the_name_means_is_the_latest(tmp_path: Path, target: atdata.LocalIndex) -> None:
    old = Entry("digits", [shard(tmp_path / "old.tar", 1)], created="2026-01-01 00:00:00")
    new = Entry("digits", [shard(tmp_path / "new.tar", 2)], created="2026-01-02 00:00:00")
    url = theirs(tmp_path, old, new, labels=[("digits", old, "", None)])
    done = copied(url, target)
    assert done.versions == ["digits@1.0.0", "digits@2.0.0"]
    assert target.get_dataset("digits").data_urls == old.urls
    assert done.notes == []


def test_a_name_that_means_a_lower_version_is_noted(tmp_path: Path, target: atdata.LocalIndex) -> None:
    old = Entry("digits", [shard(tmp_path / "old.tar", 1)])
    new = Entry("digits", [shard(tmp_path / "new.tar", 2)])
    labels = [("digits", old, "1.0.0", None), ("digits", new, "3.0.0", None), ("digits", old, "", None)]
    done = copied(theirs(tmp_path, old, new, labels=labels), target)
    assert sorted(done.versions) == ["digits@1.0.0", "digits@3.0.0"]
    assert "digits means digits@3.0.0 here" in done.notes[0]


def test_names_that_are_not_allowed_are_renamed_on_demand(tmp_path: Path, target: atdata.LocalIndex) -> None:
    a, b = shard(tmp_path / "a.tar", 4), shard(tmp_path / "b.tar", 5)
    url = theirs(tmp_path, Entry("Zahlen für alle", [a]), Entry("good", [b]))
    done = copied(url, target)
    assert done.versions == ["good@1.0.0"]
    assert "--rename 'Zahlen für alle=NAME'" in reasons(done)["Zahlen für alle"]
    done = copied(url, target, rename={"Zahlen für alle": "zahlen"})
    assert (done.versions, done.left_out) == (["zahlen@1.0.0"], [])


@pytest.mark.parametrize(
    ("rename", "says"), [({"nobody": "a"}, "no dataset 'nobody'"), ({"a": "b"}, "two"), ({"a": "x", "b": "x"}, "two")]
)
def test_renames_that_make_no_sense(tmp_path: Path, target: Any, rename: dict[str, str], says: str) -> None:
    a, b = shard(tmp_path / "a.tar", 4), shard(tmp_path / "b.tar", 5)
    url = theirs(tmp_path, Entry("a", [a]), Entry("b", [b]))
    with pytest.raises(EntryFormError, match=says):
        copied(url, target, rename=rename)
    assert list(target.list_datasets()) == []


HOSTILE_URLS = {
    "a pipe": (["pipe:touch hacked"], "absolute paths and URLs"),
    "a pipe with slashes": (["pipe://touch hacked"], "not opened"),
    "a file URL": (["file:///etc/passwd"], "not opened"),
    "a path that is no archive": (["/etc/passwd"], "not that of a tar archive"),
    "memory": (["memory://x/a.tar"], "not opened"),
    "a relative path": (["data/a.tar"], "absolute paths"),
    "a control character": (["/data/\x1b[31m.tar"], "control characters"),
    "no shards": ([], "no shards"),
    "nothing there": (["/nonexistent/a.tar"], "no such file"),
    "a long array": (b"\xdd\xff\xff\xff\xff", "damaged"),
    "depth": (b"\x91" * 100_000, "damaged"),
    "numbers": (msgpack.packb([1, 2]), "damaged"),
    "no msgpack": (b"\xc1", "damaged"),
    "empty": (b"", "damaged"),
    "braces without end": (["/data/{0..999999999}.tar"], "more than"),
    "large": (msgpack.packb(["x" * (17 << 20)]), "MiB"),
}


@pytest.mark.parametrize("case", HOSTILE_URLS)
def test_what_must_not_be_opened_is_left_out(tmp_path: Path, target: atdata.LocalIndex, case: str) -> None:
    urls, says = HOSTILE_URLS[case]
    url = theirs(tmp_path, Entry("bad", urls), Entry("good", [shard(tmp_path / "a.tar", 4)]))
    done = copied(url, target)
    assert done.versions == ["good@1.0.0"]
    assert says in reasons(done)["bad"]
    assert not Path("hacked").exists()


def test_a_device_is_not_read(tmp_path: Path, target: atdata.LocalIndex) -> None:
    (tmp_path / "zero.tar").symlink_to("/dev/zero")
    done = copied(theirs(tmp_path, Entry("bad", [str(tmp_path / "zero.tar")])), target)
    assert "no such file" in reasons(done)["bad"]


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        (b"\x81\xa1a" + b"\x91" * 100_000, "damaged"),
        (b"\xdf\xff\xff\xff\xff", "damaged"),
        (b"\x93\x01\x02\x03", "damaged"),
        ({"a": b"\x00"}, "metadata.a is bytes"),
        ({"a": float("nan")}, "metadata.a is nan"),
        ({"a": "x" * (2 << 20)}, "MiB"),
    ],
)
def test_metadata_that_cannot_be_kept(tmp_path: Path, target: Any, metadata: Any, says: str) -> None:
    done = copied(theirs(tmp_path, Entry("bad", [shard(tmp_path / "a.tar", 4)], metadata)), target)
    assert says in reasons(done)["bad"]
    assert list(target.list_datasets()) == []


def test_shards_that_changed_or_are_damaged_are_left_out(tmp_path: Path, target: atdata.LocalIndex) -> None:
    a, b = shard(tmp_path / "a.tar", 1), shard(tmp_path / "b.tar", 2, 3)
    data = Path(b).read_bytes()
    Path(b).write_bytes(data[:700])
    url = theirs(tmp_path, Entry("changed", [a], {"checksums": {a: "0" * 64}}), Entry("cut", [b]))
    done = copied(url, target)
    assert "SHA-256 differs" in reasons(done)["changed"]
    assert b in reasons(done)["cut"]
    assert done.versions == []
    Path(b).write_bytes(data)
    assert copied(url, target).versions == ["cut@1.0.0"]


def test_schemas_that_cannot_be_read_leave_their_datasets_out(tmp_path: Path, target: atdata.LocalIndex) -> None:
    at = shard(tmp_path / "a.tar", 1)
    prefix = "atdata://local/schema/"
    bad = {
        "Ref": (SCHEMA | {"name": "Ref", "fields": [{"name": "x", "fieldType": {"$type": "local#ref", "ref": "u"}}]}),
        "Keyword": SCHEMA | {"name": "class"},
        "Deep": '{"a":' * 100_000,
        "Text": "no JSON",
    }
    entries = [Entry(name.lower(), [at], ref=f"{prefix}{name}@1.0.0") for name in bad]
    entries += [Entry("missing", [at], ref=f"{prefix}Nobody@1.0.0"), Entry("net", [at], ref="at://did:plc:x/y/z")]
    schemas = [(name, "1.0.0", record) for name, record in bad.items()] + [("Odd", "v1", SCHEMA | {"name": "Odd"})]
    done = copied(theirs(tmp_path, *entries, schemas=schemas), target)
    assert set(reasons(done)) == {
        *(f"schema {name}@1.0.0" for name in bad), "schema Odd@v1", *(entry.name for entry in entries)
    }  # fmt: skip
    assert done.schemas == done.versions == []


def test_older_forms_of_schema_references(tmp_path: Path, target: atdata.LocalIndex) -> None:
    at = shard(tmp_path / "a.tar", 1)
    refs = ["atdata://local/sampleSchema/Digit@1.0.0", "local://schemas/my.module.Digit@1.0.0"]
    entries = [Entry(f"d{i}", [at], ref=ref) for i, ref in enumerate(refs)]
    done = copied(theirs(tmp_path, *entries, schemas=[("Digit", "1.0.0", SCHEMA)]), target)
    assert done.versions == ["d0@1.0.0", "d1@1.0.0"]
    assert atdata.load_dataset("d1", index=target)[0].label == 1


def test_a_label_of_nothing_is_listed(tmp_path: Path, target: atdata.LocalIndex) -> None:
    at = shard(tmp_path / "a.tar", 1)
    gone = Entry("gone", ["/gone.tar"])
    labels = [("gone", gone, "", None), ("a", Entry("a", [at]), "2024", None)]
    done = copied(theirs(tmp_path, Entry("a", [at]), labels=labels), target)
    assert done.versions == ["a@1.0.0"]
    assert "no entry" in reasons(done)["label gone"]
    assert "cannot be a label" in reasons(done)["a@2024"]


def test_keys_of_another_kind_in_redis(tmp_path: Path, target: atdata.LocalIndex, redis_url: str) -> None:
    foreign.in_redis(redis_url, Layout([Entry("good", [shard(tmp_path / "a.tar", 1)])]))
    with redis.Redis.from_url(redis_url) as client:
        client.set("LocalDatasetEntry:text", "no hash")
        client.hset("LocalDatasetEntry:half", mapping={"cid": "half", "name": "half"})
        client.hset("LocalSchema:Hash@1.0.0", "a", "b")
        client.set("Label:text@", "no hash")
    done = copied(redis_url, target)
    assert done.versions == ["good@1.0.0"]
    assert {"half", "schema Hash@1.0.0"} <= set(reasons(done))


def test_a_later_form_is_refused(tmp_path: Path) -> None:
    import sqlite3

    url = theirs(tmp_path)
    connection = sqlite3.connect(url)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(CatalogError, match="user_version 7"):
        look(url)


# -- between our own ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    kind = request.param
    url = tmp_path / "source.db" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    with atdata.LocalIndex(url, store=atdata.LocalDiskStore(tmp_path / "words")) as index:
        yield index


def test_all_versions_and_labels_come(source: atdata.LocalIndex, target: atdata.LocalIndex) -> None:
    source.write_samples([Word("a")], name="words", description="Some.", tags=["t"], license="MIT", metadata={"k": 1})
    source.append("words", [Word("b")])
    source.label("words", "stable", version="1.0.0")
    source.write_samples([Word("c")], name="more/words")
    done = copy_index(source, target)
    assert done.versions == ["more/words@1.0.0", "words@1.0.0", "words@1.1.0"]
    assert (done.schemas, done.labels, done.left_out) == (["Word@1.0.0"], ["words@stable"], [])
    for name in ("words", "more/words"):
        assert list(target.list_versions(name)) == list(source.list_versions(name))
        assert target.labels(name) == source.labels(name)
    assert [word.text for word in atdata.load_dataset("words", index=target)] == ["a", "b"]

    source.append("words", [Word("d")])
    again = copy_index(source, target, rename={"more/words": "other"})
    assert (again.versions, again.present) == (["other@1.0.0", "words@1.2.0"], 2)


def test_lenses_come_with_their_schemas(source: atdata.LocalIndex, target: atdata.LocalIndex) -> None:
    """Declared ones and references to code; once; what is meant by a name stays so."""

    @atdata.packable
    class Term:
        term: str

    def cut(src: Word) -> Term:
        return Term(src.text[:1])

    lens = atdata.Lens.fields(Word, Term, rename={"text": "term"})
    source.write_samples([Word("abc")], name="words")
    source.publish_lens(lens)
    source.publish_lens(atdata.Lens(cut), code=CodeReference("https://example.org/words", "ab" * 20, "cut.py"))
    dry = copy_index(source, target, dry_run=True)
    assert dry.lenses == ["Word_to_Term (Word@1.0.0 -> Term@1.0.0)", "cut (Word@1.0.0 -> Term@1.0.0)"]
    assert list(target.list_lenses()) == []
    assert copy_index(source, target).lenses == dry.lenses
    assert list(target.list_lenses()) == list(source.list_lenses())
    assert target.get_lens("Word_to_Term").load(Word, Term) == lens
    assert copy_index(source, target).lenses == []
    other = atdata.Lens.fields(Term, Word, rename={"term": "text"})
    target.publish_lens(other)
    source.publish_lens(other)
    assert copy_index(source, target).lenses == []
    assert target.get_lens("Term_to_Word").created_at == source.get_lens("Term_to_Word").created_at


def test_a_lens_between_other_schemas_is_left_out(tmp_path: Path, target: atdata.LocalIndex) -> None:
    """Where the target has one of them with another content."""
    term = atdata.packable(type("Term", (), {"__annotations__": {"term": str}, "__module__": __name__}))
    other = atdata.packable(type("Term", (), {"__annotations__": {"x": int}, "__module__": __name__}))
    target.publish_schema(other)
    with atdata.LocalIndex(tmp_path / "source.db") as source:
        source.publish_lens(atdata.Lens.fields(Word, term, rename={"text": "term"}))
        done = copy_index(source, target)
    assert done.lenses == []
    assert "schema Term@1.0.0 is there with another content" in reasons(done)["lens Word_to_Term"]
    assert list(target.list_lenses()) == []


def test_what_is_there_is_not_replaced(tmp_path: Path, target: atdata.LocalIndex) -> None:
    with atdata.LocalIndex(tmp_path / "source.db", store=atdata.LocalDiskStore(tmp_path / "words")) as source:
        for index, text in ((source, "theirs"), (target, "mine")):
            index.write_samples([Word(text)], name="words")
        source.append("words", [Word("more")])
        source.label("words", "stable", version="1.1.0")
        target.label("words", "stable", version="1.0.0")
        done = copy_index(source, target)
        assert done.versions == ["words@1.1.0"]
        assert "another content" in reasons(done)["words@1.0.0"]
        assert "the label means 1.0.0 there" in reasons(done)["words@stable"]
        assert [word.text for word in target.get_dataset("words@1.0.0").dataset()] == ["mine"]


# -- the command -------------------------------------------------------------------------------------------------


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "atdata", "index", "copy", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def test_the_command(tmp_path: Path, layout: Any) -> None:
    a, b = shard(tmp_path / "a.tar", 4), shard(tmp_path / "b.tar", 5)
    url = layout(Layout([Entry("digits", [a]), Entry("the rest", [b])]))
    dry = run(tmp_path, url, "ours.db", "--dry-run")
    assert dry.returncode == 1
    assert "version  digits" in dry.stdout
    assert f"would copy 1 version, 1 schema, 0 labels, 0 lenses to {tmp_path / 'ours.db'}" in dry.stdout
    assert not (tmp_path / "ours.db").exists()
    done = run(tmp_path, url, "ours.db")
    assert done.returncode == 1
    assert "left out: the rest: 'the rest' cannot name a dataset" in done.stderr
    assert "copied 1 version, 1 schema, 0 labels" in done.stdout
    done = run(tmp_path, url, "ours.db", "--rename", "the rest=rest", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert (document["versions"], document["present"], document["left_out"]) == (["rest@1.0.0"], 1, [])
    assert "s3cret" not in done.stdout


def test_an_index_of_both_kinds_in_one_file(tmp_path: Path) -> None:
    url = theirs(tmp_path, Entry("digits", [shard(tmp_path / "a.tar", 1)]))
    with atdata.LocalIndex(url, store=atdata.LocalDiskStore(tmp_path / "words")) as index:
        index.write_samples([Word("a")], name="words")
    done = run(tmp_path, url, "ours.db", "--json", "--rename", "words=texts")
    assert (done.returncode, json.loads(done.stdout)["versions"]) == (0, ["digits@1.0.0", "texts@1.0.0"])
    done = run(tmp_path, url, f"sqlite:///{Path(url).name}")
    assert done.returncode == 1
    assert "another place" in done.stderr


@pytest.mark.parametrize("arguments", [("missing.db", "ours.db"), ("ours.db", "theirs.db", "--rename", "x")])
def test_what_cannot_be_copied(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("atdata: error: ")
    assert list(tmp_path.iterdir()) == []
