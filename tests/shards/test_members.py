"""Samples of several members: what webdataset writes, as typed and as untyped samples."""

from __future__ import annotations

import dataclasses
import enum
import gzip
import io
import json
import pickle
import random
import struct
import tracemalloc
import zipfile
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from webdataset.autodecode import Decoder
from webdataset.tariterators import group_by_keys, tar_file_expander

from atdata.errors import SampleDecodeError, SchemaError
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.fields import Shape
from atdata.samples.images import Image
from atdata.samples.packable import equal_values, pack, packable
from atdata.shards.grouping import RawSample, group
from atdata.shards.members import decode_typed, decode_untyped, decoder
from atdata.shards.tar import BufferSource, walk

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def shard(*samples: dict[str, Any]) -> bytes:
    """A shard as the real webdataset writes it."""
    out = io.BytesIO()
    with webdataset.TarWriter(out) as writer:
        for i, sample in enumerate(samples):
            writer.write({"__key__": f"{i:06d}", **sample})
    return out.getvalue()


def raw(**parts: bytes) -> RawSample:
    """One sample; `_` in a name stands for a dot."""
    return RawSample("k", 512, {name.replace("_", "."): memoryview(data) for name, data in parts.items()})


def raws(archive: bytes) -> list[RawSample]:
    return list(group(walk(BufferSource(archive))))


def npy(array: NDArray[Any], allow_pickle: bool = False) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=allow_pickle)
    return out.getvalue()


