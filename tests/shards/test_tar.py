"""The tar writer against other readers, and the tar reader against other writers and against damage."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset
from hypothesis import example, given
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_expander

from atdata.errors import ShardFormatError, TruncatedShardError
from atdata.shards.tar import BLOCK, BufferSource, Member, StreamSource, end_of_archive, header, headers, padding, walk

Files = list[tuple[str, bytes]]

# Names that a shard may hold: any Unicode, no empty, `.` or `..` parts, no NUL.
_part = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda part: part not in (".", "..")
)
_names = st.lists(_part, min_size=1, max_size=5).map("/".join)
_files = st.lists(
    st.tuples(_names, st.one_of(st.binary(max_size=40), st.integers(500, 1600).map(lambda n: b"\xa5" * n))),
    max_size=8,
    unique_by=lambda file: file[0],
)


class Trickle(io.RawIOBase):
    """A stream that gives fewer bytes than it is asked for, as sockets do."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._data = io.BytesIO(data)
        self._random = random.Random(seed)

    def readable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        return self._data.read(n if n <= 1 else self._random.randint(1, n))


def write(files: Iterable[tuple[str, bytes]]) -> bytes:
    out = b"".join(header(name, len(data)) + data + padding(len(data)) for name, data in files)
    return out + end_of_archive(len(out))


def read(archive: bytes) -> Files:
    return [(m.name, bytes(m.payload)) for m in walk(BufferSource(archive))]


def read_stream(archive: bytes) -> Files:
    return [(m.name, bytes(m.payload)) for m in walk(StreamSource(io.BytesIO(archive)))]


