"""What `LocalIndex` promises over every database, beyond the contract of an index."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import (
    CatalogError,
    EmptyDatasetError,
    EntryExistsError,
    EntryFormError,
    EntryNotFoundError,
    SchemaError,
)
from atdata.index.base import DatasetEntry
from atdata.testing.indexes import IndexSuite, Other
from atdata.testing.probes import BrokenError, Probe, breaking, keyed, probes

__all__ = ["LocalIndexSuite"]

_NOW = timedelta(0)

# Other processes on the same index and store; each prints what became of its work.
_INSERT = """
import sys
import atdata
from atdata.testing.probes import Probe
url, shelf, version, *prefixes = sys.argv[1:]
with atdata.LocalIndex(url) as index:
    print("ready", flush=True)
    sys.stdin.readline()
    for prefix in prefixes:
        try:
            entry = index.insert_dataset(atdata.Dataset(f"{shelf}/{prefix}"), name="d", version=version or None)
            print(entry.version)
        except atdata.AtdataError as error:
            print(type(error).__name__)
"""
_TAKE = """
import sys
import atdata
from atdata.testing.probes import Probe
url, other = sys.argv[1:]
with atdata.LocalIndex(url) as index, atdata.LocalIndex(other) as source:
    entries = list(source.list_datasets())
    print("ready", flush=True)
    sys.stdin.readline()
    print(index.add_entries(entries))
"""
_KILLED = """
import os, signal, sys
import atdata
from atdata.testing.probes import Probe, probes
url, root, moment = sys.argv[1:]

def samples():
    yield from probes(30)
    if moment == "in the middle":
        os.kill(os.getpid(), signal.SIGKILL)

class Store(atdata.LocalDiskStore):
    def write_shards(self, *args, **options):
        urls = super().write_shards(*args, **options)
        if moment == "before the commit":
            os.kill(os.getpid(), signal.SIGKILL)
        return urls

with atdata.LocalIndex(url, store=Store(root)) as index:
    index.write_samples(samples(), name="d", sample_type=Probe, maxcount=10)