def npz(**arrays: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def read_field(hint: Any, extension: str, payload: bytes) -> Any:
    """The value that a class with one field of that type reads from the member."""
    cls = packable(dataclasses.make_dataclass("One", [(extension.replace(".", "_"), hint)]))
    sample = decode_typed(RawSample("k", 512, {extension: memoryview(payload)}), codec.plan(cls))
    return getattr(sample, extension.replace(".", "_"))


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@packable
class Box:
    x: float
    y: float
    tags: list[str] = dataclasses.field(default_factory=list)


@packable
class Sample:
    jpg: Image
    png: NDArray[np.uint8]
    seg_png: Annotated[NDArray[np.uint8], Shape("h", "w")]
    cls: int
    txt: str
    json: dict[str, Any]
    npy: NDArray[np.float32]
    npz: dict[str, NDArray[Any]]
    box_json: Box
    bin: bytes
    score: float = 0.5


def full() -> dict[str, Any]:
    return {
        "jpg": PIXELS,
        "png": PIXELS,
        "seg.png": PIXELS[:, :, 0],
        "cls": 7,
        "txt": "größe\n",
        "json": {"a": [1, None, {"b": 0.25}], "nan": 1e300},
        "npy": np.linspace(0, 1, 5, dtype=np.float32),
        "npz": {"a": np.eye(3), "b": np.array(["x", "yz"])},
        "box.json": {"x": 1, "y": 2.5},
        "bin": b"\0\xff",
    }


# -- what webdataset writes ------------------------------------------------------------------------------------------


def test_a_typed_sample_of_many_members() -> None:
    (sample,) = map(decoder(Sample), raws(shard(full())))
    assert type(sample) is Sample
    assert sample.jpg.format == "jpeg"
    assert sample.jpg.decode().shape == (4, 6, 3)
    assert np.array_equal(sample.png, PIXELS)
    assert np.array_equal(sample.seg_png, PIXELS[:, :, 0])
    assert (sample.cls, sample.txt, sample.bin, sample.score) == (7, "größe\n", b"\0\xff", 0.5)
    assert sample.json == {"a": [1, None, {"b": 0.25}], "nan": 1e300}
    assert sample.npy.dtype == np.float32
    assert np.array_equal(sample.npy, np.linspace(0, 1, 5, dtype=np.float32))
    assert equal_values(sample.npz, {"a": np.eye(3), "b": np.array(["x", "yz"])})
    assert sample.box_json == Box(1.0, 2.5, [])


def test_what_was_read_can_be_written_as_an_atdata_sample() -> None:
    (sample,) = map(decoder(Sample), raws(shard(full())))
    again = decoder(Sample)(RawSample("k", 0, {"msgpack": pack(sample)}))
    assert again == sample


def test_an_untyped_sample_is_read_by_its_extensions() -> None:
    (sample,) = map(decoder(DictSample), raws(shard({**full(), "pyd": {"a": 1}, "wav": b"RIFF"})))
    assert isinstance(sample, DictSample)
    assert set(sample) == {*full(), "pyd", "wav"}
    assert isinstance(sample["seg.png"], Image)
    assert np.array_equal(sample["seg.png"].decode(), PIXELS[:, :, 0])
    assert (sample.cls, sample.txt, sample.bin, sample.wav) == (7, "größe\n", b"\0\xff", b"RIFF")
    assert sample["box.json"] == {"x": 1, "y": 2.5}
    assert type(sample.pyd) is bytes


def test_webdatasets_own_decoder_gives_the_same() -> None:
    sample = {
        "png": PIXELS,
        "seg.png": PIXELS[:, :, 0],
        "cls": -3,
        "index": 12,
        "id": 0,
        "txt": "größe",
        "transcript": "",
        "json": [1, 2.5, None, "\ud800", float("inf"), 10**30],
        "jsn": {"a": "text"},
        "npy": np.arange(6, dtype=">i2").reshape(2, 3, order="F"),
        "mask.npy": np.zeros((0, 3), bool),
        "npz": {"a": np.arange(3.0), "b": np.array(5)},
        "mp": {"a": [1, b"\0", None, {"b": "c"}]},
        "msg": [1, 2],
        "json.gz": {"zipped": True},
        "txt.gz": "zipped",
        "npy.gz": np.arange(3),
        "bin": b"\0",
        "html": "<p>",
        "seg.unknown": b"x",
    }
    archive = shard(sample)
    (grouped,) = group_by_keys(tar_file_expander([{"url": "s.tar", "stream": io.BytesIO(archive)}]))
    images = webdataset.autodecode.imagehandler("pil")
    theirs = Decoder([images])(grouped)
    (ours,) = map(decode_untyped, raws(archive))
    assert len(ours) == len(sample)
    for extension, value in ours.items():
        expected = theirs[extension]
        if isinstance(value, Image):
            value, expected = value.decode(), np.asarray(expected)
            value = value if value.ndim == 3 else np.repeat(value[:, :, None], 3, 2)  # theirs is always RGB
        assert equal_values(value, expected), extension


def test_msgpack_that_webdataset_wrote_is_a_map_like_ours() -> None:
    @packable
    class Small:
        x: int
        a: NDArray[np.float32]

    samples = [Small(i, np.full(2, i, np.float32)) for i in range(3)]
    out = io.BytesIO()
    with webdataset.TarWriter(out) as writer:
        for sample in samples:
            writer.write(sample.as_wds)  # type: ignore[attr-defined]
    assert list(map(decoder(Small), raws(out.getvalue()))) == samples
    assert [s.x for s in map(decoder(DictSample), raws(out.getvalue()))] == [0, 1, 2]


def test_beside_a_msgpack_member_others_are_passed_over() -> None:
    both = raw(jpg=b"\xff\xd8\xff", msgpack=msgspec.msgpack.encode({"x": 1, "y": 2.0, "tags": []}))
    assert decoder(Box)(both) == Box(1.0, 2.0, [])
    assert decode_untyped(both).to_dict() == {"x": 1, "y": 2.0, "tags": []}


def test_a_field_called_msgpack_is_the_member_of_that_name() -> None:
    @packable
    class Odd:
        msgpack: dict[str, int]
        cls: int

    assert decoder(Odd)(raw(msgpack=b"\x81\xa1x\x05", cls=b"3")) == Odd({"x": 5}, 3)


# -- one field, each declared type ------------------------------------------------------------------------------------


def ids(cases: list[tuple[Any, str, bytes, Any]]) -> list[str]:
    # Not of the payloads: zip and gzip put the time of day into some.
    return [f"{i}-{case[1]}" for i, case in enumerate(cases)]


READS: list[tuple[Any, str, bytes, Any]] = [
    (int, "cls", b"12", 12),
    (int, "cls", b" -5\n", -5),
    (int, "cls", b"+007", 7),
    (int, "cls", b"18446744073709551615", 2**64 - 1),
    (int, "json", b"12", 12),
    (int, "mp", b"\x0c", 12),
    (int, "anything", b"12", 12),
    (int | None, "cls", b"12", 12),
    (int | None, "json", b"null", None),
    (int | None, "mp", b"\xc0", None),
    (float, "score", b"0.5\n", 0.5),
    (float, "score", b"-inf", float("-inf")),
    (float, "score", b"nan", float("nan")),
    (float, "cls", b"3", 3.0),
    (float, "json", b"3", 3.0),
    (float, "json", b"NaN", float("nan")),
    (bool, "flag", b"true", True),
    (bool, "flag", b"False\n", False),
    (bool, "cls", b"1", True),
    (bool, "json", b"false", False),
    (str, "txt", b"a\nb \n", "a\nb \n"),
    (str, "txt", b"", ""),
    (str, "cls", b"12", "12"),
    (str, "json", b'"a"', "a"),
    (bytes, "txt", b"\xff", b"\xff"),
    (bytes, "json", b"{}", b"{}"),
    (bytes | None, "json", b"null", b"null"),
    (bytes, "pyd", b"\x80\x04", b"\x80\x04"),
    (None, "json", b"null", None),
    (datetime, "txt", b"2026-11-23T01:02:03+00:00\n", datetime.fromisoformat("2026-11-23T01:02:03+00:00")),
    (Color, "txt", b"red\n", Color.RED),
    (Level, "cls", b"2", Level.HIGH),
    (Level, "json", b"2", Level.HIGH),
    (Literal["a", 3, True], "txt", b"a", "a"),
    (Literal["a", 3, True], "cls", b"03", 3),
    (Literal["a", 3, True], "cls", b"true", True),
    (list[int], "json", b"[1,2]", [1, 2]),
    (list[int], "boxes", b"[1,2]", [1, 2]),
    (list[int], "mp", b"\x92\x01\x02", [1, 2]),
    (list, "json", b"[1,[2]]", [1, [2]]),
    (tuple[int, str], "json", b'[1,"a"]', (1, "a")),
    (dict[str, float], "json", b'{"a":1}', {"a": 1.0}),
    (dict, "json", b'{"a":{"b":[]}}', {"a": {"b": []}}),
    (Any, "json", b'{"a":1}', {"a": 1}),
    (Any, "txt", b"a", "a"),
    (Any, "cls", b"1", 1),
    (Any, "pyd", b"\x80", b"\x80"),
    (Box, "json", b'{"x":1,"y":2,"tags":["t"]}', Box(1.0, 2.0, ["t"])),
    (Box | None, "json", b"null", None),
    (list[Box], "json", b'[{"x":1,"y":2}]', [Box(1.0, 2.0)]),
    (dict[str, Box], "json", b'{"a":{"x":1,"y":2}}', {"a": Box(1.0, 2.0)}),
    (Image, "jpg", b"\xff\xd8\xff...", Image(b"\xff\xd8\xff...")),
    (Image, "bin", b"x", Image(b"x")),
    (dict[str, float], "json.gz", gzip.compress(b'{"a":1}'), {"a": 1.0}),
    (NDArray[np.int16], "npy", npy(np.arange(3, dtype=np.int16)), np.arange(3, dtype=np.int16)),
    (NDArray[np.int16] | None, "npy", npy(np.arange(3, dtype=np.int16)), np.arange(3, dtype=np.int16)),
    (NDArray, "depth", npy(np.eye(2)), np.eye(2)),
    (NDArray, "npz", npz(only=np.eye(2)), np.eye(2)),
    (NDArray, "bin", bytes.fromhex("037c62310102000000000000000100"), np.array([True, False])),
    (NDArray, "mp", b"\xc4\x0f" + bytes.fromhex("037c62310102000000000000000100"), np.array([True, False])),
    (NDArray[np.uint8], "img", Image.encode(PIXELS).data, PIXELS),
    (NDArray[np.uint8], "gif", Image.encode(PIXELS[:, :, 0], "gif").data, None),
    (NDArray[np.uint8], "ppm", Image.encode(PIXELS, "ppm").data, PIXELS),
    (NDArray[np.uint8], "png.gz", gzip.compress(Image.encode(PIXELS).data), PIXELS),
    (dict[str, NDArray[np.float64]], "npz", npz(a=np.eye(2), b=np.zeros(0)), {"a": np.eye(2), "b": np.zeros(0)}),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "extension", "payload", "value"), READS, ids=ids(READS))