def by_tarfile(files: Files, format: int, **info: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in info.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def raw_header(
    name: bytes = b"a.txt",
    size: bytes | int = 0,
    type: bytes = b"0",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
) -> bytes:
    """A header block with a valid checksum, whatever it says."""
    field = b"%011o\0" % size if isinstance(size, int) else size
    block = bytearray(
        name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"00000000000\0" + b" " * 8 + type
    )
    block += bytes(100) + magic + bytes(80) + prefix
    block = block.ljust(BLOCK, b"\0")
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + padding(len(data))


def pax(*records: bytes, type: bytes = b"x") -> bytes:
    body = b"".join(records)
    return raw_header(b"././@PaxHeader", len(body), type) + padded(body)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


END = bytes(2 * BLOCK)


# -- writing ---------------------------------------------------------------------------------------------------------


def test_the_bytes_written_are_always_the_same() -> None:
    # A digest in the test, because shards are named by theirs: another one means that every shard changes its identity.
    archive = write([("000000000.msgpack", b"\x81\xa1x\x01"), ("ü/" + "k" * 120 + ".msgpack", bytes(700))])
    assert len(archive) == 10240
    assert hashlib.sha256(archive).hexdigest() == "769de6a66a83b74f36e3f300071cadd995d718d651dc1f94145a4d542a5af451"


def test_a_short_name_costs_one_block_and_has_no_owner_or_time() -> None:
    block = header("000000000.msgpack", 5)
    assert len(block) == BLOCK
    info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    assert (info.name, info.size, info.mtime, info.uid, info.gid, info.mode) == ("000000000.msgpack", 5, 0, 0, 0, 0o644)
    assert (info.uname, info.gname) == ("", "")


@pytest.mark.parametrize(
    "name",
    [
        "k" * 100,
        "k" * 101,
        "d" * 155 + "/" + "k" * 90,
        "x" * 3000,
        "größe.txt",
        "日本/語.txt",
        "e\u0301.txt",
        "🎈" * 40,
        "line\nbreak.txt",
        "equals=sign.txt",
        "ü" * 43,  # the PAX record's own length grows from two digits to three here
        "ü" * 44,
        "ü" * 45,
    ],
)
def test_any_name_is_read_by_tarfile_and_by_us(name: str) -> None:
    archive = write([(name, b"payload"), ("next.txt", b"1")])
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        assert [(m.name, opened.extractfile(m).read()) for m in opened] == [(name, b"payload"), ("next.txt", b"1")]  # type: ignore[union-attr]
    assert read(archive) == [(name, b"payload"), ("next.txt", b"1")]


def test_gnu_tar_lists_and_extracts_what_is_written(tmp_path: Path) -> None:
    files = [("a.msgpack", b"1" * 512), ("dir/" + "n" * 130 + ".msgpack", b""), ("dir/größe.msgpack", b"3" * 513)]
    (tmp_path / "s.tar").write_bytes(write(files))
    tar = shutil.which("tar")
    assert tar is not None
    env = {"LC_ALL": "C.UTF-8"}
    listed = subprocess.run([tar, "tf", "s.tar"], cwd=tmp_path, env=env, capture_output=True, check=True)
    assert listed.stderr == b""
    assert listed.stdout.decode().splitlines() == [name for name, _ in files]
    subprocess.run([tar, "xf", "s.tar"], cwd=tmp_path, env=env, check=True)
    assert [(name, (tmp_path / name).read_bytes()) for name, _ in files] == files


def test_webdataset_reads_what_is_written() -> None:
    archive = write([("000.msgpack", b"one"), ("deep/größe.msgpack", b"two")])
    samples = list(group_by_keys(tar_file_expander([{"url": "s.tar", "stream": io.BytesIO(archive)}])))
    assert [(s["__key__"], s["msgpack"]) for s in samples] == [("000", b"one"), ("deep/größe", b"two")]


def test_a_member_too_large_for_a_header_is_refused() -> None:
    assert tarfile.TarInfo.frombuf(header("a", 8**11 - 1), "utf-8", "strict").size == 8**11 - 1
    with pytest.raises(ShardFormatError, match="8589934592 bytes is more than a tar header can say"):
        header("a", 8**11)


def test_the_end_marker_fills_a_record() -> None:
    for position in range(0, 12 * 1024, BLOCK):
        end = end_of_archive(position)
        assert len(end) >= 2 * BLOCK
        assert not end.strip(b"\0")
        assert (position + len(end)) % 10240 == 0


@given(st.lists(st.tuples(st.one_of(_names, st.text("ab/", min_size=95, max_size=105)), st.integers(0, 8**11 - 1))))
def test_many_headers_at_once_are_the_same(members: list[tuple[str, int]]) -> None:
    names, sizes = [name for name, _ in members], [size for _, size in members]
    assert headers(names, sizes) == [header(name, size) for name, size in members]


def test_many_headers_with_one_too_large() -> None:
    with pytest.raises(ShardFormatError, match="8589934592 bytes is more than a tar header can say"):
        headers(["a", "b", "c"], [0, 8**11, 1])


# -- round trip ------------------------------------------------------------------------------------------------------


@given(_files, st.integers())
@example([("a" * 99 + "/b", b"")], 0)
def test_whatever_is_written_comes_back(files: Files, seed: int) -> None:
    archive = write(files)
    assert read(archive) == files
    assert [(m.name, bytes(m.payload)) for m in walk(StreamSource(Trickle(archive, seed)))] == files
    for member in walk(BufferSource(archive)):
        assert archive[member.offset : member.offset + len(member.payload)] == bytes(member.payload)
        source = BufferSource(archive)
        source.position = member.start
        assert next(walk(source)) == member


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(files=_files)
def test_what_tarfile_writes_is_read_as_tarfile_reads_it(format: int, files: Files) -> None:
    if format == tarfile.USTAR_FORMAT:
        files = [(n, d) for n, d in files if len(n.encode()) <= 100]
    archive = by_tarfile(files, format)
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        theirs = [(m.name, opened.extractfile(m).read()) for m in opened]  # type: ignore[union-attr]
    assert read(archive) == theirs
    assert read_stream(archive) == theirs


def test_payloads_of_a_buffer_are_views() -> None:
    archive = bytearray(write([("a.txt", b"before")]))
    member = next(walk(BufferSource(archive)))
    archive[member.offset : member.offset + 6] = b"after!"
    assert bytes(member.payload) == b"after!"


def test_a_mapped_file_is_read_without_copying(tmp_path: Path) -> None:
    import mmap

    path = tmp_path / "s.tar"
    path.write_bytes(write([(f"{i}.bin", bytes([i]) * (1 << 20)) for i in range(20)]))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        tracemalloc.start()
        source = BufferSource(mapped)
        seen = [(m.name, m.payload[-1], len(m.payload)) for m in walk(source)]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        del source
    assert seen == [(f"{i}.bin", i, 1 << 20) for i in range(20)]
    assert peak < 1 << 20


# -- what others write -----------------------------------------------------------------------------------------------


def test_a_fractional_mtime_as_webdataset_writes_it() -> None:
    out = io.BytesIO()
    with webdataset.TarWriter(out, mtime=1795340236.0557492) as writer:
        writer.write({"__key__": "a", "msgpack": b"x" * 600})
        writer.write({"__key__": "b", "msgpack": b""})
    members = list(walk(BufferSource(out.getvalue())))
    assert [(m.name, len(m.payload)) for m in members] == [("a.msgpack", 600), ("b.msgpack", 0)]
    assert [m.offset - m.start for m in members] == [1536, 1536]  # a PAX header of two blocks each


def test_a_ustar_prefix_is_part_of_the_name() -> None:
    name = "d" * 150 + "/" + "k" * 95
    assert read(by_tarfile([(name, b"1")], tarfile.USTAR_FORMAT)) == [(name, b"1")]


def test_the_prefix_of_a_gnu_header_is_no_name() -> None:
    # GNU keeps times where ustar keeps the prefix.
    archive = raw_header(magic=b"ustar  \0", prefix=b"00000000000\0") + END
    assert read(archive) == [("a.txt", b"")]


def test_gnu_long_names_and_long_links_of_no_interest() -> None:
    assert read(by_tarfile([("n" * 700, b"1"), ("m.txt", b"2")], tarfile.GNU_FORMAT)) == [
        ("n" * 700, b"1"),
        ("m.txt", b"2"),
    ]


def test_gnu_tar_itself_in_each_of_its_formats(tmp_path: Path) -> None:
    files = {"a.txt": b"1" * 1000, "dir/b.txt": b"", "dir/" + "c" * 90 + ".txt": b"3"}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    tar = shutil.which("tar")
    assert tar is not None
    for format in ("v7", "oldgnu", "gnu", "ustar", "posix"):
        subprocess.run(
            [tar, "cf", "s.tar", f"--format={format}", "--sort=name", "a.txt", "dir"], cwd=tmp_path, check=True
        )
        assert dict(read((tmp_path / "s.tar").read_bytes())) == files, format


def test_v7_headers_without_magic() -> None:
    archive = raw_header(b"dir/", type=b"\0", magic=b"") + raw_header(b"a.txt", 3, b"\0", b"") + padded(b"abc") + END
    assert read(archive) == [("a.txt", b"abc")]


@pytest.mark.parametrize(
    "size",
    [
        b"00000000003\0",
        b"          3\0",
        b"3".ljust(12, b" "),
        b"3".ljust(12, b"\0"),
        b"000000000003",
        b"\x80" + bytes(10) + b"\3",
    ],
)
def test_the_ways_to_write_a_size(size: bytes) -> None:
    assert read(raw_header(size=size) + padded(b"abc") + END) == [("a.txt", b"abc")]


def test_a_size_in_a_pax_header_is_the_size() -> None:
    archive = pax(record(b"size", b"3")) + raw_header(size=0) + padded(b"abc") + END
    assert read(archive) == [("a.txt", b"abc")]


def test_pax_records_apply_to_the_next_member_only() -> None:
    one = pax(record(b"path", b"long.txt"), record(b"SCHILY.xattr.user.x", b"\0\n=\xff"), record(b"mtime", b"1.5"))
    archive = one + raw_header() + raw_header(b"b.txt") + END
    assert read(archive) == [("long.txt", b""), ("b.txt", b"")]


def test_a_global_pax_comment_as_git_writes_it() -> None:
    archive = pax(record(b"comment", b"0" * 40), type=b"g") + raw_header() + END
    assert read(archive) == [("a.txt", b"")]


def test_directories_are_passed_over_and_names_may_be_any_bytes() -> None:
    archive = raw_header(b"dir/", type=b"5") + raw_header(b"caf\xe9.txt", 1) + padded(b"1") + END
    ((name, data),) = read(archive)
    assert name.encode("utf-8", "surrogateescape") == b"caf\xe9.txt"
    assert data == b"1"


def test_any_number_of_zeros_at_the_end() -> None:
    for blocks in (2, 3, 20, 5000):
        assert read(raw_header() + bytes(blocks * BLOCK)) == [("a.txt", b"")]
        assert read_stream(raw_header() + bytes(blocks * BLOCK)) == [("a.txt", b"")]


def test_an_archive_of_nothing() -> None:
    assert read(bytes(10240)) == []


# -- damage ----------------------------------------------------------------------------------------------------------


def small() -> bytes:
    """Every kind of header we accept, within a few blocks."""
    return (
        header("a.msgpack", 3) + padded(b"abc")
        + pax(record(b"path", b"long.txt")) + raw_header(size=1) + padded(b"1")
        + raw_header(b"././@LongLink", 9, b"L", b"ustar  \0") + padded(b"gnu.text\0")
        + raw_header(b"g", 0, magic=b"ustar  \0")
        + raw_header(b"dir/", type=b"5")
        + header("b.msgpack", 600) + padded(b"\xff" * 600)
        + header("c.msgpack", 0)
    )  # fmt: skip


def test_cut_anywhere_it_is_truncated() -> None:
    members, archive = read(small() + END), small() + bytes(10 * BLOCK)
    assert len(members) == 5
    complete = len(small()) + 2 * BLOCK
    for reader in (read, read_stream):
        for length in range(len(archive)):
            if length >= complete:
                assert reader(archive[:length]) == members
                continue
            with pytest.raises(TruncatedShardError) as caught:
                reader(archive[:length])
            assert caught.value.offset is not None
            assert caught.value.offset <= length + BLOCK


def test_cut_between_members_names_the_place_and_the_remedy() -> None:
    archive = write([("a.txt", b"1"), ("b.txt", b"2")])
    with pytest.raises(TruncatedShardError) as caught:
        read(archive[:1024])
    assert str(caught.value) == (
        "the archive ends without its end marker: part of it is missing; fetch or write it again [at byte 1024]"
    )
    with pytest.raises(TruncatedShardError, match=r"inside the member 'b.txt' of 1 bytes.*\[at byte 1536\]"):
        read(archive[:1536])


def test_every_flipped_bit_of_a_header_is_found_or_harmless() -> None:
    archive = small() + END
    original = read(archive)
    headers = {m.start for m in walk(BufferSource(archive))} | {m.offset - BLOCK for m in walk(BufferSource(archive))}
    headers |= {len(small()), len(small()) + BLOCK}  # the end marker
    found = harmless = 0
    for start in sorted(headers):
        for bit in range(start * 8, (start + BLOCK) * 8):
            damaged = bytearray(archive)
            damaged[bit // 8] ^= 1 << bit % 8
            try:
                assert read(bytes(damaged)) == original
                harmless += 1
            except ShardFormatError:
                found += 1
    assert found > 100 * harmless
    assert harmless  # for example a zero before the checksum's digits that became a space


@given(st.data())
def test_random_damage_ends_in_an_error_of_ours_or_in_members(data: st.DataObject) -> None:
    archive = bytearray(small() + END)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(archive) - 1))
        archive[at : at + data.draw(st.integers(1, 20))] = data.draw(st.binary(max_size=20))
    for reader in (read, read_stream):
        try:
            assert all(isinstance(name, str) for name, _ in reader(bytes(archive)))
        except ShardFormatError as error:
            assert error.offset is not None  # noqa: PT017


