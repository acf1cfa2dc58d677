"""The real `webdataset` package reads what we write, and we read what it writes."""

from __future__ import annotations

import gc
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import uuid
import warnings
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgpack
import numpy as np
import ormsgpack
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import atdata
from atdata.samples.arrays import array_from_bytes, array_to_bytes
from atdata.samples.packable import equal_values
from atdata.testing import samples


@atdata.packable
class Inner:
    x: float
    tag: str


@atdata.packable
class Wire:
    """Field types whose bytes the public implementation fixes, and those we add to them."""

    text: str
    whole: int
    real: float
    truth: bool
    raw: bytes
    nothing: None
    array: NDArray[np.float32]
    any_array: np.ndarray[Any, Any]
    maybe_array: NDArray[np.int64] | None
    maybe_text: str | None
    items: list[int]
    pair: tuple[int, str]
    table: dict[str, float]
    when: datetime
    inner: Inner
    inners: list[Inner]


def upstream(url: str) -> list[dict[str, Any]]:
    """The samples as the real package gives them, before any decoding."""
    return read_all(webdataset.WebDataset(url, shardshuffle=False))


def read_all(pipeline: Any) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the package leaves its files to the garbage collector
        found = list(pipeline)
        del pipeline
        gc.collect()
    return found


def plain(value: Any) -> Any:
    """The value as a reader without our classes sees it."""
    if isinstance(value, np.ndarray):
        return array_to_bytes(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Inner):
        return {"x": value.x, "tag": value.tag}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def same(a: Any, b: Any) -> bool:
    return equal_values(a, b) and type(a) is type(b)


# -- ours, read by others ------------------------------------------------------------------------------------


@pytest.mark.slow
@given(values=st.lists(samples(Wire), min_size=1, max_size=4), maxcount=st.integers(1, 3))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_upstream_reads_what_we_write(values: list[Wire], maxcount: int) -> None:
    fields = list(Wire.__annotations__)
    with tempfile.TemporaryDirectory() as root:
        store = atdata.LocalDiskStore(root)
        urls = store.write_shards(atdata.Dataset.from_samples(values, Wire), prefix="w", maxcount=maxcount)
        got = [sample for url in urls for sample in upstream(store.read_url(url))]
        assert [s["__key__"] for s in got] == [f"{i:09d}" for i in range(len(values))]
        for sample, value in zip(got, values, strict=True):
            assert sample["msgpack"] == value.packed
            for decode in (ormsgpack.unpackb, msgpack.unpackb):
                found = decode(sample["msgpack"])
                assert list(found) == fields
                for field in fields:
                    assert same(found[field], plain(getattr(value, field))), field
            array = ormsgpack.unpackb(sample["msgpack"])["array"]
            assert equal_values(array_from_bytes(array), value.array)
        # tarfile sees plain ustar: no mtime, no owner, no extension headers, one member for each sample.
        for url in urls:
            with tarfile.open(url) as archive:
                for member in archive:
                    assert (member.mtime, member.uid, member.gid, member.pax_headers) == (0, 0, 0, {})
                    assert member.isreg()


def test_gnu_tar_and_tarfile_read_what_we_write(tmp_path: Path) -> None:
    names = ["plain", "deep/er/name", "ünï-☃", "x" * 150, "long/" * 60 + "y", "with space"]
    rows = [atdata.DictSample(i=i, a=np.arange(i)) for i in range(len(names))]
    keys = iter(names)
    store = atdata.LocalDiskStore(tmp_path)
    urls = store.write_shards(
        atdata.Dataset.from_samples(rows, atdata.DictSample, key=lambda _: next(keys)), prefix="n"
    )
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xf", urls[0], "-C", out], check=True, capture_output=True)
    for name, row in zip(names, rows, strict=True):
        assert (out / f"{name}.msgpack").read_bytes() == row.packed
    listing = subprocess.run(
        ["tar", "--quoting-style=literal", "-tf", urls[0]], check=True, capture_output=True
    ).stdout.decode()
    assert listing.splitlines() == [f"{name}.msgpack" for name in names]
    with tarfile.open(urls[0]) as archive:
        assert archive.getnames() == [f"{name}.msgpack" for name in names]
    assert [s["__key__"] for s in upstream(urls[0])] == names
    assert [key for key, _ in atdata.Dataset(urls).keyed()] == names