def test_a_member_is_read_as_its_field_declares(hint: Any, extension: str, payload: bytes, value: Any) -> None:
    got = read_field(hint, extension, payload)
    if value is None and isinstance(got, np.ndarray):  # a palette image: RGB
        assert got.shape == (4, 6, 3)
    else:
        assert equal_values(got, value)
        assert type(got) is type(value)


MISFITS: list[tuple[Any, str, bytes, Any]] = [
    (int, "cls", b"cat", "One.cls: expected int, got the text 'cat'"),
    (int, "cls", b"", "One.cls: expected int, got the text ''"),
    (int, "cls", b"1_0", "One.cls: expected int, got the text '1_0'"),
    (int, "cls", "٣".encode(), "One.cls: expected int, got the text '٣'"),
    (int, "cls", b"18446744073709551616", "One.cls: expected int, got the text '18446744073709551616'"),
    (int, "cls", b"9" * 100_000, "One.cls: expected int, got the text '9999"),
    (int, "json", b"1.5", "One.json: expected int, got float"),
    (int, "json", b'"1"', "One.json: expected int, got str"),
    (int, "mp", b"\xa11", "One.mp: expected int, got str"),
    (float, "score", b"1_0", "One.score: expected float, got the text '1_0'"),
    (float, "score", b"high", "One.score: expected float, got the text 'high'"),
    (bool, "flag", b"yes", "One.flag: expected bool, got the text 'yes'"),
    (str, "txt", b"caf\xe9", "One.txt: text that is not UTF-8: unexpected end of data at byte 3"),
    (str, "json", b"{}", "One.json: expected str, got dict"),
    (datetime, "txt", b"noon", "One.txt: expected datetime, got the text 'noon'"),
    (Color, "txt", b"green", "One.txt: expected Color, got the text 'green'"),
    (Literal["a"], "txt", b"b", "One.txt: expected one of 'a', got the text 'b'"),
    (list[int], "json", b'[1,"2"]', "One.json[1]: expected int, got str"),
    (dict[str, float], "json", b"[]", "One.json: expected dict, got list"),
    (dict[str, float], "json", b"{", "One.json: not JSON: "),
    (dict[str, float], "json", b"\xff\xfe\xfd", "One.json: not JSON: "),
    (dict[str, float], "json", b"", "One.json: not JSON: "),
    (dict[str, float], "json", b"9" * 10_000, "One.json: "),
    (dict, "mp", b"\xc1", "One.mp: not msgpack: "),
    (dict, "mp", b"", "One.mp: not msgpack: "),
    (Box, "json", b'{"x":1}', "One.json.y: missing"),
    (Box, "json", b'{"x":1,"y":2,"z":3}', "One.json.z: is not a field of the sample type"),
    (list[Box], "json", b'[{"x":1,"y":"2"}]', "One.json[0].y: expected float, got str"),
    (NDArray[np.float32], "npy", npy(np.eye(2)), "One.npy: expected float32 array, got float64"),
    (NDArray, "npy", b"1 2 3", "One.npy: expected an array (.npy, .npz or an image), got b'1 2 3'"),
    (NDArray, "json", b"[1,2]", "One.json: expected an array (.npy, .npz or an image), got b'[1,2]'"),
    (NDArray, "npy", npy(np.eye(2))[:-1], "One.npy: shape (2, 2) of float64 needs 32 bytes, but there are 31"),
    (NDArray, "npy", npy(np.array([None]), True), "One.npy: a .npy array of Python objects is refused"),
    (NDArray, "npz", npz(a=np.eye(2), b=np.eye(2)), "One.npz: expected one array, got an .npz of 2: a, b"),
    (NDArray, "npz", b"PK\x03\x04", "One.npz: not a readable .npz: "),
    (NDArray, "npz", b"", "One.npz: not a readable .npz: "),
    (NDArray, "bin", b"", "One.bin: not an array: the header is cut short"),
    (NDArray[np.uint8], "png", b"no image", "One.png: not a readable image: cannot identify image file"),
    (NDArray[np.uint8], "png", Image.encode(PIXELS).data[:50], "One.png: not a readable image: "),
    (NDArray[np.float32], "png", Image.encode(PIXELS).data, "One.png: expected float32 array, got uint8"),
    (Annotated[NDArray[np.uint8], Shape(4, 6)], "png", Image.encode(PIXELS).data, "One.png: expected shape Shap"),
    (dict[str, NDArray[np.int64]], "npz", npz(a=np.eye(2)), "One.npz['a']: expected int64 array, got float64"),
    (dict[str, float], "json.gz", b"{}", "One.json_gz: not readable gzip: Not a gzipped file"),
    (dict[str, float], "json.gz", gzip.compress(b"{}")[:-3], "One.json_gz: not readable gzip: "),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "extension", "payload", "message"), MISFITS, ids=ids(MISFITS))
