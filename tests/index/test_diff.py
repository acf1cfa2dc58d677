"""What changed between two versions: exact, from manifests alone, and the version number that follows."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import atdata
from atdata.errors import (
    DatasetError,
    DatasetNotFoundError,
    EntryFormError,
    IntegrityError,
    ManifestError,
    TruncatedShardError,
)
from atdata.index.diff import ChangedSample, DatasetDiff, diff
from atdata.index.matching import match
from atdata.stores.base import WrittenShards
from atdata.stores.record import CommitRecord
from servers.rgw import S3Server
from servers.web import WebServer


@atdata.packable
class Item:
    text: str


@atdata.packable
class Noted:
    text: str
    note: str = ""


class Keyed(NamedTuple):
    """Samples with the keys they shall have."""

    pairs: Sequence[tuple[str, Any]]
    sample_type: type = Item

    def keyed(self) -> Iterable[tuple[str | None, Any]]:
        return iter(self.pairs)

    def known_length(self) -> int:
        return len(self.pairs)


Write = Callable[..., atdata.Dataset[Any]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes samples, given as `key=text`, as a new dataset."""
    store, count = atdata.LocalDiskStore(tmp_path), iter(range(100))

    def write(pairs: dict[str, str] | Sequence[tuple[str, str]], sample_type: type = Item, **options: Any) -> Any:
        items = pairs.items() if isinstance(pairs, dict) else pairs
        samples = Keyed([(key, sample_type(text)) for key, text in items], sample_type)
        urls = store.write_shards(samples, prefix=f"v{next(count)}", **({"maxcount": 3} | options))
        return atdata.Dataset(urls)

    return write


def tars(ds: atdata.Dataset[Any]) -> list[Path]:
    return [Path(url) for url in ds.list_shards()]


def texts(n: int, **other: str) -> dict[str, str]:
    return {f"k{i}": f"text {i}" for i in range(n)} | other


# -- samples -----------------------------------------------------------------------------------------------------


def test_added_removed_and_changed(write: Write) -> None:
    old = write(texts(10))
    new = write({k: t for k, t in texts(11, k4="other", k7="another").items() if k not in ("k2", "k9")})
    found = diff(old, new)
    assert (found.added.keys, found.removed.keys, found.changed.keys) == (["k10"], ["k2", "k9"], ["k4", "k7"])
    assert (found.unchanged, found.shared_shards, found.shards_read) == (6, 0, ())
    assert found.change == "major"

    (one,) = found.added
    assert one.url == new.list_shards()[one.row and -1]
    assert new.get("k10").packed == old.sample_type("text 10").packed
    assert one.sha256 == hashlib.sha256(new.get("k10").packed).hexdigest()
    change = found.changed[0]
    assert isinstance(change, ChangedSample)
    assert change.old.sha256 == hashlib.sha256(old.get("k4").packed).hexdigest()
    assert change.new.sha256 == hashlib.sha256(new.get("k4").packed).hexdigest()
    assert (change.old.url, change.old.row) == (old.list_shards()[1], 1)
    assert (change.new.url, change.new.row) == (new.list_shards()[1], 0)
    assert [c.key for c in found.changed[:5]] == ["k4", "k7"]
    assert [c.key for c in found.removed[::-1]] == ["k9", "k2"]
    assert found.removed[-1].key == "k9"
    with pytest.raises(IndexError):
        found.added[1]


def test_it_prints_well(write: Write) -> None:
    found = diff(write(texts(9)), write(texts(20, k0="x")))
    assert repr(found) == "DatasetDiff(11 added, 0 removed, 1 changed, 8 unchanged)"
    assert str(found) == (
        "+ 11 added ('k9', 'k10', 'k11', 'k12', 'k13', …)\n"
        "- 0 removed\n"
        "~ 1 changed ('k0')\n"
        "= 8 unchanged; 2 shards are the same on both sides\n"
        "change: major"
    )
    assert repr(found.added) == "<11 samples: 'k9', 'k10', 'k11', …>"
    assert repr(found.changed) == "<1 samples: 'k0'>"
    assert repr(found.removed) == "<0 samples>"
    again = pickle.loads(pickle.dumps(found))
    assert str(again) == str(found)
    assert list(again.added) == list(found.added)


