"""What every index of datasets has to pass, ours and a stranger's.

```python
from atdata.testing import IndexSuite

class TestMyIndex(IndexSuite):
    @pytest.fixture
    def index(self, tmp_path):
        return MyIndex(tmp_path)
```

The suite knows the methods of `AbstractIndex` and nothing else. `LocalIndexSuite` adds what `LocalIndex` promises over
every database. An index of what others can read has its datasets elsewhere than on a disk:

```python
    @pytest.fixture
    def shelf(self):
        return atdata.S3DataStore(credentials, bucket="tests")

    def opened(self, shelf, urls, sample_type):
        return atdata.Dataset(urls, sample_type=sample_type, store=shelf)
```
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import atdata
from atdata.index.base import AbstractIndex, IndexEntry
from atdata.samples.schema import Schema
from atdata.testing.probes import Probe, probes
from atdata.testing.stored_lenses import LensSuite

__all__ = ["HOSTILE_METADATA", "HOSTILE_NAMES", "HOSTILE_VERSIONS", "IndexSuite"]

HOSTILE_NAMES = (
    "", "/", "a/", "/a", "a//b", "..", "../escape", "a/../b", ".hidden", "a/.b", "a\\b", "two words", " a", "a ", "a\n",
    "nul\0byte", "tab\t", "a@1.0.0", "@a", "x" * 10_000, "🦜", "naïve", "a'; DROP TABLE atdata_datasets; --", 'a"b',
    "a%b", "a*", "a:b", "s3://bucket/a", "${HOME}", "local/a", "bafyrei" + "a" * 52, "\ud800",
)  # fmt: skip

HOSTILE_VERSIONS = (
    "", "1", "1.0", "1.0.0.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.0-01", "1.0.0 ", " 1.0.0", "1.0.0\n", "-1.0.0",
    "1.0.x", "one", "1.0.0+", "1" * 200 + ".0.0", "latest", "\uff11.0.0", "1.0.0'; --",
)  # fmt: skip

HOSTILE_METADATA: tuple[Any, ...] = (
    [1], "text", {1: 2}, {"a": {2: 3}}, {"a": float("nan")}, {"a": float("inf")}, {"a": b"bytes"}, {"a": {1, 2}},
    {"a": datetime(2020, 1, 1)}, {"a": "\0"}, {"a": "\ud800"}, {"a": 2**70}, {"a": "x" * (2 << 20)}, {"a": object()},
    {"a": (1, 2)},
)  # fmt: skip


@atdata.packable
class Other:
    """A sample type of another name."""

    text: str


class IndexSuite(LensSuite):
    """Tests that any object with the methods of `AbstractIndex` has to pass.

    A subclass, whose name begins with `Test`, gives the fixture `index`: a new, empty index for each test. It may have
    another `shelf`, and says by `opened` how what lies there is read.
    """

    @pytest.fixture
    def index(self) -> Any:
        """A new, empty index."""
        raise NotImplementedError("a subclass of IndexSuite gives the fixture `index`")

    @pytest.fixture
    def shelf(self, tmp_path: Path) -> Any:
        """The store where the datasets lie that are recorded."""
        return atdata.LocalDiskStore(tmp_path / "shelf")

    def opened(self, shelf: Any, urls: list[str], sample_type: type) -> atdata.Dataset[Any]:
        """A dataset of shards that lie on the shelf."""
        return atdata.Dataset(urls, sample_type=sample_type)

    def stored(
        self, shelf: Any, prefix: str, count: int = 6, *, first: int = 0, maxcount: int = 100
    ) -> atdata.Dataset[Probe]:
        """A dataset that lies on the shelf."""
        samples = atdata.Dataset.from_samples(
            probes(count, first=first), Probe, key=lambda sample: f"key-{sample.label:04d}"
        )
        urls = shelf.write_shards(samples, prefix=prefix, maxcount=maxcount)
        return self.opened(shelf, urls, Probe)

    def names(self, entries: Iterator[IndexEntry]) -> list[str]:
        """The entries' names, sorted; they are given one by one."""
        assert iter(entries) is entries
        return sorted(entry.name for entry in entries)

    # -- datasets --------------------------------------------------------------------------------------------

    def test_it_has_the_methods(self, index: AbstractIndex, shelf: Any) -> None:
        """`isinstance` with the protocols sees an index, and an entry."""
        assert isinstance(index, AbstractIndex)
        assert isinstance(index.insert_dataset(self.stored(shelf, "a"), name="a"), IndexEntry)

    def test_all_that_is_given_is_kept(self, index: AbstractIndex, shelf: Any) -> None:
        """Every shard and every detail comes back, and the samples can be read by what the entry says."""
        ds = self.stored(shelf, "digits", 25, maxcount=4)
        metadata = {
            "source": {"url": "https://example.org", "pages": [1, 2.5, None, True]},
            "größe": 2**53,
            "empty": {},
        }
        made = index.insert_dataset(
            ds,
            name="vision/digits_v2.1",
            version="0.3.0",
            description="Handwritten digits\n— 25 of them 🦜",
            tags=["images", "tiny set"],
            license="CC-BY-4.0",
            metadata=metadata,
        )
        found = index.get_dataset("vision/digits_v2.1")
        for entry in (made, found):
            assert (entry.name, entry.version) == ("vision/digits_v2.1", "0.3.0")
            assert entry.data_urls == ds.list_shards()
            assert len(entry.data_urls) == 7
            assert entry.metadata == metadata
            assert entry.cid == ds.cid
            assert entry.created_at.utcoffset() == timedelta(0)
            assert abs(entry.created_at - datetime.now(UTC)) < timedelta(hours=1)
            assert entry.schema_ref is not None
            sample_type = index.decode_schema(entry.schema_ref)
            read = self.opened(shelf, entry.data_urls, sample_type)
            assert [sample.label for sample in read] == list(range(25))
        assert found.created_at == made.created_at
        assert found.description == "Handwritten digits\n— 25 of them 🦜"  # type: ignore[attr-defined]
        assert tuple(found.tags) == ("images", "tiny set")  # type: ignore[attr-defined]
        assert found.license == "CC-BY-4.0"  # type: ignore[attr-defined]

    def test_the_highest_version_is_the_default(self, index: AbstractIndex, shelf: Any) -> None:
        """By semver's precedence, not by text or time; releases before pre-releases."""
        for n, version in enumerate(["1.9.0", "1.10.0", "1.2.0", "2.0.0-rc.1", "0.1.0"]):
            index.insert_dataset(self.stored(shelf, f"v{n}", first=n), name="d", version=version)
        assert index.get_dataset("d").version == "1.10.0"
        assert index.get_dataset("d@2.0.0-rc.1").version == "2.0.0-rc.1"
        assert index.get_dataset("d@1.2.0").cid != index.get_dataset("d@1.9.0").cid
        assert [entry.version for entry in index.list_datasets()] == ["1.10.0"]

    def test_only_pre_releases_give_the_highest_of_them(self, index: AbstractIndex, shelf: Any) -> None:
        """A dataset that was never released is found, too."""
        for n, version in enumerate(["1.0.0-alpha.2", "1.0.0-alpha.10", "1.0.0-alpha.beta"]):
            index.insert_dataset(self.stored(shelf, f"v{n}", first=n), name="d", version=version)
        assert index.get_dataset("d").version == "1.0.0-alpha.beta"

    def test_a_dataset_is_found_by_its_content(self, index: AbstractIndex, shelf: Any) -> None:
        """The identifier names the content, not the place, and is that of the commit record."""
        ds = self.stored(shelf, "here")
        entry = index.insert_dataset(ds, name="a")
        assert index.get_dataset(entry.cid) == entry
        assert self.stored(shelf, "there").cid == entry.cid
        assert self.stored(shelf, "other", first=1).cid != entry.cid

    def test_two_names_for_one_content(self, index: AbstractIndex, shelf: Any) -> None:
        """Neither takes the other's place."""
        ds = self.stored(shelf, "a")
        first, second = index.insert_dataset(ds, name="first"), index.insert_dataset(ds, name="second")
        assert first.cid == second.cid
        assert index.get_dataset("first").name == "first"
        assert index.get_dataset("second").name == "second"
        assert self.names(index.list_datasets()) == ["first", "second"]
        assert index.get_dataset(first.cid).cid == first.cid

    def test_what_is_missing_is_an_error_that_says_what_there_is(self, index: AbstractIndex, shelf: Any) -> None:
        """A version that is not there never gives another one."""
        with pytest.raises(LookupError, match="digits"):
            index.get_dataset("digits")
        entry = index.insert_dataset(self.stored(shelf, "a"), name="digits", version="1.2.0")
        with pytest.raises(LookupError, match=r"9\.9\.9.*1\.2\.0"):
            index.get_dataset("digits@9.9.9")
        with pytest.raises(LookupError, match="digits"):
            index.get_dataset("digts")
        other = entry.cid[:-1] + ("a" if entry.cid[-1] != "a" else "b")
        with pytest.raises(LookupError):
            index.get_dataset(other)
        assert index.get_dataset("@local/digits@1.2.0") == entry

    def test_a_version_never_changes(self, index: AbstractIndex, shelf: Any) -> None:
        """Another dataset under the same version is refused, and so is the same one."""
        first = index.insert_dataset(self.stored(shelf, "a"), name="d", version="1.0.0", tags=["kept"])
        for ds in (self.stored(shelf, "b", first=9), self.opened(shelf, first.data_urls, Probe)):
            with pytest.raises(ValueError, match=r"d@1\.0\.0 already"):
                index.insert_dataset(ds, name="d", version="1.0.0", tags=["new"])
        assert index.get_dataset("d") == first
        assert self.names(index.search(tags=["kept"])) == ["d"]
        assert self.names(index.search(tags=["new"])) == []

    def test_datasets_are_listed_each_once(self, index: AbstractIndex, shelf: Any) -> None:
        """However many there are."""
        assert self.names(index.list_datasets()) == []
        ds = self.stored(shelf, "a")
        wanted = [f"d{n:03d}" for n in range(130)]
        for name in wanted:
            index.insert_dataset(ds, name=name)
        assert self.names(index.list_datasets()) == wanted

    def test_search(self, index: AbstractIndex, shelf: Any) -> None:
        """All words, by their beginnings, without case and accents; all tags, exactly; the schema's name."""
        ds = self.stored(shelf, "a")
        index.insert_dataset(
            ds, name="vision/digits", description="Handwritten digits from Zürich", tags=["images", "x"]
        )
        index.insert_dataset(ds, name="letters", description="hand drawn LETTERS; 100% of them", tags=["images"])
        texts = shelf.write_shards(atdata.Dataset.from_samples([Other("a")], Other), prefix="texts")
        index.insert_dataset(self.opened(shelf, texts, Other), name="texts", description="some_text (v2)")
        for text, found in {
            "": ["letters", "texts", "vision/digits"],
            "   ": ["letters", "texts", "vision/digits"],
            "digits": ["vision/digits"],
            "DIGI": ["vision/digits"],
            "hand": ["letters", "vision/digits"],
            "hand letters": ["letters"],
            "zurich": ["vision/digits"],
            "zürich": ["vision/digits"],
            "vision": ["vision/digits"],
            "images": ["letters", "vision/digits"],
            "written": [],
            "100": ["letters"],
            "text v2": ["texts"],
            "probe": ["letters", "vision/digits"],
            "handwritten nothing": [],
            "!!!": [],
            "'": [],
            '"hand" OR "x" AND': [],
            "hand*": ["letters", "vision/digits"],
            "NOT hand": [],
            "words:hand": [],
            "'; DROP TABLE x; --": [],
            "🦜": [],
            "\0": [],
        }.items():
            assert self.names(index.search(text)) == found, text
        assert self.names(index.search(tags=["images"])) == ["letters", "vision/digits"]
        assert self.names(index.search(tags=["images", "x"])) == ["vision/digits"]
        assert self.names(index.search(tags=["image"])) == []
        assert self.names(index.search("hand", tags=["x"])) == ["vision/digits"]
        assert self.names(index.search(schema="Other")) == ["texts"]
        assert self.names(index.search("some", schema="Probe")) == []
        schema_ref = index.get_dataset("texts").schema_ref
        assert self.names(index.search(schema=schema_ref)) == ["texts"]

    def test_only_the_latest_version_is_searched(self, index: AbstractIndex, shelf: Any) -> None:
        """And each dataset is found once."""
        old = self.stored(shelf, "a")
        index.insert_dataset(old, name="d", version="1.0.0", description="old words", tags=["old"])
        index.insert_dataset(old, name="d", version="2.0.0", description="new words", tags=["new"])
        index.insert_dataset(old, name="d", version="1.5.0", description="between words", tags=["between"])
        assert [entry.version for entry in index.search("words")] == ["2.0.0"]
        for word in ("old", "between"):
            assert self.names(index.search(word)) == []
            assert self.names(index.search(tags=[word])) == []
        index.delete_dataset("d@2.0.0")
        assert [entry.version for entry in index.search("between", tags=["between"])] == ["1.5.0"]
        assert self.names(index.search("new")) == []

    def test_deleting(self, index: AbstractIndex, shelf: Any) -> None:
        """One version or all; the shards stay."""
        ds = self.stored(shelf, "a")
        for version in ("1.0.0", "1.1.0", "1.2.0"):
            index.insert_dataset(ds, name="d", version=version)
        index.insert_dataset(ds, name="other")
        index.delete_dataset("d@1.2.0")
        assert index.get_dataset("d").version == "1.1.0"
        with pytest.raises(LookupError, match=r"1\.2\.0.*1\.1\.0"):
            index.delete_dataset("d@1.2.0")
        index.delete_dataset("d")
        for gone in ("d", "d@1.0.0"):
            with pytest.raises(LookupError):
                index.get_dataset(gone)
            with pytest.raises(LookupError):
                index.delete_dataset(gone)
        assert self.names(index.list_datasets()) == ["other"]
        assert len(list(ds)) == 6
        assert index.get_dataset(ds.cid or "").name == "other"
        assert index.insert_dataset(ds, name="d").version == "1.0.0"

    # -- bad input -------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
    def test_a_name_that_cannot_be_used_is_refused(self, index: AbstractIndex, shelf: Any, name: str) -> None:
        """With a ValueError, wherever a name is given, and nothing is recorded."""
        with pytest.raises(ValueError, match=r"."):
            index.insert_dataset(self.stored(shelf, "a"), name=name)
        with pytest.raises((ValueError, LookupError)):
            index.get_dataset(name)
        with pytest.raises((ValueError, LookupError)):
            index.delete_dataset(name)
        assert self.names(index.list_datasets()) == []

    @pytest.mark.parametrize("version", HOSTILE_VERSIONS, ids=range(len(HOSTILE_VERSIONS)))
    def test_a_version_that_is_not_semver_is_refused(self, index: AbstractIndex, shelf: Any, version: str) -> None:
        """With a ValueError, for datasets and for schemas."""
        with pytest.raises(ValueError, match=r"."):
            index.insert_dataset(self.stored(shelf, "a"), name="d", version=version)
        with pytest.raises(ValueError, match=r"."):
            index.publish_schema(Probe, version=version)
        assert self.names(index.list_datasets()) == []

    @pytest.mark.parametrize("metadata", HOSTILE_METADATA, ids=range(len(HOSTILE_METADATA)))
    def test_metadata_that_would_not_come_back_is_refused(
        self, index: AbstractIndex, shelf: Any, metadata: Any
    ) -> None:
        """What JSON does not keep as it is."""
        with pytest.raises(ValueError, match="metadata"):
            index.insert_dataset(self.stored(shelf, "a"), name="d", metadata=metadata)
        assert self.names(index.list_datasets()) == []

    def test_details_that_cannot_be_kept_are_refused(self, index: AbstractIndex, shelf: Any) -> None:
        """Text with null characters or lone surrogates, too much of it, or no text at all."""
        ds = self.stored(shelf, "a")
        wrong: list[dict[str, Any]] = [
            {"description": "a\0b"}, {"description": "\ud800"}, {"description": "x" * 200_000}, {"description": 7},
            {"tags": ["a\nb"]}, {"tags": [""]}, {"tags": [" a"]}, {"tags": "images"}, {"tags": ["x" * 200]},
            {"tags": [7]}, {"tags": [str(n) for n in range(200)]}, {"license": ""}, {"license": "a\nb"},
        ]  # fmt: skip
        for details in wrong:
            with pytest.raises(ValueError, match=r"."):
                index.insert_dataset(ds, name="d", **details)
        assert self.names(index.list_datasets()) == []

    def test_what_is_not_stored_shards_is_refused(self, index: AbstractIndex, shelf: Any) -> None:
        """Samples in memory, and datasets whose steps would be lost."""
        with pytest.raises(atdata.AtdataError, match="memory"):
            index.insert_dataset(atdata.Dataset.from_samples(probes(3), Probe), name="d")
        for ds in (self.stored(shelf, "a").take(2), self.stored(shelf, "b").filter(lambda sample: True)):
            with pytest.raises(atdata.AtdataError, match="write_samples"):
                index.insert_dataset(ds, name="d")
        assert self.names(index.list_datasets()) == []

    # -- schemas ---------------------------------------------------------------------------------------------

    def test_a_schema_is_published_once(self, index: AbstractIndex) -> None:
        """The same again gives the same reference."""
        ref = index.publish_schema(Probe)
        assert index.publish_schema(Probe) == ref
        schema = index.get_schema(ref)
        assert (schema.name, schema.version) == ("Probe", "1.0.0")
        assert schema == Schema.of(Probe)
        assert [found.name for found in index.list_schemas()] == ["Probe"]
        assert index.get_schema("Probe") == schema

    def test_a_decoded_schema_reads_samples(self, index: AbstractIndex) -> None:
        """A class built in memory, equal in behaviour."""
        made = index.decode_schema(index.publish_schema(Probe))
        assert made is not Probe
        (sample,) = probes(1)
        again: Any = atdata.unpack(atdata.pack(sample), made)
        assert again.label == sample.label
        assert atdata.pack(again) == atdata.pack(sample)

    def test_a_published_version_never_changes(self, index: AbstractIndex) -> None:
        """Another content under the same version is refused, and the first one stays."""
        ref = index.publish_schema(_point({"x": float}), version="1.0.0")
        with pytest.raises(ValueError, match=r"1\.0\.0"):
            index.publish_schema(_point({"x": int}), version="1.0.0")
        assert index.get_schema(ref) == Schema.of(_point({"x": float}))

    def test_schema_versions_are_counted_by_what_changed(self, index: AbstractIndex) -> None:
        """A field with a default is minor, another type major; and a version may not say less."""
        versions = [
            index.get_schema(index.publish_schema(made)).version
            for made in (
                _point({"x": float}), _point({"x": float, "note": (str, "")}), _point({"x": int}),
            )
        ]  # fmt: skip
        assert versions == ["1.0.0", "1.1.0", "2.0.0"]
        with pytest.raises(ValueError, match="major"):
            index.publish_schema(_point({"x": str}), version="2.1.0")
        assert index.get_schema("Point").version == "2.0.0"
        assert index.get_schema("Point@1.1.0").version == "1.1.0"

    def test_a_missing_schema_is_an_error_that_says_what_there_is(self, index: AbstractIndex) -> None:
        """By name and by version."""
        index.publish_schema(Probe)
        with pytest.raises(LookupError, match=r"7\.0\.0.*1\.0\.0"):
            index.get_schema("atdata://local/schema/Probe@7.0.0")
        with pytest.raises(LookupError, match="Probe"):
            index.get_schema("Prob")
        for wrong in ("", "a b", "../x", "Probe@1", "x" * 10_000, "Probe;--"):
            with pytest.raises(ValueError, match=r"."):
                index.decode_schema(wrong)

    def test_a_dataset_brings_its_schema(self, index: AbstractIndex, shelf: Any) -> None:
        """And uses the published one when it reads bytes in the same way."""
        ref = index.publish_schema(Probe, version="3.1.0")
        entry = index.insert_dataset(self.stored(shelf, "a"), name="a")
        assert entry.schema_ref == ref
        other = shelf.write_shards(atdata.Dataset.from_samples([Other("x")], Other), prefix="b")
        made = index.insert_dataset(self.opened(shelf, other, Other), name="b")
        assert index.get_schema(made.schema_ref or "").name == "Other"
        assert sorted(schema.name for schema in index.list_schemas()) == ["Other", "Probe"]

    def test_a_schema_that_is_asked_for_has_to_fit(self, index: AbstractIndex, shelf: Any) -> None:
        """It has to be there, and to read what is stored."""
        ds = self.stored(shelf, "a")
        with pytest.raises(LookupError):
            index.insert_dataset(ds, name="a", schema_ref="atdata://local/schema/Probe@1.0.0")
        with pytest.raises(ValueError, match="cannot be read"):
            index.insert_dataset(ds, name="a", schema_ref=index.publish_schema(Other))
        entry = index.insert_dataset(ds, name="a", schema_ref=index.publish_schema(Probe, version="4.0.0"))
        assert index.get_schema(entry.schema_ref or "").version == "4.0.0"


def _point(fields: dict[str, Any]) -> type:
    """A packable class `Point` with these fields; a pair is a type and a default."""
    namespace: dict[str, Any] = {"__annotations__": {}, "__module__": __name__}
    for name, kind in fields.items():
        namespace["__annotations__"][name] = kind[0] if isinstance(kind, tuple) else kind
        if isinstance(kind, tuple):
            namespace[name] = kind[1]
    return atdata.packable(type("Point", (), namespace))