@given(st.binary(max_size=3000))
def test_anything_at_all_is_no_archive(data: bytes) -> None:
    with pytest.raises(ShardFormatError):
        read(data + b"x")


def test_two_archives_joined_are_not_one() -> None:
    one = write([("a.txt", b"1")])
    for reader in (read, read_stream):
        with pytest.raises(ShardFormatError, match="archives were joined"):
            reader(one + write([("b.txt", b"2")]))


def test_a_block_of_zeros_in_the_middle_is_no_end() -> None:
    with pytest.raises(ShardFormatError, match="data behind the end-of-archive marker"):
        read(raw_header() + bytes(BLOCK) + raw_header(b"b.txt") + END)
    with pytest.raises(ShardFormatError, match="data behind the end-of-archive marker"):
        read(raw_header() + bytes(300 * BLOCK) + raw_header(b"b.txt") + END)


def test_a_member_that_comes_twice() -> None:
    with pytest.raises(ShardFormatError, match=r"'a.txt' comes twice.*at byte 1024"):
        read(write([("a.txt", b"1"), ("a.txt", b"2")]))


# -- hostile ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "what"),
    [
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.FIFOTYPE, "a FIFO"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (b"M", "a continuation"),
        (b"D", "of unknown type"),
        (b"Z", "of unknown type"),
    ],
)
def test_only_regular_files(type: bytes, what: str) -> None:
    with pytest.raises(ShardFormatError, match=rf"'a.txt' is {what}.*regular files only.*at byte 0"):
        read(raw_header(type=type) + END)


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_files_of_gnu_tar_are_refused_not_misread(tmp_path: Path, version: str) -> None:
    with (tmp_path / "holes.bin").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    tar = shutil.which("tar")
    assert tar is not None
    for options in (["--format=posix", f"--sparse-version={version}"], ["--format=gnu"]):
        subprocess.run([tar, "cf", "s.tar", "--sparse", *options, "holes.bin"], cwd=tmp_path, check=True)
        with pytest.raises(ShardFormatError, match="sparse"):
            read((tmp_path / "s.tar").read_bytes())