@pytest.mark.parametrize(
    ("old", "new", "change", "following"),
    [
        (texts(9), texts(9), None, "1.4.2"),
        (texts(9), dict(reversed(texts(9).items())), "patch", "1.4.3"),
        (texts(9), texts(10), "minor", "1.5.0"),
        (texts(9), texts(8), "major", "2.0.0"),
        (texts(9), texts(9, k1="x"), "major", "2.0.0"),
        (texts(9), texts(10, k1="x"), "major", "2.0.0"),
        ({"a": "x", "b": "y"}, {"b": "x", "a": "y"}, "major", "2.0.0"),
    ],
)
def test_the_version_follows_from_the_data(
    write: Write, old: dict[str, str], new: dict[str, str], change: str | None, following: str
) -> None:
    found = diff(write(old), write(new))
    assert found.change == change
    assert found.bump("1.4.2") == following
    with pytest.raises(EntryFormError, match="is not a version"):
        found.bump("1.4")


def test_the_same_samples_in_other_shards_are_a_patch(write: Write) -> None:
    found = diff(write(texts(10), maxcount=3), write(texts(10), maxcount=4))
    assert (found.change, found.unchanged, len(found.added)) == ("patch", 10, 0)
    assert found.bump("1.0.0") == "1.0.1"
    assert diff(write(texts(10)), write(texts(10), manifest=False)).change is None


def test_the_version_follows_from_the_schema_too(write: Write) -> None:
    plain, noted = write(texts(4)), write(texts(4), Noted)
    assert diff(plain, plain).schema is not None
    found = diff(plain, noted)  # every sample has one field more, and so other bytes
    assert found.change == "major"
    assert len(found.changed) == 4
    assert [d.path for d in found.schema.differences] == ["note"]  # type: ignore[union-attr]
    assert "schema:\n  + note: str, default ''\nchange: major" in str(found)


def test_the_same_shards_under_another_schema(write: Write) -> None:
    old = write(texts(4))
    for schema, change in ((None, "major"), (atdata.Schema.of(Noted), "minor"), (atdata.Schema.of(Other), "major")):
        found = diff(old, under(old, schema))
        assert (found.change, found.shared_shards, found.unchanged) == (change, 2, 4), schema
    back = diff(under(old, None), old)
    assert (back.change, back.schema) == ("major", None)
    assert diff(under(old, None), under(old, None)).change is None


@atdata.packable
class Other:
    text: str
    needed: int


def under(ds: atdata.Dataset[Any], schema: atdata.Schema | None) -> atdata.Dataset[Any]:
    """The same shards, recorded with another schema."""
    assert ds.located is not None
    assert ds.located.record is not None
    return atdata.Dataset(WrittenShards(ds.list_shards(), CommitRecord(schema, ds.located.record.shards)))


# -- keys that come several times ----------------------------------------------------------------------------------


def test_samples_of_one_key_are_a_bag(write: Write) -> None:
    old = write([("a", "1"), ("b", "1"), ("a", "2"), ("a", "2"), ("c", "1")], maxcount=1)
    new = write([("a", "2"), ("c", "2"), ("a", "3"), ("a", "1"), ("a", "4"), ("d", "1")], maxcount=1)
    for ds in (old, new):  # without a record, no shard is known to be the same on both sides
        (tars(ds)[0].parent / "atdata.json").unlink()
    old, new = (atdata.Dataset[Item](ds.list_shards()) for ds in (old, new))
    found = diff(old, new)
    # of a: 1 and one 2 are still there, the other 2 became 3, and 4 is new
    assert (found.added.keys, found.removed.keys, found.changed.keys) == (["a", "d"], ["b"], ["c", "a"])
    assert found.unchanged == 2
    shards = old.list_shards(), new.list_shards()
    assert [(c.old.url, c.new.url) for c in found.changed] == [
        (shards[0][4], shards[1][1]),
        (shards[0][3], shards[1][2]),
    ]


Samples = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("123")), max_size=12)


@given(Samples, Samples)
def test_matching_is_what_counting_says(old: list[tuple[str, str]], new: list[tuple[str, str]]) -> None:
    found = match(*arrays(old), *arrays(new))
    common = Counter(old) & Counter(new)
    assert found.equal == common.total()
    left, right = Counter(old) - common, Counter(new) - common
    keys = [Counter(k for k, _ in side.elements()) for side in (left, right)]
    for numbers, side in ((found.removed, old), (found.changed_old, old), (found.added, new), (found.changed_new, new)):
        assert len(set(numbers.tolist())) == len(numbers)
        assert all(0 <= n < len(side) for n in numbers)
    assert Counter(old[n][0] for n in found.removed) == keys[0] - keys[1]
    assert Counter(new[n][0] for n in found.added) == keys[1] - keys[0]
    assert [old[n][0] for n in found.changed_old] == [new[n][0] for n in found.changed_new]
    assert Counter(new[n][0] for n in found.changed_new) == keys[0] & keys[1]
    assert Counter(old[n] for n in [*found.removed, *found.changed_old]) == left
    assert Counter(new[n] for n in [*found.added, *found.changed_new]) == right
    for numbers in (found.removed, found.added, found.changed_new):
        assert numbers.tolist() == sorted(numbers)