"""


class LocalIndexSuite(IndexSuite):
    """Tests of `LocalIndex`; a subclass, whose name begins with `Test`, gives the fixture `url`: an empty database."""

    @pytest.fixture
    def url(self) -> str:
        """What `LocalIndex` takes, a new one for each test."""
        raise NotImplementedError("a subclass of LocalIndexSuite gives the fixture `url`")

    @pytest.fixture
    def index(self, url: str, tmp_path: Path) -> Iterator[atdata.LocalIndex]:
        """A new, empty index, with a store of its own."""
        with atdata.LocalIndex(url, store=atdata.LocalDiskStore(tmp_path / "store")) as index:
            yield index

    # -- writing ---------------------------------------------------------------------------------------------

    def test_samples_are_written_and_recorded_in_one_pass(self, index: atdata.LocalIndex) -> None:
        """From a generator, with the store's options, and the entry says what was written."""
        taken = []

        def generate() -> Iterator[Probe]:
            for sample in probes(25):
                taken.append(sample.label)
                yield sample

        entry = index.write_samples(
            generate(), name="a/digits", sample_type=Probe, tags=["t"], license="MIT", metadata={"a": 1}, maxcount=10
        )
        assert taken == list(range(25))
        assert entry == index.get_dataset("a/digits@1.0.0")
        assert (entry.samples, len(entry.shards), entry.parent) == (25, 3, None)
        assert entry.size == sum(os.path.getsize(url) for url in entry.data_urls)
        assert [sample.label for sample in entry.dataset(Probe)] == list(range(25))
        assert list(entry.dataset()) == [entry.dataset()[n] for n in range(25)]
        assert all(ref.info is not None and ref.info.manifest is not None for ref in entry.shards)
        assert index.store.root in Path(entry.data_urls[0]).parents

    def test_the_type_is_found_from_the_samples(self, index: atdata.LocalIndex) -> None:
        """Of a list, an iterator or a dataset, whose keys and steps count."""
        assert index.write_samples(probes(3), name="a").schema_ref == "atdata://local/schema/Probe@1.0.0"
        assert index.write_samples(iter([Other("x")]), name="b").schema_ref == "atdata://local/schema/Other@1.0.0"
        ds = keyed(probes(9)).filter(lambda sample: sample.label % 2 == 0)
        assert [key for key, _ in index.write_samples(ds, name="c").dataset().keyed()] == [
            f"key-{n:04d}" for n in (0, 2, 4, 6, 8)
        ]
        with pytest.raises(SchemaError, match="Probe, not Other"):
            index.write_samples(ds, name="d", sample_type=Other)

    def test_nothing_is_written_before_all_is_checked(self, index: atdata.LocalIndex) -> None:
        """Names, versions, details: the samples are not even asked for."""
        index.write_samples(probes(1), name="taken")
        wrong: list[dict[str, Any]] = [
            {"name": "../x"}, {"name": "x", "version": "1"}, {"name": "x", "tags": "text"},
            {"name": "x", "metadata": {"a": b""}}, {"name": "x", "description": ""},
            {"name": "taken", "version": "1.0.0"},
        ]  # fmt: skip
        for options in wrong:
            with pytest.raises(ValueError, match=r"."):
                index.write_samples(_Untouchable(), sample_type=Probe, **options)
        assert [entry.name for entry in index.list_datasets()] == ["taken"]
        assert len(index.gc(grace=_NOW)) == 0

    def test_a_write_that_fails_leaves_nothing(self, index: atdata.LocalIndex) -> None:
        """Neither in the index nor in the store."""
        with pytest.raises(BrokenError):
            index.write_samples(breaking(5), name="d", sample_type=Probe)
        nothings: tuple[Iterable[Probe], ...] = ([], iter(()))
        for nothing in nothings:
            with pytest.raises(EmptyDatasetError):
                index.write_samples(nothing, name="d", sample_type=Probe)
            with pytest.raises(EmptyDatasetError):
                index.write_samples(nothing, name="d")
        assert list(index.list_datasets()) == []
        assert list(index.list_schemas()) == []
        assert list(index.store.list()) == []
        assert index.gc(grace=_NOW) == []

    def test_versions_are_counted_by_what_changed(self, index: atdata.LocalIndex, shelf: atdata.LocalDiskStore) -> None:
        """Repackaged is a patch, more is minor, less or other is major; the same again is no new version."""
        steps = [
            ("a", probes(20), 100, "1.0.0"),
            ("b", probes(20), 7, "1.0.1"),
            ("c", probes(30), 7, "1.1.0"),
            ("d", probes(31), 100, "1.2.0"),
            ("e", probes(30), 100, "2.0.0"),
            ("f", [*probes(29), *probes(1, first=77)], 100, "3.0.0"),
        ]
        for prefix, samples, maxcount, version in steps:
            ds = keyed(samples)
            urls = shelf.write_shards(ds, prefix=prefix, maxcount=maxcount)
            entry = index.insert_dataset(atdata.Dataset(urls), name="d")
            assert entry.version == version, prefix
            assert index.insert_dataset(atdata.Dataset(urls), name="d") == entry
        assert [entry.version for entry in index.list_versions("d")] == [step[3] for step in steps[::-1]]
        assert [entry.parent for entry in index.list_versions("d")] == [*(step[3] for step in steps[-2::-1]), None]
        assert index.insert_dataset(atdata.Dataset(urls), name="d", tags=["new"]).version == "3.0.1"
        assert index.get_dataset("d").tags == ("new",)
        early = index.insert_dataset(atdata.Dataset(urls), name="d", version="1.1.5")
        assert (early.parent, index.get_dataset("d").version) == ("1.1.0", "3.0.1")

    def test_versions_are_told_apart(self, index: atdata.LocalIndex, shelf: atdata.LocalDiskStore) -> None:
        """Sample by sample."""
        for version, samples in (("1.0.0", probes(10)), ("2.0.0", [*probes(8), *probes(3, first=20)])):
            shelf.write_shards(keyed(samples), prefix=version)
            index.insert_dataset(atdata.Dataset(f"{shelf.root}/{version}"), name="d", version=version)
        found = index.diff("d@1.0.0", "d")
        assert [place.key for place in found.added] == ["key-0020", "key-0021", "key-0022"]
        assert [place.key for place in found.removed] == ["key-0008", "key-0009"]
        assert (found.unchanged, found.change) == (8, "major")

    def test_shards_without_a_record_are_read_once(
        self, index: atdata.LocalIndex, shelf: atdata.LocalDiskStore
    ) -> None:
        """And then have the digests that a record would have had; nothing is copied."""
        urls = shelf.write_shards(keyed(probes(9)), prefix="a", maxcount=4)
        whole = index.insert_dataset(atdata.Dataset(urls), name="whole")
        (shelf.root / "a" / "atdata.json").unlink()
        before = sorted(os.listdir(shelf.root / "a"))
        entry = index.insert_dataset(atdata.Dataset[Probe](list(urls)), name="bare")
        assert sorted(os.listdir(shelf.root / "a")) == before
        assert (entry.cid, entry.samples, entry.size) == (whole.cid, whole.samples, whole.size)
        assert [ref.info.manifest for ref in entry.shards if ref.info] == [
            ref.info.manifest for ref in whole.shards if ref.info
        ]
        damaged = Path(urls[1])
        damaged.write_bytes(damaged.read_bytes()[:-2048])
        with pytest.raises(atdata.AtdataError, match=r"shard-000001\."):
            index.insert_dataset(atdata.Dataset[Probe](list(urls)), name="damaged")
        assert [entry.name for entry in index.list_datasets()] == ["bare", "whole"]

    def test_some_shards_of_several_datasets(self, index: atdata.LocalIndex, shelf: atdata.LocalDiskStore) -> None:
        """Are a dataset, too, in that order."""
        one = shelf.write_shards(keyed(probes(9)), prefix="one", maxcount=3)
        two = shelf.write_shards(keyed(probes(6, first=9)), prefix="two", maxcount=3)
        urls = [one[2], two[1], one[0]]
        entry = index.insert_dataset(atdata.Dataset[Probe](urls), name="some")
        assert entry.data_urls == urls
        assert [sample.label for sample in entry.dataset()] == [6, 7, 8, 12, 13, 14, 0, 1, 2]
        assert index.get_dataset("some").data_urls == urls

    def test_a_class_that_is_not_the_stored_one(self, index: atdata.LocalIndex, shelf: atdata.LocalDiskStore) -> None:
        """Is recorded only when it is asked for."""

        @atdata.packable
        class Newer:
            pixels: NDArray[np.uint8]
            label: int
            note: str | None = None
            added: int = 7

        urls = shelf.write_shards(keyed(probes(3)), prefix="a")
        with pytest.raises(SchemaError, match="publish_schema"):
            index.insert_dataset(atdata.Dataset[Newer](urls), name="d")
        ref = index.publish_schema(Newer)
        entry = index.insert_dataset(atdata.Dataset[Newer](urls), name="d", schema_ref=ref)
        assert [sample.added for sample in entry.dataset()] == [7, 7, 7]
        with pytest.raises(SchemaError):
            index.insert_dataset(atdata.Dataset[Probe](urls).select_fields("label"), name="e")

    # -- appending -------------------------------------------------------------------------------------------

    def test_appending_shares_the_old_shards(self, index: atdata.LocalIndex) -> None:
        """Only the new samples are written; keys go on; details stay unless others are given."""
        old = index.write_samples(
            probes(10), name="d", tags=["t"], license="MIT", description="text", metadata={"a": 1}
        )
        new = index.append("d", probes(5, first=10), metadata={"a": 2}, maxcount=3)
        assert (new.version, new.parent, new.samples) == ("1.1.0", "1.0.0", 15)
        assert new.shards[0] == old.shards[0]
        assert [ref.info.samples for ref in new.shards if ref.info] == [10, 3, 2]
        assert (new.tags, new.license, new.description, new.metadata) == (("t",), "MIT", "text", {"a": 2})
        ds = index.get_dataset("d").dataset(Probe)
        assert [key for key, _ in ds.keyed()] == [f"{n:09d}" for n in range(15)]
        assert ds.get("000000012") == probes(1, first=12)[0]
        assert index.get_dataset("d@1.0.0") == old
        assert len(list(index.get_dataset("d@1.0.0").dataset())) == 10
        third = index.append("d", keyed(probes(1)), version="3.0.0", tags=[])
        assert (third.version, third.tags, third.parent) == ("3.0.0", (), "1.1.0")
        assert [key for key, _ in third.dataset().keyed()][-1] == "key-0000"
        assert index.diff("d@1.0.0", "d@1.1.0").change == "minor"

    def test_only_what_fits_is_appended(self, index: atdata.LocalIndex) -> None:
        """Samples of another type are refused before anything is written."""
        with pytest.raises(EntryNotFoundError):
            index.append("d", probes(1))
        index.write_samples(probes(3), name="d")
        with pytest.raises(SchemaError, match="cannot be read"):
            index.append("d", [Other("x")])
        with pytest.raises(SchemaError, match="no schema"):
            index.append("d", [atdata.DictSample(label=1)])
        with pytest.raises(EntryExistsError):
            index.append("d", _Untouchable(), sample_type=Probe, version="1.0.0")
        with pytest.raises(EmptyDatasetError):
            index.append("d", [])
        with pytest.raises(BrokenError):
            index.append("d", breaking(2))
        assert [entry.version for entry in index.list_versions("d")] == ["1.0.0"]
        assert index.gc(grace=_NOW) == []

    def test_samples_without_a_schema(self, index: atdata.LocalIndex) -> None:
        """Are found, read and appended to as well."""
        entry = index.write_samples([atdata.DictSample(a=1), atdata.DictSample(a=2)], name="d")
        assert entry.schema_ref is None
        assert [sample["a"] for sample in index.append("d", [atdata.DictSample(a=3)]).dataset()] == [1, 2, 3]

    # -- labels, names ---------------------------------------------------------------------------------------

    def test_labels_are_names_that_move(self, index: atdata.LocalIndex) -> None:
        """Each means one version at a time, and keeps it from being deleted."""
        for n in range(3):
            index.write_samples(probes(1, first=n), name="d", version=f"1.{n}.0")
        index.label("d", "stable", version="1.0.0")
        index.label("d", "newest")
        index.label("d", "tested", version="1.1.0")
        assert index.labels("d") == {"stable": "1.0.0", "newest": "1.2.0", "tested": "1.1.0"}
        index.label("d", "stable", version="1.1.0")
        assert list(index.labels("d").items())[-1] == ("stable", "1.1.0")
        assert index.get_dataset("d@stable").version == "1.1.0"
        assert index.get_dataset("d@latest").version == "1.2.0"
        with pytest.raises(EntryNotFoundError, match=r"9\.0\.0.*1\.2\.0, 1\.1\.0, 1\.0\.0"):
            index.label("d", "stable", version="9.0.0")
        with pytest.raises(EntryNotFoundError, match=r"'other'.*stable \(1\.1\.0\)"):
            index.get_dataset("d@other")
        with pytest.raises(EntryNotFoundError):
            index.unlabel("d", "other")
        for wrong in ("", "latest", "1.0.0", "1st", "a b", "a/b", "x" * 100, "ä"):
            with pytest.raises(EntryFormError):
                index.label("d", wrong)
        with pytest.raises(EntryExistsError, match="stable, tested"):
            index.delete_dataset("d@1.1.0")
        index.unlabel("d", "stable")
        index.unlabel("d", "tested")
        index.delete_dataset("d@1.1.0")
        assert index.labels("d") == {"newest": "1.2.0"}
        for vague in ("d@newest", "d@latest", index.get_dataset("d").cid):
            with pytest.raises(EntryFormError, match=r"d@1\.2\.0"):
                index.delete_dataset(vague)
        index.delete_dataset("d")
        with pytest.raises(EntryNotFoundError):
            index.labels("d")

    def test_renaming(self, index: atdata.LocalIndex) -> None:
        """Versions, labels and shards come along."""
        entry = index.write_samples(probes(2), name="old/name", tags=["t"])
        index.write_samples(probes(2), name="taken")
        index.label("old/name", "stable")
        with pytest.raises(EntryExistsError):
            index.rename("old/name", "taken")
        with pytest.raises(EntryNotFoundError):
            index.rename("missing", "x")
        with pytest.raises(EntryFormError):
            index.rename("old/name", "../x")
        index.rename("old/name", "new")
        assert index.get_dataset("new@stable").data_urls == entry.data_urls
        assert [found.name for found in index.search("new")] == ["new"]
        assert list(index.search("old")) == []
        with pytest.raises(EntryNotFoundError):
            index.get_dataset("old/name")

    def test_similar_names_are_suggested(self, index: atdata.LocalIndex) -> None:
        """As far as they are similar."""
        index.write_samples(probes(1), name="handwritten-digits")
        with pytest.raises(EntryNotFoundError, match="did you mean 'handwritten-digits'"):
            index.get_dataset("handwriten-digits")
        with pytest.raises(EntryNotFoundError) as caught:
            index.get_dataset("xyz")
        assert "mean" not in str(caught.value)

    # -- entries ---------------------------------------------------------------------------------------------

    def test_entries_come_page_by_page(self, index: atdata.LocalIndex) -> None:
        """Names in order; versions from the highest down; each with its own shards."""
        template = index.write_samples(probes(1), name="d", version="0.0.1")
        copies = [_copy(template, "d", f"1.{n}.0") for n in range(250)]
        copies += [_copy(template, f"e{n:03d}", "1.0.0", parent=None) for n in range(250)]
        assert index.add_entries(copies) == 500
        assert [entry.version for entry in index.list_versions("d")] == [
            *(f"1.{n}.0" for n in range(249, -1, -1)),
            "0.0.1",
        ]
        listed = list(index.list_datasets())
        assert [entry.name for entry in listed] == ["d", *(f"e{n:03d}" for n in range(250))]
        assert all(entry.data_urls == template.data_urls for entry in (listed[0], listed[-1]))
        assert next(index.search("e249")).name == "e249"

    def test_entries_of_another_index_are_taken_over(self, index: atdata.LocalIndex, tmp_path: Path) -> None:
        """With all they say; once more does nothing; another content under the same version is refused."""
        with atdata.LocalIndex(tmp_path / "other.db", store=index.store) as other:
            other.write_samples(probes(3), name="a", description="text", tags=["t"], license="MIT", metadata={"x": [1]})
            other.append("a", probes(2, first=3))
            other.write_samples([Other("x")], name="b", version="0.1.0")
            entries = [*other.list_versions("a"), *other.list_versions("b")]
            assert index.add_entries(iter(entries)) == 3
            assert [*index.list_versions("a"), *index.list_versions("b")] == entries
            assert index.add_entries(entries) == 0
            assert [sample.label for sample in index.get_dataset("a").dataset()] == [0, 1, 2, 3, 4]
            assert list(index.list_schemas()) == list(other.list_schemas())
            index.delete_dataset("a@1.0.0")
            index.write_samples(probes(1), name="a", version="1.0.0")
            with pytest.raises(EntryExistsError, match=r"a@1\.0\.0"):
                index.add_entries(entries)

    def test_many_entries_at_once_are_kept_as_they_are(self, index: atdata.LocalIndex, tmp_path: Path) -> None:
        """Whatever they say, however much of it, and in their order."""
        texts = (
            "quoted \"it\" 'is'",
            "back\\slash\ttab\nline",
            "naïve 日本 🦊 \x7f",
            "{} [] %s :rows $1",
            "'); DROP TABLE a; --",
        )
        with atdata.LocalIndex(tmp_path / "other.db", store=index.store) as other:
            first = other.write_samples(probes(2), name="first")
            entries = [
                dataclasses.replace(
                    first,
                    name=f"many/{n // 3:04d}",
                    version=f"1.{n % 3}.0",
                    parent=None if n % 3 == 0 else f"1.{n % 3 - 1}.0",
                    description=texts[n % 5],
                    tags=(f"t{n % 3}", texts[n % 5].partition("\t")[0].strip("\x7f ")),
                    license=None if n % 2 else "MIT",
                    metadata={"n": n, "text": texts[n % 5], "long": "\\" * (400_000 if 600 <= n < 606 else n)},
                )
                for n in range(1203)
            ]
            assert index.add_entries(entries) == len(entries)
        latest = list(index.search("many"))
        assert latest == entries[2::3]
        assert [entry.metadata for entry in latest] == [entry.metadata for entry in entries[2::3]]
        assert list(index.list_versions("many/0201")) == entries[605:602:-1]
        assert list(index.search("drop table")) == [entry for entry in latest if "DROP" in str(entry.description)]
        assert list(index.search(tags=["t1"])) == []
        assert index.get_dataset(first.cid) == entries[-1]
        assert [sample.label for sample in index.get_dataset("many/0200@1.1.0").dataset()] == [0, 1]

    def test_entries_cross_process_borders(self, index: atdata.LocalIndex) -> None:
        """With their shards, without the index."""
        entry = index.write_samples(probes(3), name="d", metadata={"a": [1]})
        again = pickle.loads(pickle.dumps(next(index.list_datasets())))  # noqa: S301
        assert again == entry
        assert hash(again) == hash(entry)
        assert again.data_urls == entry.data_urls
        assert [sample.label for sample in again.dataset(Probe)] == [0, 1, 2]
        assert again != index.append("d", probes(1))

    def test_an_entry_that_was_deleted_meanwhile(self, index: atdata.LocalIndex) -> None:
        """Says so when its shards are asked for."""
        index.write_samples(probes(1), name="d")
        listed = next(index.list_datasets())
        index.delete_dataset("d")
        with pytest.raises(EntryNotFoundError, match="deleted"):
            listed.dataset()

    def test_what_was_written_is_there_in_the_next_session(self, index: atdata.LocalIndex, url: str) -> None:
        """After closing, too."""
        entry = index.write_samples(probes(3), name="d")
        index.close()
        with atdata.LocalIndex(url) as again:
            assert again.get_dataset("d") == entry
        assert index.get_dataset("d") == entry

    # -- garbage ---------------------------------------------------------------------------------------------

    def test_only_what_nothing_refers_to_is_garbage(
        self, index: atdata.LocalIndex, shelf: atdata.LocalDiskStore
    ) -> None:
        """After a grace period, after a dry run, and never what atdata did not write."""
        store = index.store
        kept = index.write_samples(probes(5), name="kept")
        index.write_samples(probes(5), name="shared")
        index.append("shared", probes(1, first=5))
        index.rename("shared", "renamed")
        index.delete_dataset("renamed@1.0.0")  # its shards are in 1.1.0 still
        gone = index.write_samples(probes(7), name="gone")
        index.delete_dataset("gone")
        stray = store.write_shards(keyed(probes(3)), prefix="stray")
        link = store.write_shards(keyed(probes(3)), prefix="seen/by/another/path")
        (store.root.parent / "link").symlink_to(store.root)
        index.insert_dataset(atdata.Dataset([url.replace("/store/", "/link/") for url in link]), name="linked")
        foreign = store.root / "foreign" / "data.tar"
        foreign.parent.mkdir()
        foreign.write_bytes(b"somebody's")
        beside = Path(gone.data_urls[0]).parent / "notes.txt"
        beside.write_text("mine")

        assert index.gc() == []
        assert index.gc(grace=timedelta(hours=1), dry_run=False) == []
        found = index.gc(grace=_NOW)
        assert sorted(item.url for item in found) == sorted(
            f"{Path(urls[0]).parent}/" for urls in (gone.data_urls, stray)
        )
        assert all(not item.removed and item.kind == "dataset" and item.size for item in found)
        assert Path(stray[0]).exists()
        assert [item.url for item in index.gc(prefix="stray", grace=_NOW, dry_run=False)] == [f"{store.root}/stray/"]
        assert not Path(stray[0]).exists()
        assert Path(gone.data_urls[0]).exists()
        (removed,) = index.gc(grace=_NOW, dry_run=False)
        assert removed.removed
        assert not Path(gone.data_urls[0]).exists()
        assert beside.read_text() == "mine"
        assert foreign.read_bytes() == b"somebody's"
        assert index.gc(grace=_NOW) == []
        for name in ("kept", "renamed", "linked"):
            assert list(index.get_dataset(name).dataset())
        assert list(shelf.list()) == []
        assert kept.dataset()[0] is not None
        with pytest.raises(ValueError, match="grace"):
            index.gc(grace=timedelta(days=-1))

    @pytest.mark.parametrize("moment", ["in the middle", "before the commit"])
    def test_a_killed_writer_runs_again_and_leaves_garbage(
        self, index: atdata.LocalIndex, url: str, moment: str
    ) -> None:
        """The index is as it was; the second run completes; what the first left is found, and only that."""
        killed = subprocess.run(  # noqa: S603
            [sys.executable, "-c", _KILLED, url, str(index.store.root), moment], capture_output=True, check=False
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert list(index.list_datasets()) == []
        entry = index.write_samples(probes(30), name="d", maxcount=10)
        assert entry.version == "1.0.0"
        (found,) = index.gc(grace=_NOW, dry_run=False)
        assert found.kind == ("dataset" if moment == "before the commit" else "unfinished write")
        assert found.removed
        assert index.gc(grace=_NOW) == []
        assert len(list(entry.dataset())) == 30
        left = {path.parent for path in index.store.root.rglob("*") if path.is_file()}
        assert left == {Path(entry.data_urls[0]).parent}

    # -- at the same time ------------------------------------------------------------------------------------

    def test_two_processes_insert_one_version(
        self, index: atdata.LocalIndex, url: str, shelf: atdata.LocalDiskStore
    ) -> None:
        """One wins, the other is told, and what the winner said stands."""
        prefixes = [f"p{n}" for n in range(6)]
        for n, prefix in enumerate(prefixes):
            self.stored(shelf, prefix, first=n)
        said = self._race([[url, str(shelf.root), f"{n}.0.0", *prefixes[n : n + 1]] for n in (1, 1, 2, 2)])
        assert sorted(said[0] + said[1]) == ["1.0.0", "EntryExistsError"]
        assert sorted(said[2] + said[3]) == ["2.0.0", "EntryExistsError"]
        assert sorted(entry.version for entry in index.list_versions("d")) == ["1.0.0", "2.0.0"]

    def test_processes_count_versions_together(
        self, index: atdata.LocalIndex, url: str, shelf: atdata.LocalDiskStore
    ) -> None:
        """Nobody's version is lost, and none is given twice."""
        prefixes = [f"p{n:02d}" for n in range(12)]
        for n, prefix in enumerate(prefixes):
            self.stored(shelf, prefix, first=10 * n)
        said = self._race([[url, str(shelf.root), "", *prefixes[n::3]] for n in range(3)])
        versions = [version for one in said for version in one]
        assert sorted(versions, key=lambda version: int(version.split(".")[0])) == [f"{n}.0.0" for n in range(1, 13)]
        cids = {entry.cid for entry in index.list_versions("d")}
        assert cids == {atdata.Dataset(f"{shelf.root}/{prefix}").cid for prefix in prefixes}
        assert len(list(index.list_schemas())) == 1

    def test_processes_take_over_the_same_entries(self, index: atdata.LocalIndex, url: str, tmp_path: Path) -> None:
        """Each is added once, by one of them, and nobody fails."""
        with atdata.LocalIndex(tmp_path / "other.db", store=index.store) as other:
            first = other.write_samples(probes(2), name="first", tags=["t"])
            other.add_entries(_copy(first, f"many/{n:04d}", "1.0.0", metadata={"n": n}) for n in range(1200))
            entries = list(other.list_datasets())
        said = self._race([[url, str(tmp_path / "other.db")]] * 3, _TAKE)
        assert sum(int(added) for one in said for added in one) == len(entries) == 1201
        assert list(index.list_datasets()) == entries
        assert sum(1 for _ in index.search("many", tags=["t"])) == 1200

    def _race(self, arguments: list[list[str]], program: str = _INSERT) -> list[list[str]]:
        """What each of some processes says, which begin together."""
        running = [
            subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", program, *some], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for some in arguments
        ]
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate()[0].split() for process in running]
        assert all(process.returncode == 0 for process in running)
        return said

    def test_threads_share_an_index(self, index: atdata.LocalIndex, shelf: atdata.LocalDiskStore) -> None:
        """Reading and writing, also in threads that did not open it."""
        ds = self.stored(shelf, "a")
        failed: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for turn in range(8):
                    name = f"t{number}-{turn}"
                    index.insert_dataset(ds, name=name, tags=["thread"])
                    assert index.get_dataset(name).data_urls == ds.list_shards()
                    assert any(entry.name == name for entry in index.search(tags=["thread"]))
                    index.label(name, "mine")
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert len(list(index.list_datasets())) == 48

    def test_a_forked_process_has_connections_of_its_own(
        self, index: atdata.LocalIndex, shelf: atdata.LocalDiskStore
    ) -> None:
        """And leaves those of its parent alone."""
        index.insert_dataset(self.stored(shelf, "a"), name="before")
        child = os.fork()
        if child == 0:
            try:
                index.get_dataset("before")
                index.insert_dataset(self.stored(shelf, "b", first=1), name="child")
                index.close()
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert index.get_dataset("child").name == "child"
        index.insert_dataset(self.stored(shelf, "c", first=2), name="after")
        assert self.names(index.list_datasets()) == ["after", "before", "child"]

    def test_appending_at_the_same_time(self, index: atdata.LocalIndex, url: str) -> None:
        """The slower one is told, its shards are removed, and it can do it again."""
        index.write_samples(probes(3), name="d")

        def slow() -> Iterator[Probe]:
            yield from probes(2, first=10)
            with atdata.LocalIndex(url, store=index.store) as other:
                other.append("d", probes(1, first=20))

        with pytest.raises(EntryExistsError, match=r"d@1\.1\.0"):
            index.append("d", slow())
        assert index.gc(grace=_NOW) == []
        assert [sample.label for sample in index.append("d", probes(2, first=10)).dataset()] == [0, 1, 2, 20, 10, 11]

    # -- the index itself ------------------------------------------------------------------------------------

    def test_an_index_tells_where_it_is(self, index: atdata.LocalIndex) -> None:
        """In a few words."""
        assert repr(index) == f"LocalIndex({index.url!r}, store={index.store!r})"

    def test_times_are_kept_to_the_microsecond(self, index: atdata.LocalIndex) -> None:
        """Also of entries that are taken over."""
        entry = index.write_samples(probes(1), name="d")
        when = datetime(2019, 7, 1, 12, 30, 59, 123457, UTC)
        index.add_entries([_copy(entry, "e", "1.0.0", created_at=when)])
        assert index.get_dataset("e").created_at == when

    def test_entries_from_strangers_are_checked(self, index: atdata.LocalIndex) -> None:
        """As what a user gives is."""
        entry = index.write_samples(probes(1), name="d")
        for wrong in (
            {"name": "../x"}, {"version": "1"}, {"tags": ("a\n",)}, {"metadata": {"a": float("nan")}},
            {"description": "\0"}, {"parent": "x"},
        ):  # fmt: skip
            with pytest.raises(EntryFormError):
                index.add_entries([_copy(entry, **{"name": "e", "version": "1.0.0", **wrong})])  # type: ignore[arg-type]
        assert [found.name for found in index.list_datasets()] == ["d"]

    def test_a_class_with_hostile_fields_is_no_code(self, index: atdata.LocalIndex) -> None:
        """What a schema holds is data."""
        fields = {f"field_{n}": int for n in range(2000)}
        wide: type = atdata.packable(type("Wide", (), {"__annotations__": fields, "__module__": __name__}))
        ref = index.publish_schema(wide)
        assert len(index.get_schema(ref).fields) == 2000
        assert index.decode_schema(ref).__name__ == "Wide"
        with pytest.raises((EntryFormError, CatalogError)):
            index.decode_schema("__import__('os').system('true')")


def _copy(entry: DatasetEntry, name: str, version: str, **changes: Any) -> DatasetEntry:
    """An entry like `entry` of another index."""
    return dataclasses.replace(entry, name=name, version=version, **changes)


class _Untouchable:
    """Samples that must not be asked for."""

    def __iter__(self) -> Iterator[Probe]:
        pytest.fail("the samples were asked for")