@pytest.mark.parametrize("name", ["/etc/x.txt", "../x.txt", "a/../../x.txt", "a/.."])
def test_names_that_lead_out_in_every_place_a_name_can_be(name: str) -> None:
    raw = name.encode()
    ways: list[Callable[[], bytes]] = [
        lambda: raw_header(raw),
        lambda: raw_header(b"x.txt", prefix=b"..") if ".." in name else raw_header(b"x.txt", prefix=b"/etc"),
        lambda: pax(record(b"path", raw)) + raw_header(),
        lambda: raw_header(b"././@LongLink", len(raw), b"L") + padded(raw) + raw_header(),
    ]
    for way in ways:
        with pytest.raises(ShardFormatError, match="leads out of the archive"):
            read(way() + END)


def test_a_nul_in_a_name() -> None:
    with pytest.raises(ShardFormatError, match="leads out of the archive"):
        read(pax(record(b"path", b"a.txt\0.jpg")) + raw_header() + END)


_CLAIMS: list[bytes | int] = [
    8**11 - 1,
    b"\x80" + (2**61).to_bytes(11, "big"),
    b"\x80" + (2**40).to_bytes(11, "big"),
    3 << 30,
]


@pytest.mark.parametrize("size", _CLAIMS)
def test_a_huge_size_is_only_a_claim(size: bytes | int) -> None:
    archive = raw_header(size=size) + bytes(4096)
    for reader in (read, read_stream):
        tracemalloc.start()
        with pytest.raises(ShardFormatError):
            reader(archive)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 32 << 20  # one step of a streamed payload is 16 MiB