def test_what_does_not_fit_is_named(hint: Any, extension: str, payload: bytes, message: str) -> None:
    with pytest.raises(SampleDecodeError) as caught:
        read_field(hint, extension, payload)
    error = caught.value
    assert error.message.startswith(message)
    assert len(error.message) < 400
    assert str(error).endswith("[at byte 512, sample 'k']")
    assert error.field is not None
    assert message.startswith(error.field)


def test_arrays_are_views_of_the_archive() -> None:
    archive = bytearray(shard({"npy": np.zeros(4, np.uint8)}))
    (one,) = raws(bytes(archive))
    (view,) = group(walk(BufferSource(archive)))
    array = decoder(DictSample)(view)["npy"]
    archive[one.offset + len(one.parts["npy"]) - 1] = 9
    assert array.tolist() == [0, 0, 0, 9]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


# -- which member is which field -------------------------------------------------------------------------------------


@packable
class Two:
    cls: int
    txt: str = "default"


def test_a_missing_member_is_the_default_or_an_error() -> None:
    assert decoder(Two)(raw(cls=b"1")) == Two(1, "default")
    with pytest.raises(SampleDecodeError) as caught:
        decoder(Two)(raw(txt=b"a"))
    assert str(caught.value) == (
        "Two.cls: missing; fields are the extensions of the members, which are .txt [at byte 512, sample 'k']"
    )
    assert caught.value.field == "Two.cls"


