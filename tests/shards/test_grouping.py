"""Members to samples, by the rules of webdataset."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from atdata.errors import ShardFormatError, TruncatedShardError
from atdata.shards.grouping import group, split_name
from atdata.shards.tar import BufferSource, end_of_archive, header, padding, walk

Samples = list[tuple[str, dict[str, bytes]]]


def write(files: Iterable[tuple[str, bytes]]) -> bytes:
    out = b"".join(header(name, len(data)) + data + padding(len(data)) for name, data in files)
    return out + end_of_archive(len(out))


def ours(archive: bytes) -> Samples:
    return [(raw.key, {k: bytes(v) for k, v in raw.parts.items()}) for raw in group(walk(BufferSource(archive)))]


def theirs(archive: bytes) -> Samples:
    stream = tar_file_expander([{"url": "s.tar", "stream": io.BytesIO(archive)}])
    return [
        (s["__key__"], {k: v for k, v in s.items() if k not in ("__key__", "__url__")}) for s in group_by_keys(stream)
    ]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("000000000.msgpack", ("000000000", "msgpack")),
        ("a/b.msgpack", ("a/b", "msgpack")),
        ("v1.5/b.msgpack", ("v1.5/b", "msgpack")),
        ("./a.jpg", ("./a", "jpg")),
        ("a.b.msgpack", ("a", "b.msgpack")),
        ("a.SEG.Png", ("a", "seg.png")),
        ("KEY.JPG", ("KEY", "jpg")),
        ("a.", ("a", "")),
        ("a..b", ("a", ".b")),
        ("_a.txt", ("_a", "txt")),
        ("__a.msgpack", ("__a", "msgpack")),
        ("__a__b.msgpack", ("__a__b", "msgpack")),
        ("__a__.msgpack", ("__a__", "msgpack")),
        ("a/__b__/c.txt", ("a/__b__/c", "txt")),
        ("größe.msgpack", ("größe", "msgpack")),
        ("README", None),
        ("a.b/README", None),
        ("__index__", None),
        ("__index__/0.msgpack", None),
        ("__a.b__", None),
        (".hidden", None),
        (".msgpack", None),
        ("._000.jpg", None),
        ("", None),
    ],
)
def test_key_and_extension(name: str, split: tuple[str, str] | None) -> None:
    assert split_name(name) == split
    assert ours(write([(name, b"x")])) == ([] if split is None else [(split[0], {split[1]: b"x"})])
    if not name.startswith("__") or split is not None:
        key, extension = base_plus_ext(name)
        assert (key and (key, extension.lower())) == split


def test_hidden_files_in_directories_belong_to_no_sample() -> None:
    # What macOS adds to archives. webdataset makes samples called "train/" of them; nobody means those.
    files = [("train/._0.jpg", b"mac"), ("train/0.jpg", b"0"), ("train/.msgpack", b"mac"), ("train/0.cls", b"1")]
    assert ours(write(files)) == [("train/0", {"jpg": b"0", "cls": b"1"})]


def test_neighbours_with_one_key_are_one_sample() -> None:
    files = [("a.jpg", b"1"), ("a.cls", b"2"), ("a.seg.png", b"3"), ("b.jpg", b"4"), ("d/a.jpg", b"5")]
    archive = write(files)
    assert ours(archive) == theirs(archive)
    assert ours(archive) == [
        ("a", {"jpg": b"1", "cls": b"2", "seg.png": b"3"}),
        ("b", {"jpg": b"4"}),
        ("d/a", {"jpg": b"5"}),
    ]


def test_a_key_that_comes_back_is_another_sample() -> None:
    archive = write([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.cls", b"3")])
    assert ours(archive) == theirs(archive)
    assert [key for key, _ in ours(archive)] == ["a", "b", "a"]


def test_members_of_no_sample_do_not_end_one() -> None:
    archive = write([("a.jpg", b"1"), ("README", b""), ("__meta__/x.json", b"{}"), ("a.cls", b"3")])
    assert ours(archive) == theirs(archive) == [("a", {"jpg": b"1", "cls": b"3"})]


def test_an_extension_that_comes_twice() -> None:
    with pytest.raises(ShardFormatError, match=r"two members with the extension 'jpg' \[at byte 1536, sample 'a'\]"):
        ours(write([("a.jpg", b"1"), ("a.JPG", b"2")]))


def test_offsets_lead_to_the_first_member() -> None:
    archive = write([("x" * 120 + ".jpg", b"one"), ("x" * 120 + ".cls", b"1"), ("b.jpg", b"two")])
    first, second = group(walk(BufferSource(archive)))
    assert archive[first.offset :].startswith(b"one")
    assert archive[second.offset :].startswith(b"two")
    assert first.start == 0
    source = BufferSource(archive)
    source.position = second.start
    assert list(group(walk(source))) == [second]


def test_a_sample_cut_in_half_is_not_handed_out() -> None:
    archive = write([("a.cls", b"1"), ("a.jpg", b"2"), ("b.cls", b"1"), ("b.jpg", b"2")])
    seen = []
    with pytest.raises(TruncatedShardError):  # noqa: PT012
        for raw in group(walk(BufferSource(archive[: 512 * 6]))):
            seen.append(sorted(raw.parts))  # noqa: PERF401
    assert seen == [["cls", "jpg"]]


def test_a_shard_as_webdataset_writes_it() -> None:
    out = io.BytesIO()
    with webdataset.TarWriter(out) as writer:
        for i in range(30):
            writer.write({"__key__": f"dir/{i:04d}", "cls": i, "seg.png": b"png", "txt": "größe"})
    samples = ours(out.getvalue())
    assert samples == theirs(out.getvalue())
    assert samples[29] == ("dir/0029", {"cls": b"29", "seg.png": b"png", "txt": "größe".encode()})


_word = st.text("ab._A", min_size=1, max_size=5)


@given(st.lists(st.lists(_word, min_size=1, max_size=3).map("/".join), unique=True, max_size=8))
def test_any_names_are_grouped_as_webdataset_does(names: list[str]) -> None:
    names = [n for n in names if not any(part.startswith(".") for part in n.split("/"))]
    archive = write([(name, name.encode()) for name in names])
    try:
        expected: Samples | None = theirs(archive)
    except ValueError:
        expected = None
    try:
        assert ours(archive) == expected
    except ShardFormatError:
        assert expected is None
