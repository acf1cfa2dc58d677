"""Compressed archives: whole or an error, from any stream, in little memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tracemalloc
import zlib
from collections.abc import Callable

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from atdata.errors import ShardFormatError, TruncatedShardError
from atdata.shards.compression import open_archive
from atdata.shards.tar import StreamSource, end_of_archive, header, padding, walk

Compress = Callable[[bytes], bytes]


def zstd(data: bytes) -> bytes:
    """With a checksum, as the command line tool writes it."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def zstd_arrow(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    compressed: bytes = out.getvalue().to_pybytes()
    return compressed


KINDS: dict[str, Compress] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstd,
    "zstd_arrow": zstd_arrow,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
every_kind = pytest.mark.parametrize("compress", KINDS.values(), ids=KINDS)


class Trickle(io.RawIOBase):
    """A stream without seek that gives a few bytes at a time."""

    def __init__(self, data: bytes, most: int = 7) -> None:
        self._data = io.BytesIO(data)
        self._random = random.Random(len(data))
        self._most = most

    def read(self, n: int = -1) -> bytes:
        return self._data.read(min(n, self._random.randint(1, self._most)) if n > 0 else n)


def tar(count: int = 3, size: int = 700) -> bytes:
    payload = random.Random(1).randbytes(size)
    out = b"".join(header(f"{i}.bin", size) + payload + padding(size) for i in range(count))
    return out + end_of_archive(len(out))


def read(data: bytes) -> bytes:
    with open_archive(io.BytesIO(data)) as stream:
        return stream.read()


@every_kind
def test_an_archive_comes_back_whole(compress: Compress) -> None:
    data = tar(300)
    assert read(compress(data)) == data
    assert open_archive(Trickle(compress(data))).read() == data  # type: ignore[arg-type]
    names = [m.name for m in walk(StreamSource(open_archive(Trickle(compress(data), 5000))))]  # type: ignore[arg-type]
    assert names == [f"{i}.bin" for i in range(300)]


@every_kind
def test_several_streams_one_after_the_other_are_one(compress: Compress) -> None:
    data = tar()
    for cuts in ((0, 1000), (1, 512, 513), (700, 700, 700)):
        pieces = [data[a:b] for a, b in zip((0, *cuts), (*cuts, len(data)), strict=True)]
        joined = b"".join(map(compress, pieces))
        assert read(joined) == data
        assert open_archive(Trickle(joined)).read() == data  # type: ignore[arg-type]


def test_what_the_parallel_tools_write() -> None:
    data = tar(4000)
    # pzstd begins with a skippable frame (RFC 8878, 3.1.2) and writes many frames.
    compressed = b"\x50\x2a\x4d\x18\x04\0\0\0\x10\0\0\0" + b"".join(
        zstandard.compress(data[at : at + 3000]) for at in range(0, len(data), 3000)
    )
    assert compressed[:4] != b"\x28\xb5\x2f\xfd"
    assert read(compressed) == data


@given(st.binary(max_size=2000))
def test_anything_else_comes_as_it_is(data: bytes) -> None:
    plain = b"\0" + data
    assert read(plain) == plain
    assert open_archive(Trickle(plain)).read() == plain  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["BZh9.txt", "BZh1AY.msgpack", "(\xb5/.txt", "P*M.txt", "7zXZ.txt"])
def test_a_member_name_is_not_taken_for_a_compressed_stream(name: str) -> None:
    data = header(name, 0) + end_of_archive(512)
    assert read(data) == data


@pytest.mark.parametrize("data", [b"", b"\x1f", b"\x1f\x8b", b"BZh9", b"\xfd7zX", b"\x28\xb5\x2f"])
def test_too_short_to_tell_is_plain(data: bytes) -> None:
    assert read(data) == data


