"""Writing one shard: samples to tar bytes and manifest rows, in one pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from atdata.errors import SampleTypeError, StoreError, UnsafeNameError
from atdata.samples import codec
from atdata.samples.codec import Field
from atdata.samples.dictsample import DictSample
from atdata.samples.encode import ArrayKind
from atdata.samples.fields import DateTime, EnumOf, FieldType, LiteralOf, OptionalOf, Primitive
from atdata.shards import tar
from atdata.shards.manifest import APART, Manifest
from atdata.shards.manifest_builder import ManifestBuilder

__all__ = ["Room", "SampleEncoder", "ShardWriter", "check_key", "default_key", "encoder"]

_CHUNK = 8 << 20
_LARGE = 16 << 10
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_\-]*", re.ASCII)
_LONGEST_END = 2 * tar.BLOCK + 20 * tar.BLOCK
_PADDING = [bytes(n) for n in range(tar.BLOCK)]


def default_key(number: int) -> str:
    """The key of the sample with that number in its dataset: nine digits, more when it needs them."""
    return "%09d" % number  # noqa: UP031  (half the time of an f-string with a width)


def check_key(key: str) -> str:
    """`key` when it can be the key of a sample.

    Raises:
        UnsafeNameError: readers would cut it (a dot in the last part), pass over it, or be led out of the archive.
    """
    if _PLAIN_KEY.fullmatch(key):
        if key.startswith("__") and key.endswith("__"):
            raise UnsafeNameError("keys like __this__ are passed over by readers of tar datasets", key=key)
        return key
    parts = key.split("/")
    if not key or len(key) > 4096 or any(not part or part in (".", "..") for part in parts):
        raise UnsafeNameError(
            "a key must be 1 to 4096 characters long, without empty parts, '.' or '..' between slashes", key=key
        )
    if "." in parts[-1]:
        raise UnsafeNameError("a key must not have a dot in its last part: readers split there", key=key)
    if any(ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF or c in "\\\x7f" for c in key):
        raise UnsafeNameError("a key must not have control characters, backslashes or lone surrogates", key=key)
    if re.match(r"__[^/]*__($|/)", key):
        raise UnsafeNameError("keys like __this__ are passed over by readers of tar datasets", key=key)
    return key


Encoded = tuple[bytes, tuple[Any, ...], list[int], list[ArrayKind | None]]


Numbered = tuple[int, tuple[str | None, Any]]


class Room(NamedTuple):
    """What one object of a store can hold.

    Attributes:
        shard: most bytes of a shard.
        manifest: most bytes of a manifest; None where none is written.
    """

    shard: int
    manifest: int | None


class SampleEncoder(NamedTuple):
    """How the samples of one type are encoded, and which of their fields a manifest describes."""

    encode: Callable[[Any], Encoded]
    scalars: Sequence[tuple[int, str, pa.DataType]] = ()
    arrays: Sequence[tuple[int, str]] = ()
    others: Sequence[tuple[int, str]] = ()
    spans: Callable[[bytes], list[tuple[int, int]]] | None = None

    def builder(self) -> ManifestBuilder:
        """What collects the manifest of one shard."""
        return ManifestBuilder(self.scalars, self.arrays, self.others, self.spans)


def encoder(sample_type: type) -> SampleEncoder:
    """The encoder for a packable class, or for `DictSample` (which takes any mapping)."""
    if issubclass(sample_type, DictSample):
        return SampleEncoder(_encode_mapping)
    plan = codec.plan(sample_type)
    scalars = [(i, f.name, kind) for i, f in enumerate(plan.fields) if (kind := _column_type(f)) is not None]
    arrays = [(i, f.name) for i, f in enumerate(plan.fields) if f.name in plan.array_fields]
    others = [(i, f.name) for i, f in enumerate(plan.fields) if f.name not in plan.array_fields and _may_be_large(f)]
    return SampleEncoder(plan.encode, scalars, arrays, others, plan.spans)


def _encode_mapping(sample: Any) -> Encoded:
    if not isinstance(sample, Mapping):
        raise SampleTypeError(f"expected a DictSample or another mapping, got {type(sample).__name__}")
    return (sample if isinstance(sample, DictSample) else DictSample(sample)).packed, (), [], []


_COLUMNS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _column_type(field: Field) -> pa.DataType | None:
    node: FieldType = field.type.inner if isinstance(field.type, OptionalOf) else field.type
    types: set[type] = set()
    match node:
        case Primitive():
            types = {node.type}
        case EnumOf():
            types = {type(member.value) for member in node.cls}
        case LiteralOf():
            types = {type(value) for value in node.values if value is not None}
        case DateTime():
            return pa.timestamp("us", "UTC")
    return _COLUMNS.get(types.pop()) if len(types) == 1 else None


def _too_large(key: str, size: int, room: int) -> StoreError:
    return StoreError(
        f"the sample makes a shard of {size} bytes, and this store takes at most {room} in one object: store it "
        "elsewhere, or cut its arrays into several samples",
        key=key,
    )


def _may_be_large(field: Field) -> bool:
    """Whether a field is one whose values may take many bytes, or do not stand in manifests as they are."""
    node: FieldType = field.type.inner if isinstance(field.type, OptionalOf) else field.type
    if isinstance(node, Primitive):
        return node.type in (str, bytes)
    return not isinstance(node, EnumOf | LiteralOf)


class ShardWriter:
    """Turns samples into the bytes of one shard.

    Args:
        write: called with each finished stretch of the archive, a few MiB in many pieces.
        encoder: from `encoder(sample_type)`.
    """

    def __init__(self, write: Callable[[list[bytes]], None], encoder: SampleEncoder) -> None:
        self._write = write
        self._encode = encoder.encode
        self._builder = encoder.builder()
        self._keys: set[str] = set()
        # What waits for the next stretch. Headers and digests are made for a whole stretch at once, which costs a
        # fraction of making them one by one.
        self._names: list[str] = []
        self._payloads: list[bytes] = []
        self._written = 0
        self.size = 0
        self.samples = 0

    def fill(
        self,
        samples: Iterator[Numbered],
        *,
        maxcount: int,
        maxsize: int,
        room: Room | None = None,
        advance: Callable[[], None] | None = None,
    ) -> Numbered | None:
        """Append samples until the shard is full or there are no more.

        Args:
            samples: each with its number in the dataset, and its key or None; at least one is taken.
            maxcount: most samples of the shard.
            maxsize: most bytes of the finished shard, unless its first sample is larger by itself.
            room: what a shard and its manifest may not exceed whatever the samples are; the shard ends before a sample
                with which the manifest might.
            advance: called after every sample.

        Returns:
            The first sample for the next shard; None when there are no more.

        Raises:
            SampleTypeError: a sample does not fit its type.
            UnsafeNameError: a key cannot be used, or is used already in this shard.
            StoreError: a sample is too large for the room there is.
        """
        # One loop with everything at hand: at small samples, calls are most of the time.
        encode, describe = self._encode, self._builder.add
        keys, names, payloads = self._keys, self._names, self._payloads
        block, close_to_full = tar.BLOCK, maxsize - _LONGEST_END
        filled, count, full_stretch = self.size, self.samples, self._written + _CHUNK
        beside_full = None if room is None else room.manifest
        beside = 0 if beside_full is None else min(self._builder.fixed_size, beside_full // 2)
        each, apart, most_text = self._builder.row_size, self._builder.apart_size, self._builder.most_text
        for item in samples:
            number, (given, sample) = item
            key = default_key(number) if given is None else check_key(given)
            if key in keys:
                raise UnsafeNameError("two samples have this key; keys must be unique in a dataset", key=key)
            try:
                payload, values, raw, kinds = encode(sample)
            except SampleTypeError as error:
                error.at(key=key)
                raise
            name = key + ".msgpack"
            length = len(payload)
            head = block if len(name) <= 100 and name.isascii() else len(tar.header(name, length))
            size = filled + head + length + -length % block
            if size > close_to_full and tar.archive_size(size) > maxsize:
                if count:
                    return item
                if room is not None and tar.archive_size(size) > room.shard:
                    raise _too_large(key, tar.archive_size(size), room.shard)
            if beside_full is not None:
                beside += each + len(key) + (length if length < most_text else most_text)
                beside += apart if length >= APART else 0
                if count and beside > beside_full:
                    return item
            keys.add(key)
            names.append(name)
            payloads.append(payload)
            describe(values, raw, kinds)
            self.size = filled = size
            count += 1
            self.samples = count
            if size >= full_stretch:
                self._flush(b"")
                full_stretch = size + _CHUNK
            if advance is not None:
                advance()
            if count >= maxcount:
                return next(samples, None)
        return None

    def _flush(self, end: bytes) -> None:
        payloads = self._payloads
        lengths = list(map(len, payloads))
        heads = tar.headers(self._names, lengths)
        parts: list[bytes] = []
        for head, payload, length in zip(heads, payloads, lengths, strict=True):
            parts += (head, payload, _PADDING[-length % tar.BLOCK])
        parts.append(end)
        sizes = np.array(lengths, np.int64)
        taken = np.fromiter(map(len, heads), np.int64, len(heads)) + sizes + -sizes % tar.BLOCK
        ends = self._written + np.cumsum(taken) - -sizes % tar.BLOCK
        self._builder.locate([name[:-8] for name in self._names], ends - sizes, payloads)
        # Large payloads stay as they are: a copy of them would cost as much as writing them.
        self._write(parts if self.size - self._written > _LARGE * len(parts) else [b"".join(parts)])
        payloads.clear()
        self._names.clear()
        self._written = self.size

    def finish(self) -> None:
        """Write the end marker."""
        end = tar.end_of_archive(self.size)
        self.size += len(end)
        self._flush(end)

    def manifest(self, shard_sha256: str) -> Manifest:
        """The manifest of the finished shard.

        Args:
            shard_sha256: SHA-256 of the whole file, in hex.
        """
        return self._builder.finish(self.size, shard_sha256)
