"""Manifests for shards that are there already."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from atdata.errors import (
    AtdataError,
    DatasetExistsError,
    DatasetNotFoundError,
    IntegrityError,
    SampleTypeError,
    ShardFormatError,
    StoreError,
)
from atdata.samples.dictsample import DictSample
from atdata.samples.schema import Schema
from atdata.shards.compression import compression
from atdata.shards.grouping import RawSample, group
from atdata.shards.manifest import Manifest, header_name, manifest_name
from atdata.shards.manifest_file import to_header, to_parquet
from atdata.shards.members import decoder
from atdata.shards.tar import StreamSource, walk
from atdata.shards.writer import encoder
from atdata.stores.base import StoredObject
from atdata.stores.claims import Claim
from atdata.stores.disk import _DiskSink, _errors, _locked, _sync
from atdata.stores.hashing import Hashing
from atdata.stores.http import public_url
from atdata.stores.opening import Opening
from atdata.stores.record import RECORD_NAME, CommitRecord, ManifestInfo, ShardInfo

__all__ = ["BuiltManifest", "build_manifest", "build_manifests", "manifest_of"]

# Puts a file of that name beside a shard, whole or not at all.
_Put = Callable[[str, bytes], None]


class BuiltManifest(NamedTuple):
    """A manifest that was written: its place, the samples it lists, its size in bytes, and the fields it describes."""

    path: str
    samples: int
    size: int
    fields: list[str]


def build_manifest(
    shard: str | os.PathLike[str], sample_type: type = DictSample, *, force: bool = False
) -> BuiltManifest:
    """Write the manifest (and its JSON header) beside a shard that has none.

    Args:
        shard: path or URL of a plain tar file, each of whose samples is one `.msgpack` member.
        sample_type: the class of the samples. With `DictSample` the manifest has keys, offsets, sizes and digests, and
            no columns for fields; the same where a sample is not, byte for byte, what atdata would write for it.
        force: replace a manifest that is there.

    Raises:
        DatasetExistsError: there is a manifest already, and `force` was not given.
        ShardFormatError: the shard is compressed, malformed, or has samples of several members.
        SampleDecodeError: a sample is not of that type.
        IntegrityError: the folder's commit record says something else of the shard, or of its manifest.
        CommitRecordError: the folder's commit record cannot be trusted.
        StoreBusyError: a writer is at work in the folder.
        StoreError: nothing can be written there.
    """
    (_, made), *_ = build_manifests([(os.fspath(shard), sample_type)], force=force)
    if isinstance(made, AtdataError):
        raise made
    return made


def build_manifests(
    shards: Iterable[tuple[str, type]], *, opening: Opening | None = None, force: bool = False
) -> Iterator[tuple[str, BuiltManifest | AtdataError]]:
    """Write the manifests of many shards; for each, in order, what `build_manifest` would return or raise.

    A commit record that names no manifests is replaced by one that does: readers far away ask for no others.

    Args:
        shards: path or URL of each, and the class of its samples.
        opening: how the URLs are opened; by default by what they are, with the usual credentials.
        force: replace manifests that are there.
    """
    opening = opening or Opening()
    for _, neighbours in itertools.groupby(shards, lambda shard: shard[0].rpartition("/")[0]):
        left = list(neighbours)
        try:
            with _writing(left[0][0], opening) as put:
                record = _record(left[0][0], opening)
                named: dict[str, ManifestInfo] = {}
                while left:
                    url, sample_type = left[0]
                    made: BuiltManifest | AtdataError
                    try:
                        made, named[_name(url)] = _build(url, sample_type, record, opening, put, force)
                    except AtdataError as error:
                        made = error.at(url=public_url(url))
                    left.pop(0)
                    yield url, made
                if record is not None:
                    _name_manifests(record, named, put)
        except AtdataError as error:
            if not left:
                raise
            for url, _ in left:  # the folder is what they have in common
                yield url, error


def manifest_of(hashing: Hashing, sample_type: type) -> Manifest:
    """The manifest of a shard, which is read to its end.

    Args:
        hashing: the uncompressed archive.
        sample_type: the class of its samples.

    Raises:
        ShardFormatError: the archive is malformed, or has samples of several members.
        SampleDecodeError: a sample is not of that type.
    """
    described = not issubclass(sample_type, DictSample)
    made = encoder(sample_type)
    decode = decoder(sample_type)
    builder = made.builder()
    for raw in _single(group(walk(StreamSource(hashing.reader())))):
        payload = raw.parts["msgpack"]
        sample = decode(raw)
        if described:
            try:
                again, values, where, kinds = made.encode(sample)
            except SampleTypeError:  # a class whose `__post_init__` changes what was stored
                again = b""
            # What is encoded to the same bytes has its fields where the encoder says they are.
            described = again == payload
            if described:
                builder.add(values, where, kinds)
            else:
                builder.forget_fields()
        builder.locate([raw.key], np.array([raw.offset], np.int64), [bytes(payload)])
    sha256 = hashing.finish()
    return builder.finish(hashing.size, sha256)


def _single(samples: Iterator[RawSample]) -> Iterator[RawSample]:
    for raw in samples:
        if list(raw.parts) != ["msgpack"]:
            there = ", ".join(f".{extension}" for extension in raw.parts)
            raise ShardFormatError(
                "a manifest describes shards whose samples are one .msgpack member each; this sample has "
                f"{there}. It is read without a manifest; to have one, write the dataset anew with write_shards",
                key=raw.key,
                offset=raw.offset,
            )
        yield raw


def _build(
    url: str, sample_type: type, record: CommitRecord | None, opening: Opening, put: _Put, force: bool
) -> tuple[BuiltManifest, ManifestInfo]:
    shard = _name(url)
    name = manifest_name(shard)
    if name is None:
        raise ShardFormatError(
            "only a plain .tar can have a manifest: offsets mean nothing in a compressed archive. Unpack it first"
        )
    beside = opening.beside(url, name) or name
    if not force:
        for there in (name, header_name(shard)):
            if _exists(opening.beside(url, there) or there, opening):
                raise DatasetExistsError(f"{there} is there already; --force (force=True) replaces it")
    info = next((s for s in record.shards if s.name == shard), None) if record is not None else None
    try:
        manifest = _made(opening.open(url), sample_type, info)
    except AtdataError:
        if opening.path(url) is not None:
            raise
        manifest = _made(opening.open(url), sample_type, info)  # it may have been damaged on the way
    parquet = to_parquet(manifest)
    written = ManifestInfo(len(parquet), hashlib.sha256(parquet).hexdigest())
    _check_record(info, written, beside)
    kind, version = _kind(sample_type, record if info is not None else None)
    header = to_header(manifest, shard_id=shard.removesuffix(".tar"), schema_type=kind, schema_version=version)
    put(header_name(shard), header)
    put(name, parquet)
    fields = [*manifest.scalar_fields, *manifest.array_fields]
    return BuiltManifest(beside, len(manifest), len(parquet), fields), written


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def _exists(url: str, opening: Opening) -> bool:
    try:
        return opening.open(url).size >= 0
    except DatasetNotFoundError:
        return False


def _made(file: StoredObject, sample_type: type, info: ShardInfo | None) -> Manifest:
    """The manifest of a shard whose bytes are those that its record names."""
    if compression(file.read(0, min(10, file.size))) is not None:
        raise ShardFormatError(
            "the archive is compressed, whatever its name says; offsets mean nothing in it. Unpack it first"
        )
    with Hashing(file) as hashing:
        manifest = wrong = None
        try:
            manifest = manifest_of(hashing, sample_type)
        except AtdataError as error:
            wrong = error
        got = hashing.finish()
    if info is not None and info.sha256 != got:
        raise IntegrityError(
            "the shard's bytes are not those that its commit record names (SHA-256 differs), so no manifest is "
            "made of them; `atdata verify` says what is damaged",
            expected=info.sha256,
            got=got,
        )
    if manifest is None:
        assert wrong is not None
        raise wrong
    return manifest


def _record(shard: str, opening: Opening) -> CommitRecord | None:
    """The commit record beside a shard."""
    url = opening.beside(shard, RECORD_NAME)
    data = None if url is None else opening.read(url)
    return None if data is None else CommitRecord.from_bytes(data, url=url)


def _check_record(info: ShardInfo | None, written: ManifestInfo, url: str) -> None:
    if info is not None and info.manifest is not None and info.manifest.sha256 != written.sha256:
        raise IntegrityError(
            "the commit record names the manifest by its digest, and the one built now has another: the versions of "
            "atdata or pyarrow that wrote it encode differently. Nothing was changed. The dataset is read without "
            "the manifest, too; to have manifests again, write it anew with write_shards",
            url=url,
            expected=info.manifest.sha256,
            got=written.sha256,
        )


def _name_manifests(record: CommitRecord, named: Mapping[str, ManifestInfo], put: _Put) -> None:
    """Have the record name the manifests that it does not name yet."""
    shards = tuple(
        msgspec.structs.replace(shard, manifest=shard.manifest or named.get(shard.name)) for shard in record.shards
    )
    if shards != record.shards:
        put(RECORD_NAME, CommitRecord(record.schema, shards).to_bytes())


def _kind(sample_type: type, record: CommitRecord | None) -> tuple[str, str]:
    if record is not None and record.schema is not None:
        return record.schema.name, record.schema.version
    if issubclass(sample_type, DictSample):
        return "DictSample", "1.0.0"
    schema = Schema.of(sample_type)
    return schema.name, schema.version


@contextlib.contextmanager
def _writing(shard: str, opening: Opening) -> Iterator[_Put]:
    """The right to write beside a shard."""
    path, store = opening.path(shard), opening.object_store(shard)
    if path is not None:
        if not path.is_file():
            raise DatasetNotFoundError("there is no such file", url=shard)
        folder = path.absolute().parent
        with _errors(path), _locked(folder):
            yield lambda name, data: _replace(folder / name, data)
        return
    if store is None:
        what = "blobs are" if shard.startswith("at://") else "web servers are"
        raise StoreError(
            f"{what} read, not written: copy the shards to where you may write (`atdata cp`), and build their "
            "manifests there",
            url=public_url(shard),
        )
    prefix = store.key(shard).rpartition("/")[0] + "/"
    claim = Claim(store, prefix)

    def put(name: str, data: bytes) -> None:
        claim.renew()
        store.put(prefix + name, data)

    try:
        yield put
    finally:
        if claim.took_over:
            claim.suspend()  # what an unfinished write left is still to be resumed, or removed
        else:
            claim.release()


def _replace(path: Path, data: bytes) -> None:
    """Put a file there whole, or not at all."""
    temporary = path.with_name(f".atdata-manifest-{uuid.uuid4().hex[:8]}")
    sink = _DiskSink(temporary)
    try:
        sink.write(data)
        sink.close()
        os.replace(temporary, path)
    except BaseException:
        sink.abort()
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync(path.parent)
