"""Shards as they come: compressed, in streams, as mappings, hostile."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import resource
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from dataset_samples import Digit, Shelf, digit, digits, double
from hypothesis import given
from hypothesis import strategies as st

import atdata
from atdata.errors import AtdataError, SampleDecodeError, ShardError, ShardFormatError, TruncatedShardError
from atdata.stores.base import WrittenShards

Read = atdata.Dataset[Digit]

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "tgz in two parts": lambda data: gzip.compress(data[:777]) + gzip.compress(data[777:]),
    "zst after a skippable frame": lambda data: (
        b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + pa.compress(data, codec="zstd", asbytes=True)
    ),
}


# -- compressed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("stream", [False, True])
def test_compressed_shards(urls: WrittenShards, tmp_path: Path, kind: str, stream: bool) -> None:
    packed = {}
    for url in urls:
        path = tmp_path / f"{Path(url).name}.{kind.split()[0]}"
        path.write_bytes(COMPRESS[kind](Path(url).read_bytes()))
        packed[str(path)] = path.read_bytes()
    ds = Read(Shelf(packed)) if stream else Read(list(packed))
    assert list(ds) == digits(25)
    assert list(ds.map(double).take(11))[10].label == 20
    assert [b.image.shape[0] for b in ds.ordered(batch_size=9)] == [9, 9, 7]
    assert len(ds) == 25
    assert ds[13] == digit(13)
    assert ds[5:25:9] == digits(25)[5:25:9]
    assert ds.get("000000021") == digit(21)
    name, data = next(iter(packed.items()))
    for cut in (len(data) // 2, len(data) - 3):
        with pytest.raises(TruncatedShardError) as caught:
            list(Read(Shelf({name: data[:cut]})))
        assert caught.value.url == name


def test_a_key_that_looks_like_a_compression_is_none(store: atdata.LocalDiskStore) -> None:
    urls = store.write_shards(
        atdata.Dataset.from_samples(digits(3), Digit, key=lambda s: f"BZh9-{s.label}"), prefix="bz"
    )
    assert list(Read(urls)) == digits(3)
    assert Read(urls).get("BZh9-2") == digit(2)
    batch = next(iter(Read(urls).ordered(batch_size=3)))
    assert batch.samples[0].image.flags.owndata is False


def test_streams_with_short_reads(urls: WrittenShards) -> None:
    shelf = Shelf({Path(url).name: Path(url).read_bytes() for url in urls})
    assert isinstance(shelf, atdata.DataSource)
    ds = Read(shelf)
    assert list(ds) == digits(25)
    assert ds.list_shards() == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    assert [b.label for b in ds.take(3).ordered(batch_size=2)] == [[0, 1], [2]]


def test_an_error_of_the_stream_is_not_swallowed(urls: WrittenShards) -> None:
    class Cut(io.RawIOBase):
        def __init__(self) -> None:
            self.left = 3

        def readable(self) -> bool:
            return True

        def read(self, n: int = -1) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise ConnectionResetError("the other side hung up")
            return Path(urls[0]).read_bytes()[:2000] if self.left == 2 else b""

    class Source:
        def list_shards(self) -> list[str]:
            return ["s"]

        def open_shard(self, shard_id: str) -> Any:
            return Cut()

    with pytest.raises((ConnectionResetError, TruncatedShardError)):
        list(Read(Source()))


# -- mappings ------------------------------------------------------------------------------------------------

ROWS: list[dict[str, Any]] = [
    {
        "id": i,
        "x": np.arange(i, dtype=">f4"),
        "scalar": np.array(i, np.int16),
        "text": "ü" * i,
        "raw": b"\x00\x01",
        "nested": {"a": [1, None, {"b": np.eye(2)}]},
        "none": None,
        "big": 2**64 - 1,
    }
    for i in range(5)
]


def test_mappings_are_written_and_read(store: atdata.LocalDiskStore) -> None:
    for made in (ROWS, [atdata.DictSample(row) for row in ROWS]):
        ds: Any = atdata.Dataset.from_samples(made, atdata.DictSample)
        urls = store.write_shards(ds, prefix="rows", maxcount=2, overwrite=True)
        back = atdata.Dataset(urls)
        assert back.sample_type is atdata.DictSample
        assert [type(s) for s in back] == [atdata.DictSample] * 5
        assert list(back) == [atdata.DictSample(row) for row in ROWS]
        assert back[4].x.dtype == ">f4"
        assert back[3]["nested"]["a"][2]["b"].tolist() == [[1, 0], [0, 1]]
        assert back.get("000000002").text == "üü"
        assert atdata.Dataset[atdata.DictSample](Path(urls[0]).parent)[1].scalar.shape == ()
        batches = list(back.ordered(batch_size=3))
        assert batches[0].id == [0, 1, 2]
        assert batches[1].scalar.tolist() == [3, 4]
        assert isinstance(batches[0].x, list)
        assert urls.record.schema is None


def test_mappings_with_what_cannot_be_stored(store: atdata.LocalDiskStore) -> None:
    for wrong in ({"a": object()}, {"a": {1: 2}}, {"a": np.array([None])}, {"a": 2**64}, {"a": {1, 2}}):
        ds: Any = atdata.Dataset.from_samples([{"a": 1}, wrong], atdata.DictSample)
        with pytest.raises(atdata.errors.SampleTypeError) as caught:
            store.write_shards(ds, prefix="wrong")
        assert caught.value.key == "000000001"
        assert str(caught.value.field).startswith("a")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
    | st.just(b"ab"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.lists(st.dictionaries(st.text(min_size=1), values, max_size=4), min_size=1, max_size=4))
def test_any_mapping_comes_back(rows: list[dict[str, Any]]) -> None:
    ds: Any = atdata.Dataset(Shelf({"s": tar({f"{i}.msgpack": msgpack.packb(row) for i, row in enumerate(rows)})}))
    assert [dict(s) for s in ds] == rows


# -- hostile -------------------------------------------------------------------------------------------------


def tar(files: dict[str, bytes], *extra: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


GOOD = msgpack.packb({"label": 1})
SPECIAL = {
    "a symbolic link": special("b.msgpack", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": special("b.msgpack", tarfile.LNKTYPE, "a.msgpack"),
    "a character device": special("b.msgpack", tarfile.CHRTYPE),
    "a block device": special("b.msgpack", tarfile.BLKTYPE),
    "a FIFO": special("b.msgpack", tarfile.FIFOTYPE),
    "leads out": special("../b.msgpack", tarfile.REGTYPE),
    "leads out of": special("/etc/b.msgpack", tarfile.REGTYPE),
    "leads out of the": special("a/../../b.msgpack", tarfile.REGTYPE),
    "sparse": special("b.msgpack", tarfile.GNUTYPE_SPARSE),
}


@pytest.mark.parametrize("what", SPECIAL)
@pytest.mark.parametrize("stream", [False, True])
def test_members_that_no_shard_may_have(tmp_path: Path, what: str, stream: bool) -> None:
    path = tmp_path / "hostile.tar"
    path.write_bytes(tar({"a.msgpack": GOOD}, SPECIAL[what], format=tarfile.GNU_FORMAT))
    ds = atdata.Dataset(Shelf({str(path): path.read_bytes()}) if stream else path)
    with pytest.raises(ShardFormatError, match=what) as caught:
        list(ds)
    assert (caught.value.url, caught.value.offset) == (str(path), 1024)


def nested(depth: int, opening: bytes) -> bytes:
    return b"\x81\xa1a" + opening * depth + b"\xc0"


PAYLOADS = {
    "10,000 lists": nested(10_000, b"\x91"),
    "100,000 lists": nested(100_000, b"\x91"),
    "10,000 maps": nested(10_000, b"\x81\xa1a"),
    "2 GB of bytes": b"\x81\xa1a\xc6\x7f\xff\xff\xff" + b"x" * 80,
    "4 GB of text": b"\x81\xa1a\xdb\xff\xff\xff\xff" + b"x" * 80,
    "4 G items": b"\x81\xa1a\xdd\xff\xff\xff\xff" + b"\xc0" * 80,
    "4 G fields": b"\xdf\xff\xff\xff\xff" + b"\xa1a\xc0" * 20,
    "an array of 2 ** 60 elements": msgpack.packb({"a": b"\x03<f4\x01" + (2**60).to_bytes(8, "little") + bytes(80)}),
    "an array of 2 ** 62 x 0": msgpack.packb({"a": b"\x03<f4\x02" + (2**62).to_bytes(8, "little") * 2 + bytes(80)}),
    "an array of negative size": msgpack.packb({"a": b"\x03<f4\x01" + (-1).to_bytes(8, "little", signed=True)}),
    "an array of objects": msgpack.packb({"a": b"\x02|O\x01" + (1).to_bytes(8, "little") + bytes(8)}),
    "a pickle": msgpack.packb({"a": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"}),
    "nothing": b"",
    "a number": b"\x01",
    "another map behind it": GOOD + GOOD,
    "no msgpack": b"\xc1" * 30,
    "a number for a key": b"\x81\x01\x02",
    "a list": b"\x91\x01",
}


@atdata.packable
class Any1:
    a: Any


@atdata.packable
class Array1:
    a: np.ndarray[Any, Any]


@pytest.mark.parametrize("what", PAYLOADS)
def test_payloads_that_lie(tmp_path: Path, what: str) -> None:
    path = tmp_path / "hostile.tar"
    path.write_bytes(
        tar(
            {"ok.msgpack": msgpack.packb({"a": b"\x03|u1\x01" + (1).to_bytes(8, "little") + b"x"})},
        )[:1024]
        + tar({"bad.msgpack": PAYLOADS[what]})
    )
    classes: list[Any] = [Array1, Any1, atdata.DictSample]
    if what.startswith(("an array", "a pickle")):
        classes = [Array1]  # elsewhere they are bytes like any others
    for cls in classes:
        for source in (path, Shelf({str(path): path.read_bytes()})):
            seen: list[Any] = []
            with pytest.raises(SampleDecodeError) as caught:
                seen.extend(atdata.Dataset(source, sample_type=cls))
            assert (caught.value.url, caught.value.offset, caught.value.key) == (str(path), 1536, "bad")
            assert len(seen) == 1
            assert len(str(caught.value)) < 600


def test_claims_cost_no_memory(tmp_path: Path) -> None:
    """All of the above, and headers that claim terabytes, in a process whose memory is limited."""
    shards: dict[str, bytes] = {f"p{i}": tar({"bad.msgpack": data}) for i, data in enumerate(PAYLOADS.values())}
    info = tarfile.TarInfo("huge.msgpack")
    info.size = 5 << 40
    for number, format in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        shards[f"h{number}"] = info.tobuf(format) + bytes(2048)
    info.size = 7 << 30
    shards["h2"] = info.tobuf(tarfile.USTAR_FORMAT) + bytes(2048)
    long = tarfile.TarInfo("./././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 7 << 30
    shards["h3"] = long.tobuf(tarfile.GNU_FORMAT) + bytes(2048)
    for name, data in shards.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
        (tmp_path / f"{name}.tar.gz").write_bytes(gzip.compress(data))
    program = f"""
        import glob, resource, sys
        import numpy, pyarrow.parquet
        import atdata
        from atdata.errors import AtdataError

        class Source:
            def __init__(self, path): self.path = path
            def list_shards(self): return [self.path]
            def open_shard(self, name): return open(name, "rb")

        @atdata.packable
        class One:
            a: numpy.ndarray

        good = glob.glob({str(tmp_path)!r} + "/p*")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = 0
        for path in sorted(glob.glob({str(tmp_path)!r} + "/*")):
            for source in (path, Source(path)):
                for cls in (One, atdata.DictSample):
                    try:
                        for sample in atdata.Dataset(source, sample_type=cls): repr(sample)
                    except AtdataError as error:
                        assert error.url == path, error
                        found += 1
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(found, grown // 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, check=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )  # fmt: skip
    found, grown = map(int, done.stdout.split())
    assert found >= len(shards) * 2 * 2  # each of them for the typed class, plain and compressed, file and stream
    assert grown < 100


@pytest.mark.slow
def test_memory_stays_bounded_over_large_shards(tmp_path: Path) -> None:
    """600 MB of samples, plain and compressed, read in far less memory than they have."""
    program = f"""
        import gzip, resource
        import numpy as np
        import atdata
        from numpy.typing import NDArray

        @atdata.packable
        class Large:
            a: NDArray[np.uint8]
            n: int

        def samples():
            for i in range(300):
                yield Large(np.full(2_000_000, i % 251, np.uint8), i)

        def rss():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

        def private():
            fields = dict(line.split(":", 1) for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
            return int(fields["Anonymous"].split()[0]) // 1024

        store = atdata.LocalDiskStore({str(tmp_path)!r})
        before = rss()
        urls = store.write_shards(atdata.Dataset.from_samples(samples(), Large), prefix="l", maxsize=200 << 20)
        written = rss() - before
        peak = 0
        for number, sample in enumerate(atdata.Dataset[Large](urls)):
            assert sample.a[5] == number % 251
            peak = max(peak, private())
        for batch in atdata.Dataset[Large](urls).ordered(batch_size=8):
            assert batch.a.shape[1] == 2_000_000
            peak = max(peak, private())
        before = rss()
        with open(urls[0], "rb") as plain, gzip.open(urls[0] + ".gz", "wb", compresslevel=1) as packed:
            while piece := plain.read(1 << 20):
                packed.write(piece)
        after_packing = rss()
        count = sum(1 for _ in atdata.Dataset[Large](urls[0] + ".gz"))
        print(len(urls), written, peak, rss() - after_packing, count)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, timeout=200
    )
    shards, written, peak, streamed, count = map(int, done.stdout.split())
    assert shards == 3
    assert written < 150
    assert peak < 250
    assert streamed < 50
    assert count > 100


def test_a_manifest_that_is_no_manifest(urls: WrittenShards, tmp_path: Path) -> None:
    path = tmp_path / "lone.tar"
    path.write_bytes(Path(urls[0]).read_bytes())
    beside = tmp_path / "lone.manifest.parquet"
    for junk in (b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"\xff" * 2000):
        beside.write_bytes(junk)
        with pytest.raises(ShardError, match="manifest") as caught:
            list(Read(path))
        assert caught.value.url == str(beside)


def test_other_files_are_no_shards(tmp_path: Path) -> None:
    for number, junk in enumerate(
        [b"", b"\0" * 100, b"hello", b"x" * 5000, msgspec.json.encode({"a": 1}), b"PK\x03\x04" * 400]
    ):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(junk)
        for reading in (list, len, lambda ds: ds[0], lambda ds: ds.get("a")):
            with pytest.raises(AtdataError) as caught:
                reading(atdata.Dataset(path))
            assert caught.value.url == str(path)


def test_an_archive_without_samples_is_an_empty_dataset(tmp_path: Path) -> None:
    path = tmp_path / "empty.tar"
    path.write_bytes(bytes(10240))
    ds = atdata.Dataset(path)
    assert list(ds) == []
    assert len(ds) == 0
    assert list(ds.ordered(batch_size=2)) == []
    with pytest.raises(IndexError, match="the dataset has 0"):
        ds[0]