@pytest.mark.parametrize("type", [b"x", b"g", b"L", b"K"])
def test_a_huge_extension_header_is_refused(type: bytes) -> None:
    with pytest.raises(ShardFormatError, match="extension header of 1048577 bytes is too large"):
        read(raw_header(size=(1 << 20) + 1, type=type) + bytes(2 << 20) + END)


@pytest.mark.parametrize(
    "size", [b"-0000000001\0", b"0x000000003\0", b"99999999999\0", b"abc".ljust(12), b"\xff" * 12, b"\xc0" + bytes(11)]
)
def test_a_size_that_is_no_number(size: bytes) -> None:
    with pytest.raises(ShardFormatError, match="size"):
        read(raw_header(size=size) + END)


@pytest.mark.parametrize(
    "body",
    [
        b"path=a.txt\n",
        b" 5 a=b\n",
        b"7 a=b",
        b"99 path=a\n",
        b"0 a=b\n",
        b"3 a\n",
        b"-6 a=b\n",
        b"6 a=b\n\n\n",
        b"18446744073709551616 a=b\n",
        b"123456789012345678901234567890 a=b\n",
        b"5 ab\n",
        b"2 \n",
        b"\xff" * 40,
    ],
)
def test_a_malformed_pax_header(body: bytes) -> None:
    with pytest.raises(ShardFormatError, match="PAX header is malformed"):
        read(pax(body) + raw_header() + END)