def arrays(samples: list[tuple[str, str]]) -> tuple[Any, Any]:
    # chunks that are slices, as columns out of files can be
    keys = pa.array(["?", *(key for key, _ in samples)], pa.string())[1:]
    digests = [hashlib.sha256(text.encode()).digest() for _, text in samples]
    return pa.chunked_array([keys]), np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 4)


# -- without reading shards ----------------------------------------------------------------------------------------


def test_shards_are_not_read(write: Write) -> None:
    old, new = write(texts(10)), write(texts(11, k4="other"))
    expected = str(diff(old, new))
    for path in (*tars(old), *tars(new)):
        path.unlink()
    assert str(diff(old, new)) == expected


def test_shards_that_both_have_are_not_even_looked_up(write: Write) -> None:
    old, new = write(texts(9)), write(texts(10))
    shared = [*tars(old), *tars(new)[:3]]
    for path in shared:
        path.unlink()
        path.with_name(path.name.replace(".tar", ".manifest.parquet")).unlink()
    found = diff(old, new)
    assert (found.shared_shards, found.unchanged, found.added.keys) == (3, 9, ["k9"])


def test_a_shard_that_one_side_has_twice(write: Write) -> None:
    once = write([("a", "1"), ("b", "1"), ("c", "1")])
    twice = write([("a", "1"), ("b", "1"), ("c", "1")] * 2)
    found = diff(once, twice)
    assert (found.shared_shards, found.added.keys, found.unchanged, found.change) == (1, ["a", "b", "c"], 3, "minor")
    assert diff(twice, once).removed.keys == ["a", "b", "c"]


@pytest.mark.parametrize("place", ["disk", "web", "s3"])
def test_the_same_everywhere(
    write: Write, web: WebServer, rgw: S3Server, bucket: str, tmp_path: Path, place: str
) -> None:
    old, new = write(texts(10)), write(texts(11, k4="other"))
    if place == "web":
        (web.folder / "data").symlink_to(tmp_path)
        web.folder = tmp_path
        sides = [atdata.Dataset(web.url(f"v{n}/")) for n in (0, 1)]
    elif place == "s3":
        store = atdata.S3DataStore(rgw.credentials, bucket=bucket)
        sides = [
            atdata.Dataset(store.write_shards(ds, prefix=f"v{n}", maxcount=3), store=store)
            for n, ds in enumerate((old, new))
        ]
    else:
        sides = [old, new]
    found = diff(*sides)
    assert (found.added.keys, found.removed.keys, found.changed.keys) == (["k10"], [], ["k4"])
    assert found.shared_shards == 2
    assert found.shards_read == ()
    assert found.added[0].url == sides[1].list_shards()[-1]
    assert not [r for r in web.requests if r.path.endswith(".tar")]


# -- without manifests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [True, False])
def test_shards_without_a_manifest_are_read_and_named(write: Write, record: bool) -> None:
    old, new = write(texts(10), manifest=False), write(texts(11, k4="other"))
    if not record:
        (tars(old)[0].parent / "atdata.json").unlink()
        old = atdata.Dataset[Item]([str(path) for path in tars(old)])
    found = diff(old, new)
    assert (found.added.keys, found.removed.keys, found.changed.keys) == (["k10"], [], ["k4"])
    assert found.shared_shards == (2 if record else 0)
    assert found.shards_read == tuple(old.list_shards()[1::2] if record else old.list_shards())
    assert f"{2 if record else 4} shards have no manifest and were read: {found.shards_read[0]}, …" in str(found)
    assert diff(old, old).change is None


def test_shards_without_a_record_have_manifests_all_the_same(write: Write) -> None:
    old = write(texts(10))
    (tars(old)[0].parent / "atdata.json").unlink()
    bare = atdata.Dataset[Item]([str(path) for path in tars(old)])
    found = diff(bare, write(texts(11)))
    assert (found.added.keys, found.shards_read, found.unchanged) == (["k10"], (), 10)
    assert diff(bare, bare).change is None
    other = atdata.Dataset[Item]([str(path) for path in tars(old)[::-1]])
    assert diff(bare, other).change == "patch"