def test_a_member_without_a_field_is_an_error() -> None:
    with pytest.raises(SampleDecodeError) as caught:
        decoder(Two)(raw(cls=b"1", seg_png=b""))
    assert str(caught.value) == (
        "Two.seg.png: is not a field of the sample type; the sample's members are .cls, .seg.png "
        "[at byte 512, sample 'k']"
    )


def test_a_selection_of_the_fields_passes_over_the_others() -> None:
    plan = codec.Plan(Two, codec.plan(Two).fields)
    plan.ignore_unknown = True
    assert decode_typed(raw(cls=b"1", seg_png=b""), plan) == Two(1)


def test_field_names_that_cannot_be_extensions() -> None:
    @packable
    class Names:
        class_: str
        Label: int
        left_eye_json: list[int]

    sample = RawSample("k", 0, {"class": b"cat", "label": b"1", "left-eye.json": b"[1]"})
    assert decoder(Names)(sample) == Names("cat", 1, [1])
    with pytest.raises(
        SampleDecodeError, match=r"Names.left_eye_json: both .left-eye.json and .left.eye.json are there"
    ):
        decoder(Names)(RawSample("k", 0, {**sample.parts, "left.eye.json": b"[1]"}))


def test_samples_of_one_shard_may_have_different_members() -> None:
    decode = decoder(Two)
    samples = [raw(cls=b"1"), raw(cls=b"2", txt=b"a"), raw(txt=b"b", cls=b"3")] * 3
    assert [decode(s) for s in samples] == [Two(1), Two(2, "a"), Two(3, "b")] * 3
    # As many sets of members as a hostile shard likes.
    for i in range(1000):
        with pytest.raises(SampleDecodeError):
            decode(RawSample("k", 0, {"cls": b"1", f"x{i}": b""}))
    assert decode(samples[1]) == Two(2, "a")