def test_the_same_samples_give_the_same_bytes_everywhere(tmp_path: Path) -> None:
    ds = [Wire("t", 1, 0.5, True, b"r", None, np.ones(2, np.float32), np.eye(2), None, "m", [1], (1, "p"), {"k": 0.5},
               datetime(2026, 1, 1), Inner(1.0, "i"), []) for _ in range(20)]  # fmt: skip
    contents = set()
    for name in ("a", "b"):
        urls = atdata.LocalDiskStore(tmp_path / name).write_shards(atdata.Dataset.from_samples(ds, Wire), prefix="p")
        contents.add(Path(urls[0]).read_bytes())
    assert len(contents) == 1


def test_pipelines_of_the_real_package_go_on_working(tmp_path: Path) -> None:
    values = [atdata.DictSample(i=i) for i in range(20)]
    urls = atdata.LocalDiskStore(tmp_path).write_shards(
        atdata.Dataset.from_samples(values, atdata.DictSample), prefix="p", maxcount=6
    )
    pattern = str(Path(urls[0]).parent / "shard-{000000..000003}.tar")
    pipeline = webdataset.WebDataset(pattern, shardshuffle=False).map_dict(msgpack=msgpack.unpackb)
    pipeline = pipeline.to_tuple("__key__", "msgpack")
    assert [row["i"] for _, row in read_all(pipeline)] == list(range(20))


# -- theirs, read by us --------------------------------------------------------------------------------------


def upstream_key() -> str:
    return str(uuid.uuid1(0, 0))


@atdata.packable
class Row:
    image: NDArray[np.uint8]
    label: str
    conf: float
    extra: NDArray[np.float64] | None = None


def row_payload(i: int) -> bytes:
    packed: bytes = msgpack.packb(
        {
            "image": array_to_bytes(np.full((2, 3), i, np.uint8)),
            "label": f"l{i}",
            "conf": i / 2,
            "extra": None if i % 2 else array_to_bytes(np.arange(i, dtype=np.float64)),
        }
    )
    return packed


@pytest.mark.slow
@given(values=st.lists(samples(Wire), min_size=1, max_size=4))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_we_read_what_upstream_writes(values: list[Wire]) -> None:
    with tempfile.TemporaryDirectory() as root:
        path = f"{root}/up.tar"
        keys = [upstream_key() for _ in values]
        with webdataset.TarWriter(path) as sink:
            for key, value in zip(keys, values, strict=True):
                packed = msgpack.packb({name: plain(getattr(value, name)) for name in Wire.__annotations__})
                sink.write({"__key__": key, "msgpack": packed})
        ds = atdata.Dataset[Wire](path)
        assert list(ds) == values
        assert [key for key, _ in ds.keyed()] == keys
        assert ds.get(keys[-1]) == values[-1]
        assert [s for b in ds.ordered(batch_size=2) for s in b] == values
        assert [ds[i] for i in range(len(ds))] == values
        assert [s["whole"] for s in atdata.Dataset(path)] == [v.whole for v in values]