@every_kind
def test_cut_anywhere_it_is_truncated(compress: Compress) -> None:
    data = tar(2, 300)
    one, other = compress(data), compress(b"more")
    for length in range(10, len(one)):
        with pytest.raises(TruncatedShardError, match="stream ends too early: part of it is missing") as caught:
            read(one[:length])
        assert caught.value.offset == length
    for length in range(len(one) + 1, len(one) + len(other)):
        with pytest.raises(TruncatedShardError):
            read((one + other)[:length])


@every_kind
def test_what_was_read_before_the_cut_is_right_and_the_end_is_an_error(compress: Compress) -> None:
    data = random.Random(2).randbytes(2 << 20)
    stream = open_archive(io.BytesIO(compress(data)[: 1 << 20]))
    got = b""
    with pytest.raises(TruncatedShardError):  # noqa: PT012
        while True:
            piece = stream.read(10_000)
            assert piece, "the end of the stream, and no error"
            got += piece
    assert 0 < len(got) < len(data)
    assert data.startswith(got)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bz2", "xz"])
def test_a_flipped_bit_is_found(kind: str) -> None:
    data = tar(2, 300)
    compressed = KINDS[kind](data)
    randomly = random.Random(0)
    for bit in randomly.sample(range(80, len(compressed) * 8), 1500):
        damaged = bytearray(compressed)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert read(bytes(damaged)) == data  # bits of no meaning, such as the padding of the last byte
        except ShardFormatError as error:
            assert "stream is damaged" in error.message or "too early" in error.message  # noqa: PT017


@pytest.mark.parametrize("kind", KINDS)
def test_something_else_behind_the_stream(kind: str) -> None:
    compressed = KINDS[kind](tar())
    with pytest.raises(ShardFormatError, match=rf"the {kind.removesuffix('_arrow')} stream is damaged.*at byte"):
        read(compressed + b"something else that is long enough")


@pytest.mark.parametrize("kind", ["gzip", "bz2", "xz"])
def test_zeros_behind_the_stream_are_padding(kind: str) -> None:
    data = tar()
    for zeros in (4, 512, 100_000):
        assert read(KINDS[kind](data) + bytes(zeros)) == data
        assert read(KINDS[kind](data[:600]) + bytes(zeros) + KINDS[kind](data[600:])) == data


@every_kind
def test_memory_does_not_grow_with_the_archive(compress: Compress) -> None:
    bomb = compress(bytes(200 << 20))
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    total = 0
    with open_archive(io.BytesIO(bomb)) as stream:
        while piece := stream.read(1 << 18):
            total += len(piece)
            assert pa.total_allocated_bytes() - before < 16 << 20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 200 << 20
    assert peak < 16 << 20  # the dictionary of xz alone takes 8 MiB


def test_a_dictionary_of_gigabytes_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    compressed = bytearray(lzma.compress(tar(), format=lzma.FORMAT_XZ, filters=filters))
    # The block header: size, flags, filter id, length of properties, dictionary size; then its CRC32.
    assert compressed[12:16] == b"\x02\x00\x21\x01"
    compressed[16] = 40  # 4 GiB - 1
    compressed[20:24] = zlib.crc32(compressed[12:20]).to_bytes(4, "little")
    with pytest.raises(ShardFormatError, match="xz stream is damaged: Memory usage limit"):
        read(bytes(compressed))


@every_kind
def test_the_failure_of_the_stream_stays_what_it_is(compress: Compress) -> None:
    class Broken(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self._data = io.BytesIO(data)

        def read(self, n: int = -1) -> bytes:
            data = self._data.read(n)
            if not data:
                raise ConnectionResetError("peer went away")
            return data

    stream = open_archive(Broken(compress(tar(50, 5000))[:150_000]))  # type: ignore[arg-type]
    with pytest.raises(ConnectionResetError, match="peer went away"):
        stream.read()


@pytest.mark.parametrize("compress", [*KINDS.values(), bytes], ids=[*KINDS, "plain"])
def test_closing_closes_the_stream(compress: Compress) -> None:
    source = io.BytesIO(compress(tar()))
    with open_archive(source) as stream:
        stream.read(10)
    assert source.closed
    assert stream.closed