def test_a_key_with_a_dot_is_explained() -> None:
    # What comes of keys like "1.5" with a reader that splits at the first dot.
    dotted = raw(**{"5_msgpack": b"\x80", "6_msgpack": b"\x80"})
    for decode in (decoder(Two), decode_untyped):
        with pytest.raises(SampleDecodeError, match=r"the key in 'k.5.msgpack' has a dot.*'k' for the key.*sample 'k'"):
            decode(dotted)


def test_errors_of_a_msgpack_sample_have_their_place_too() -> None:
    for cls in (Two, DictSample):
        with pytest.raises(SampleDecodeError, match=r"\[at byte 512, sample 'k'\]"):
            decoder(cls)(raw(msgpack=b"\x93"))


def test_only_sample_types_can_be_decoded() -> None:
    for other in (int, dict, object, "Two"):
        with pytest.raises(SchemaError, match="not a sample type"):
            decoder(other)  # type: ignore[arg-type]


# -- hostile ---------------------------------------------------------------------------------------------------------


class Bang:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code from a shard was run')",))


@pytest.mark.parametrize("extension", ["pyd", "pickle", "pkl", "pth", "pt", "ten", "tb", "cbor", "seg.pkl"])
def test_nothing_is_unpickled(extension: str) -> None:
    payload = pickle.dumps(Bang())
    assert decode_untyped(RawSample("k", 0, {extension: payload})) == DictSample({extension: payload})
    for hint in (dict, NDArray, Any, Box):
        try:
            assert read_field(hint, extension, payload) == payload
        except SampleDecodeError:
            assert hint is not Any


def test_arrays_of_objects_are_refused_wherever_they_hide() -> None:
    objects = np.array([Bang()], object)
    out = io.BytesIO()
    np.savez(out, a=objects, allow_pickle=True)
    structured = np.array([(1, Bang())], [("x", int), ("y", object)])
    for part in ({"npy": npy(objects, True)}, {"npz": out.getvalue()}, {"npy": npy(structured, True)}):
        with pytest.raises(SampleDecodeError, match="Python objects is refused"):
            decode_untyped(RawSample("k", 0, part))


@pytest.mark.parametrize("text", [b"[" * 200_000, b'{"a":' * 200_000, b"[" * 200_000 + b"]" * 200_000])
@pytest.mark.parametrize("hint", [Any, dict, list, Box, list[int]])
def test_deeply_nested_json(text: bytes, hint: Any) -> None:
    with pytest.raises(SampleDecodeError):
        read_field(hint, "json", text)


def test_deeply_nested_msgpack() -> None:
    for text in (b"\x91" * 200_000, b"\x91" * 500 + b"\xc0"):
        try:
            read_field(Any, "mp", text)
        except SampleDecodeError as error:
            assert "nested too deeply" in error.message  # noqa: PT017