def test_float_mtimes_and_their_pax_headers(tmp_path: Path) -> None:
    path = tmp_path / "up.tar"
    with webdataset.TarWriter(str(path)) as sink:
        for i in range(30):
            sink.write({"__key__": upstream_key(), "msgpack": row_payload(i)})
    with tarfile.open(path) as archive:
        first = archive.next()
    assert first is not None
    assert "mtime" in first.pax_headers  # or this tests nothing
    ds = atdata.Dataset[Row](path)
    assert [s.label for s in ds] == [f"l{i}" for i in range(30)]
    assert ds[17].image.tolist() == [[17] * 3] * 2
    assert ds[4].extra is not None
    assert ds[4].extra.tolist() == [0, 1, 2, 3]
    batch = next(iter(ds.ordered(batch_size=30)))
    assert batch.image.shape == (30, 2, 3)
    assert batch.conf == [i / 2 for i in range(30)]
    untyped = atdata.Dataset(path)[6]
    assert untyped.image.dtype == np.uint8
    assert untyped.extra.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_shard_writer(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = str(tmp_path / f"data--{uuid.uuid4()}--%06d.{suffix}")
    with webdataset.ShardWriter(pattern, maxcount=7, verbose=0) as sink:
        for i in range(20):
            sink.write({"__key__": upstream_key(), "msgpack": row_payload(i)})
    ds = atdata.Dataset[Row](str(tmp_path / f"data--*.{suffix}"))
    assert [s.conf for s in ds] == [i / 2 for i in range(20)]
    assert len(ds) == 20
    braces = (pattern % 0).replace("000000", "{000000..000002}")
    assert [s.label for s in atdata.Dataset[Row](braces)][-1] == "l19"


def test_our_as_wds_through_their_writer(tmp_path: Path) -> None:
    path = tmp_path / "wds.tar"
    values = [Row(np.full((1, 2), i, np.uint8), f"l{i}", 0.5) for i in range(5)]
    with webdataset.TarWriter(str(path)) as sink:
        for value in values:
            sink.write(value.as_wds)  # type: ignore[attr-defined]
    assert list(atdata.Dataset[Row](path)) == values


def test_a_shard_that_went_through_both(tmp_path: Path) -> None:
    """Upstream writes, we read and write, upstream reads: keys and bytes stay."""
    path = tmp_path / "up.tar"
    with webdataset.TarWriter(str(path)) as sink:
        for i in range(8):
            sink.write({"__key__": f"dir/{i:03d}", "msgpack": row_payload(i)})
    urls = atdata.LocalDiskStore(tmp_path).write_shards(atdata.Dataset[Row](path), prefix="again")
    again = upstream(urls[0])
    assert [(s["__key__"], s["msgpack"]) for s in again] == [(f"dir/{i:03d}", row_payload(i)) for i in range(8)]
    assert Path(urls[0]).stat().st_size < path.stat().st_size


# -- samples of several members ------------------------------------------------------------------------------


def picture(i: int) -> NDArray[np.uint8]:
    return np.full((4, 5, 3), i * 20, np.uint8)


@pytest.fixture
def multi(tmp_path: Path) -> Path:
    path = tmp_path / "multi.tar"
    with webdataset.TarWriter(str(path)) as sink:
        for i in range(6):
            sink.write(
                {
                    "__key__": f"part{i % 2}/sample-{i:03d}",
                    "png": picture(i),
                    "cls": i,
                    "json": {"caption": f"c{i}", "sizes": [i, 2]},
                    "txt": f"text {i} ☃",
                    "npy": np.arange(i, dtype=np.float32),
                    "weights.npz": {"a": np.eye(2) * i, "b": np.zeros(i, np.int8)},
                    "bin": b"\x00\xff",
                    "msgpack2.mp": {"k": [1, None]},
                }
            )
    return path


@atdata.packable
class Meta:
    caption: str
    sizes: list[int]


@atdata.packable
class Multi:
    png: atdata.Image
    cls: int
    json: Meta
    txt: str
    npy: NDArray[np.float32]
    weights_npz: dict[str, NDArray[Any]]
    bin: bytes
    msgpack2_mp: Any
    missing: str = "default"


def test_members_as_a_typed_sample(multi: Path) -> None:
    ds = atdata.Dataset[Multi](multi)
    assert len(ds) == 6
    for i, sample in enumerate(ds):
        assert sample == ds[i]
        assert np.array_equal(sample.png.decode(), picture(i))
        assert (sample.cls, sample.txt, sample.bin, sample.missing) == (i, f"text {i} ☃", b"\x00\xff", "default")
        assert sample.json == Meta(f"c{i}", [i, 2])
        assert sample.npy.tolist() == list(range(i))
        assert sample.npy.dtype == np.float32
        assert sample.weights_npz["a"].tolist() == (np.eye(2) * i).tolist()
        assert sample.msgpack2_mp == {"k": [1, None]}
    batch = next(iter(ds.ordered(batch_size=6)))
    assert batch.cls == list(range(6))
    assert [p.format for p in batch.png] == ["png"] * 6
    assert ds.get("part1/sample-003").cls == 3


@atdata.packable
class Pixels:
    png: Annotated[NDArray[np.uint8], atdata.Shape("h", "w", 3)]
    cls: int
    json: dict[str, Any]
    txt: bytes
    npy: Any
    weights_npz: Any
    bin: bytes
    msgpack2_mp: dict[str, list[int | None]]


def test_members_by_what_the_type_declares(multi: Path) -> None:
    batch = next(iter(atdata.Dataset[Pixels](multi).ordered(batch_size=6)))
    assert batch.png.shape == (6, 4, 5, 3)
    assert batch.png[3, 0, 0, 0] == 60
    assert batch.txt[2] == "text 2 ☃".encode()
    assert batch.json[1] == {"caption": "c1", "sizes": [1, 2]}
    assert batch.msgpack2_mp == [{"k": [1, None]}] * 6


def test_members_as_a_mapping(multi: Path) -> None:
    for i, sample in enumerate(atdata.Dataset(multi)):
        assert list(sample) == ["png", "cls", "json", "txt", "npy", "weights.npz", "bin", "msgpack2.mp"] or set(
            sample
        ) == {"png", "cls", "json", "txt", "npy", "weights.npz", "bin", "msgpack2.mp"}
        assert isinstance(sample["png"], atdata.Image)
        assert sample.cls == i
        assert sample.json["caption"] == f"c{i}"
        assert sample.npy.tolist() == list(range(i))
        assert sample["weights.npz"]["b"].dtype == np.int8
        assert sample.bin == b"\x00\xff"


def test_selected_members(multi: Path) -> None:
    only = atdata.Dataset[Multi](multi).select_fields("cls", "txt")
    assert [(s.cls, s.txt) for s in only] == [(i, f"text {i} ☃") for i in range(6)]
    assert not hasattr(only[2], "png")


def test_our_samples_of_members_are_rewritten_as_one(multi: Path, tmp_path: Path) -> None:
    ds = atdata.Dataset[Multi](multi)
    urls = atdata.LocalDiskStore(tmp_path).write_shards(ds, prefix="one")
    back = atdata.Dataset(urls)
    assert [key for key, _ in back.keyed()] == [f"part{i % 2}/sample-{i:03d}" for i in range(6)]
    assert [s.packed for s in back] == [s.packed for s in ds]  # type: ignore[attr-defined]


def test_a_member_of_the_wrong_kind_names_field_key_and_place(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    with webdataset.TarWriter(str(path)) as sink:
        sink.write({"__key__": "one", "txt": "x", "cls": 1})
        sink.write({"__key__": "two", "txt": "x", "cls": "not a number"})

    @atdata.packable
    class Pair:
        txt: str
        cls: int

    with pytest.raises(atdata.errors.SampleDecodeError, match=r"Pair\.cls: expected int") as caught:
        list(atdata.Dataset[Pair](path))
    error = caught.value
    assert (error.url, error.key, error.field) == (str(path), "two", "Pair.cls")
    assert isinstance(error.offset, int)

    @atdata.packable
    class Less:
        txt: str

    with pytest.raises(atdata.errors.SampleDecodeError, match=r"Less\.cls: is not a field"):
        list(atdata.Dataset[Less](path))

    @atdata.packable
    class Jpg:
        txt: str
        cls: int
        jpg: atdata.Image

    with pytest.raises(atdata.errors.SampleDecodeError, match=r"Jpg\.jpg: missing"):
        list(atdata.Dataset[Jpg](path))


def test_files_put_into_a_tar_by_hand(tmp_path: Path) -> None:
    """GNU tar over a folder, with the clutter folders have."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for i in range(3):
        PIL.Image.fromarray(picture(i)).save(folder / "sub" / f"{i}.JPG", format="jpeg")
        (folder / "sub" / f"{i}.cls").write_text(f"{i}\n")
    for clutter in ("README", ".hidden.txt", "sub/.DS_Store.x", "__meta__/a.json", "sub/._0.jpg"):
        (folder / clutter).parent.mkdir(exist_ok=True)
        (folder / clutter).write_text("clutter")

    @atdata.packable
    class Pair:
        jpg: atdata.Image
        cls: int

    for number, option in enumerate(["gnu", "pax", "ustar", "v7"]):
        path = tmp_path / f"{number}.tar"
        subprocess.run(
            ["tar", f"--format={option}", "--sort=name", "-cf", path, "README", ".hidden.txt", "__meta__", "sub"],
            cwd=folder, check=True,
        )  # fmt: skip
        got = list(atdata.Dataset[Pair](path))
        assert [s.cls for s in got] == [0, 1, 2]
        assert [s.jpg.decode().shape for s in got] == [(4, 5, 3)] * 3
        assert [key for key, _ in atdata.Dataset[Pair](path).keyed()] == ["sub/0", "sub/1", "sub/2"]


# -- manifests of others -------------------------------------------------------------------------------------


def upstream_manifest(shard: Path, rows: int, *, columns: bool = True, shard_id: str = "other") -> None:
    """What the public implementation (0.7.0b1) writes: offsets that are none, names of other shards, empty files."""
    stem = str(shard).removesuffix(".tar")
    header = {
        "manifest_version": "1.0.0", "shard_id": shard_id, "schema_type": "Row", "schema_version": "1.0.0",
        "num_samples": rows, "size_bytes": rows * 93, "created_at": "2026-01-01T00:00:00+00:00",
        "aggregates": {"conf": {"type": "numeric", "min": float("inf"), "max": float("-inf"), "mean": 0, "count": 0}},
    }  # fmt: skip
    Path(f"{stem}.manifest.json").write_text(json.dumps(header, indent=2))
    table = pa.table(
        {
            "__key__": [upstream_key() for _ in range(rows)],
            "__offset__": [i * 93 for i in range(rows)],
            "__size__": [93] * rows,
            "label": ["WRONG"] * rows,
            "conf": [99.0] * rows,
        }
        if columns
        else {}
    )
    pq.write_table(table, f"{stem}.manifest.parquet", compression="snappy")


@pytest.mark.parametrize(("rows", "columns"), [(10, True), (0, False), (3, True), (10_000, True)])
def test_manifests_of_others_do_no_harm(tmp_path: Path, rows: int, columns: bool) -> None:
    shards = []
    for number in range(2):
        path = tmp_path / f"v1.5-run-{number:06d}.tar"
        with webdataset.TarWriter(str(path)) as sink:
            for i in range(10):
                sink.write({"__key__": upstream_key(), "msgpack": row_payload(number * 10 + i)})
        upstream_manifest(path, rows, columns=columns)
        shards.append(path)
    ds = atdata.Dataset[Row](shards)
    assert len(ds) == 20
    assert [s.label for s in ds] == [f"l{i}" for i in range(20)]
    assert ds[13].label == "l13"
    assert [c for b in ds.ordered(batch_size=7) for c in b.conf] == [i / 2 for i in range(20)]


def test_a_header_without_its_parquet_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path)) as sink:
        sink.write({"__key__": "k", "msgpack": row_payload(1)})
    upstream_manifest(path, 5)
    Path(tmp_path / "a.manifest.parquet").unlink()
    assert [s.label for s in atdata.Dataset[Row](path)] == ["l1"]


# -- vectors of the public implementation ----------------------------------------------------------------------


@atdata.packable
class A:
    image: NDArray[Any]
    label: str
    conf: float


VECTOR = bytes.fromhex(
    "83a5696d616765c42d033c66340202000000000000000300000000000000000000000000803f"
    "0000004000004040000080400000a040a56c6162656ca178a4636f6e66cb3fe0000000000000"
)


def test_the_sample_vector(tmp_path: Path) -> None:
    value = A(np.arange(6, dtype=np.float32).reshape(2, 3), "x", 0.5)
    assert value.packed == VECTOR  # type: ignore[attr-defined]
    path = tmp_path / "v.tar"
    with webdataset.TarWriter(str(path)) as sink:
        sink.write({"__key__": upstream_key(), "msgpack": VECTOR})
    assert list(atdata.Dataset[A](path)) == [value]
    urls = atdata.LocalDiskStore(tmp_path).write_shards(atdata.Dataset.from_samples([value], A), prefix="v")
    assert upstream(urls[0])[0]["msgpack"] == VECTOR


@pytest.mark.parametrize(
    ("text", "array"),
    [
        ("033c6638000000000000000c40", np.array(3.5)),
        ("033c69340200000000000000000300000000000000", np.zeros((0, 3), np.int32)),
        ("033c553201020000000000000061000000620000006300000000000000", np.array(["ab", "c"])),
        ("037c62310102000000000000000100", np.array([True, False])),
        ("033e6932010300000000000000000000010002", np.array([0, 1, 2], ">i2")),
    ],
)
def test_the_array_vectors(tmp_path: Path, text: str, array: NDArray[Any]) -> None:
    payload = msgpack.packb({"image": bytes.fromhex(text), "label": "", "conf": 0.0})
    assert A(array, "", 0.0).packed == payload  # type: ignore[attr-defined]
    path = tmp_path / "v.tar"
    with webdataset.TarWriter(str(path)) as sink:
        sink.write({"__key__": "k", "msgpack": payload})
    typed, untyped = atdata.Dataset[A](path)[0], atdata.Dataset(path)[0]
    assert equal_values(typed.image, array)
    assert equal_values(untyped["image"], array)


def test_legacy_npy_arrays_are_read(tmp_path: Path) -> None:
    out = io.BytesIO()
    np.save(out, np.arange(4, dtype=">u2"))
    path = tmp_path / "v.tar"
    with webdataset.TarWriter(str(path)) as sink:
        sink.write({"__key__": "k", "msgpack": msgpack.packb({"image": out.getvalue(), "label": "", "conf": 0.0})})
    assert atdata.Dataset[A](path)[0].image.tolist() == [0, 1, 2, 3]
    assert atdata.Dataset(path)[0]["image"].tolist() == [0, 1, 2, 3]
    shutil.rmtree(tmp_path)