@pytest.mark.parametrize("size", [b"-1", b"1e3", b"", b"0x10", b"9" * 19, "٣".encode() * 19])
def test_an_impossible_pax_size(size: bytes) -> None:
    with pytest.raises(ShardFormatError, match="impossible size"):
        read(pax(record(b"size", size)) + raw_header() + END)


def test_headers_that_readers_understand_differently_are_refused() -> None:
    hidden = raw_header(b"hidden.txt")
    with pytest.raises(ShardFormatError, match="'dir/' has contents of its own"):
        read(raw_header(b"dir/", BLOCK, b"5") + hidden + END)
    with pytest.raises(ShardFormatError, match="'dir/' has contents of its own"):
        read(raw_header(b"dir/", BLOCK, b"\0") + hidden + END)
    with pytest.raises(ShardFormatError, match="all members one name or size"):
        read(pax(record(b"path", b"all.txt"), type=b"g") + raw_header() + END)
    with pytest.raises(ShardFormatError, match="two extension headers of one kind"):
        read(pax(record(b"path", b"1.txt")) + pax(record(b"path", b"2.txt")) + raw_header() + END)
    long = raw_header(b"././@LongLink", 5, b"L") + padded(b"1.txt")
    with pytest.raises(ShardFormatError, match="two extension headers of one kind"):
        read(long + long + raw_header() + END)


def test_an_extension_header_without_a_member() -> None:
    for last in (pax(record(b"path", b"1.txt")), raw_header(b"././@LongLink", 5, b"L") + padded(b"1.txt")):
        with pytest.raises(TruncatedShardError, match="its member is missing"):
            read(raw_header() + last + END)


def test_a_stream_that_fails_is_not_a_short_archive() -> None:
    class Broken(io.RawIOBase):
        def __init__(self) -> None:
            self.left = write([("a.txt", b"1"), ("b.txt", b"2")])[:1024]

        def read(self, n: int = -1) -> bytes:
            if not self.left:
                raise ConnectionResetError("peer went away")
            data, self.left = self.left[:n], self.left[n:]
            return data

    members: Iterator[Member] = walk(StreamSource(Broken()))
    assert next(members).name == "a.txt"
    with pytest.raises(ConnectionResetError):
        next(members)