def test_foreign_shards_of_several_members(tmp_path: Path) -> None:
    import webdataset

    for name, n in (("a", 4), ("b", 5)):
        with webdataset.TarWriter(str(tmp_path / f"{name}.tar")) as sink:
            for i in range(n):
                sink.write({"__key__": f"s{i}", "txt": f"text {i}", "cls": i if name == "a" or i != 2 else 7})
    found = diff(atdata.Dataset(str(tmp_path / "a.tar")), atdata.Dataset(str(tmp_path / "b.tar")))
    assert (found.added.keys, found.changed.keys, found.removed.keys, found.unchanged) == (["s4"], ["s2"], [], 3)
    assert found.schema is None


def test_sources_are_read(write: Write) -> None:
    old, new = write(texts(4)), write(texts(5))
    found = diff(atdata.Dataset[Item](Source(old)), new)
    assert (found.added.keys, found.unchanged, len(found.shards_read)) == (["k4"], 4, 2)


class Source:
    def __init__(self, ds: atdata.Dataset[Any]) -> None:
        self.files = {path.name: path for path in tars(ds)}

    def list_shards(self) -> list[str]:
        return list(self.files)

    def open_shard(self, shard_id: str) -> Any:
        return self.files[shard_id].open("rb")


# -- bad days ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compared(write: Write) -> None:
    ds = write(texts(4))
    with pytest.raises(DatasetError, match="samples in memory have no versions to compare"):
        diff(atdata.Dataset.from_samples([Item("x")], Item), ds)
    with pytest.raises(DatasetError, match=r"this one has steps \(take\)"):
        diff(ds, ds.take(2))


def manifest_of(ds: atdata.Dataset[Any], n: int = 0) -> Path:
    path = tars(ds)[n]
    return path.with_name(path.name.replace(".tar", ".manifest.parquet"))


def test_a_manifest_that_was_replaced(write: Write) -> None:
    old, new = write(texts(4)), write(texts(4, k0="x"))
    manifest_of(old).write_bytes(manifest_of(new).read_bytes())
    with pytest.raises(IntegrityError, match="the manifest is not the one that was written") as error:
        diff(old, new)
    assert error.value.url == str(manifest_of(old))


def test_a_manifest_of_another_shard_where_nothing_is_recorded(write: Write) -> None:
    old, new = write(texts(4)), write(texts(4, k0="x" * 20_000))
    (tars(old)[0].parent / "atdata.json").unlink()
    bare = atdata.Dataset[Item]([str(path) for path in tars(old)])
    manifest_of(old).write_bytes(manifest_of(new).read_bytes())
    with pytest.raises(ManifestError, match="the manifest belongs to a shard of"):
        diff(bare, new)
    manifest_of(old).write_bytes(b"PAR1 is not enough")
    with pytest.raises(ManifestError, match="the manifest cannot be read"):
        diff(bare, new)


def test_a_shard_that_is_damaged_or_gone(write: Write) -> None:
    old, new = write(texts(4), manifest=False), write(texts(4, k0="x"))
    data = bytearray(tars(old)[0].read_bytes())
    data[600] ^= 1
    tars(old)[0].write_bytes(data)
    with pytest.raises(IntegrityError) as error:
        diff(old, new)
    assert error.value.url == old.list_shards()[0]
    tars(old)[0].unlink()
    with pytest.raises(DatasetNotFoundError, match="shard-000000"):
        diff(old, new)


def test_a_foreign_shard_that_is_cut(write: Write, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(tars(write(texts(4)))[0].read_bytes()[:3000])
    with pytest.raises(TruncatedShardError, match=r"cut\.tar"):
        diff(atdata.Dataset(str(cut)), write(texts(4)))


def test_pandas_is_not_woken(write: Write, tmp_path: Path) -> None:
    write(texts(10)), write(texts(11, k4="other"))
    program = (
        "import sys, atdata; from atdata.index.diff import diff;"
        f"a, b = (atdata.Dataset('{tmp_path}/v' + n) for n in '01');"
        "print(list(diff(a, b).added), 'pandas' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.rstrip().endswith("False")


@pytest.mark.slow
def test_a_million_samples_of_one_key() -> None:
    n = 1_000_000
    keys = pa.chunked_array([pa.array(["k"] * n, pa.string())])
    digests = np.random.default_rng(0).integers(0, 2**63, (n + 10, 4), np.uint64)
    found = match(keys, digests[:-10], keys, digests[10:])
    assert (found.equal, len(found.changed_old), len(found.added)) == (n - 10, 10, 0)


def test_a_diff_is_a_value() -> None:
    assert DatasetDiff.__dataclass_params__.frozen  # type: ignore[attr-defined]
