"""Manifests for shards that are there already."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atdata.errors import (
    AtdataError,
    DatasetExistsError,
    IntegrityError,
    SampleTypeError,
    ShardFormatError,
)
from atdata.samples.dictsample import DictSample
from atdata.samples.schema import Schema
from atdata.shards.compression import compression
from atdata.shards.grouping import RawSample, group
from atdata.shards.manifest import Manifest, ManifestBuilder, header_name, manifest_name, to_header, to_parquet
from atdata.shards.members import decoder
from atdata.shards.tar import BufferSource, walk
from atdata.shards.writer import encoder
from atdata.stores.disk import LocalObject, _DiskSink, _errors, _locked, _sync
from atdata.stores.record import RECORD_NAME, CommitRecord, ShardInfo

__all__ = ["BuiltManifest", "build_manifest", "manifest_of"]


class BuiltManifest(NamedTuple):
    """A manifest that was written: its path, the samples it lists, its size in bytes, and the fields it describes."""

    path: str
    samples: int
    size: int
    fields: list[str]


def build_manifest(
    shard_path: str | os.PathLike[str], sample_type: type = DictSample, *, force: bool = False
) -> BuiltManifest:
    """Write the manifest (and its JSON header) beside a shard that has none.

    Args:
        shard_path: a plain tar file on the local disk, each of whose samples is one `.msgpack` member.
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
    """
    path = Path(shard_path).absolute()
    name = manifest_name(path.name)
    if name is None:
        raise ShardFormatError(
            "only a plain .tar can have a manifest: offsets mean nothing in a compressed archive. Unpack it first",
            url=str(path),
        )
    with LocalObject(path) as file, _errors(path), _locked(path.parent):
        if not force:
            for there in (name, header_name(path.name)):
                if (path.parent / there).exists():
                    raise DatasetExistsError(
                        f"{there} is there already; --force (force=True) replaces it", url=str(path)
                    )
        record = _record(path.parent)
        info = next((s for s in record.shards if s.name == path.name), None) if record is not None else None
        if compression(file.read(0, min(10, file.size))) is not None:
            raise ShardFormatError(
                "the archive is compressed, whatever its name says; offsets mean nothing in it. Unpack it first",
                url=str(path),
            )
        with file.stream() as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        if info is not None and info.sha256 != sha256:
            raise IntegrityError(
                "the shard's bytes are not those that its commit record names (SHA-256 differs), so no manifest is "
                "made of them; `atdata verify` says what is damaged",
                url=str(path),
                expected=info.sha256,
                got=sha256,
            )
        try:
            manifest = manifest_of(file.map(), sample_type, sha256)
        except AtdataError as error:
            raise error.at(url=str(path)) from None
        parquet = to_parquet(manifest)
        _check_record(info, parquet, str(path.parent / name))
        kind, version = _kind(sample_type, record if info is not None else None)
        header = to_header(manifest, shard_id=path.name.removesuffix(".tar"), schema_type=kind, schema_version=version)
        _replace(path.parent / header_name(path.name), header)
        _replace(path.parent / name, parquet)
    fields = [*manifest.scalar_fields, *manifest.array_fields]
    return BuiltManifest(str(path.parent / name), len(manifest), len(parquet), fields)


def manifest_of(buffer: memoryview, sample_type: type, sha256: str) -> Manifest:
    """The manifest of a shard in memory.

    Args:
        buffer: the whole uncompressed archive.
        sample_type: the class of its samples.
        sha256: of `buffer`, in hex.

    Raises:
        ShardFormatError: the archive is malformed, or has samples of several members.
        SampleDecodeError: a sample is not of that type.
    """
    keys, offsets, sizes, digests = [], array("q"), array("q"), []
    described = not issubclass(sample_type, DictSample)
    encode, scalars, arrays = encoder(sample_type)
    decode = decoder(sample_type)
    builder = ManifestBuilder(scalars, arrays)
    for raw in _single(group(walk(BufferSource(buffer)))):
        payload = raw.parts["msgpack"]
        keys.append(raw.key)
        offsets.append(raw.offset)
        sizes.append(len(payload))
        digests.append(hashlib.sha256(payload).digest())
        sample = decode(raw)
        if described:
            try:
                again, values, where, kinds = encode(sample)
            except SampleTypeError:  # a class whose `__post_init__` changes what was stored
                described = False
                continue
            # What is encoded to the same bytes has its fields where the encoder says they are.
            described = again == payload
            builder.add(values, where, kinds)
    if not described:
        builder = ManifestBuilder([], [])
    builder.locate(keys, np.array(offsets, np.int64), np.array(sizes, np.int64), digests)
    return builder.finish(len(buffer), sha256)


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


def _record(folder: Path) -> CommitRecord | None:
    path = folder / RECORD_NAME
    try:
        return CommitRecord.from_bytes(path.read_bytes(), url=str(path))
    except FileNotFoundError:
        return None


def _check_record(info: ShardInfo | None, parquet: bytes, url: str) -> None:
    if info is None or info.manifest is None:
        return
    got = hashlib.sha256(parquet).hexdigest()
    if got != info.manifest.sha256:
        raise IntegrityError(
            "the commit record names the manifest by its digest, and the one built now has another: the versions of "
            "atdata or pyarrow that wrote it encode differently. Nothing was changed. The dataset is read without "
            "the manifest, too; to have manifests again, write it anew with write_shards",
            url=url,
            expected=info.manifest.sha256,
            got=got,
        )


def _kind(sample_type: type, record: CommitRecord | None) -> tuple[str, str]:
    if record is not None and record.schema is not None:
        return record.schema.name, record.schema.version
    if issubclass(sample_type, DictSample):
        return "DictSample", "1.0.0"
    schema = Schema.of(sample_type)
    return schema.name, schema.version


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