def bomb(claim: int, real: int) -> bytes:
    """An .npz whose one array claims so many bytes and has so many, all zeros."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (claim,)})
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w", force_zip64=True) as member,
    ):
        member.write(head.getvalue())
        for _ in range(real >> 20):
            member.write(bytes(1 << 20))
    return out.getvalue()


def lie(archive: bytes, old: int, new: int) -> bytes:
    """The same zip file, with another uncompressed size in its directory."""
    at = archive.rindex(b"PK\x01\x02") + 24
    assert struct.unpack_from("<I", archive, at) == (old,)
    return archive[:at] + struct.pack("<I", new) + archive[at + 4 :]


def test_zip_bombs_take_no_memory() -> None:
    large = bomb(64 << 20, 64 << 20)
    cases = [
        (lie(large, (64 << 20) + 128, 3 << 30), "says it unpacks to 3221225472"),
        (lie(large, (64 << 20) + 128, 1000), "not a readable .npz"),  # more than the directory says
        (bomb(1 << 62, 1 << 20), "needs 4611686018427387904 bytes, but there are 1048576"),
        (bomb(8, 1 << 20), "needs 8 bytes, but there are 1048576"),
    ]
    for payload, message in cases:
        tracemalloc.start()
        with pytest.raises(SampleDecodeError, match=message):
            decode_untyped(RawSample("k", 0, {"npz": payload}))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 16 << 20


def test_a_gzip_bomb_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atdata.shards.members._MAX_UNPACKED", 8 << 20)
    payload = gzip.compress(bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(SampleDecodeError, match=r"txt.gz: unpacks to more than 8388608 bytes"):
        decode_untyped(RawSample("k", 0, {"txt.gz": payload}))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


def test_zip_files_that_are_no_npz() -> None:
    def archive(*files: tuple[str, bytes]) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as made:
            for name, data in files:
                made.writestr(name, data)
        return out.getvalue()

    text = archive(("a.txt", b"text"))
    encrypted = bytearray(archive(("a.npy", npy(np.eye(2)))))
    encrypted[encrypted.rindex(b"PK\x01\x02") + 8] |= 1
    for payload, message in [
        (text, r"npz\['a.txt'\]: not a .npy array"),
        (archive(("a.npy", npy(np.eye(2))), ("a", npy(np.eye(2)))), "two arrays 'a'"),
        (bytes(encrypted), "not a readable .npz: .*encrypted"),
        (archive(("a.npy", npy(np.eye(2)))).replace(npy(np.eye(2)), npy(np.ones((2, 2)))), "Bad CRC-32"),
    ]:
        with pytest.raises(SampleDecodeError, match=message):
            decode_untyped(RawSample("k", 0, {"npz": payload}))


@pytest.mark.parametrize("extension", ["npy", "npz", "json", "cls", "txt", "mp", "json.gz", "npy.gz"])
@given(data=st.data())
def test_damage_ends_in_an_error_of_ours_or_in_a_value(extension: str, data: st.DataObject) -> None:
    good = {
        "npy": npy(np.eye(3)), "npz": npz(a=np.eye(3), b=np.array(["x"])), "json": json.dumps({"a": [1, 2.5]}).encode(),
        "cls": b"12", "txt": "größe".encode(), "mp": msgspec.msgpack.encode({"a": [1, b"x", None]}),
        "json.gz": gzip.compress(b"{}", mtime=0), "npy.gz": gzip.compress(npy(np.eye(3)), mtime=0),
    }[extension]  # fmt: skip
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    sample = RawSample("k", 0, {extension: bytes(damaged)})
    try:
        assert list(decode_untyped(sample)) == [extension]
    except SampleDecodeError as error:
        assert error.field is not None  # noqa: PT017
        assert error.field.startswith(extension)  # noqa: PT017


def test_damaged_images_end_in_an_error_of_ours_or_in_pixels() -> None:
    randomly = random.Random(0)
    for format in ("png", "jpeg", "gif", "webp", "bmp", "tiff", "ppm"):
        good = Image.encode(PIXELS, format).data
        for _ in range(60):
            damaged = bytearray(good)
            for _ in range(randomly.randint(1, 5)):
                damaged[randomly.randrange(4, len(damaged))] = randomly.randrange(256)
            try:
                assert isinstance(read_field(NDArray, "png", bytes(damaged)), np.ndarray)
            except SampleDecodeError as error:
                assert "One.png" in error.message  # noqa: PT017
