"""The key and digest of every sample of a shard: all it takes to compare datasets, however wide their manifests are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from atdata.errors import ManifestError
from atdata.shards.grouping import RawSample
from atdata.shards.manifest import FORMAT
from atdata.shards.manifest_file import _check_schema, _Meta

__all__ = ["ShardKeys", "keys_in", "read_keys"]


class ShardKeys(NamedTuple):
    """The samples of one shard, in order.

    Attributes:
        keys: each one's key; Arrow strings.
        digests: each one's SHA-256; Arrow binaries of 32 bytes.
        shard_sha256: of the whole shard, in hex, as the manifest says; None where there was none.
    """

    keys: pa.ChunkedArray
    digests: pa.ChunkedArray
    shard_sha256: str | None = None


def read_keys(data: bytes, *, url: str | None = None, shard_size: int | None = None) -> ShardKeys | None:
    """Keys and digests in a manifest; None for one that another program or version wrote.

    Args:
        data: the Parquet file.
        url: its place, for messages.
        shard_size: size of its shard in bytes, to tell another shard's manifest.

    Raises:
        ManifestError: it is no Parquet file, belongs to another shard, or says what cannot be.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        raw = (file.schema_arrow.metadata or {}).get(b"atdata")
        stated = {} if raw is None else msgspec.json.decode(raw, type=dict[str, Any])
        if stated.get("format") != FORMAT:
            return None
        meta = msgspec.convert(stated, _Meta)
        if shard_size is not None and meta["shard_size"] != shard_size:
            raise ManifestError(
                f"the manifest belongs to a shard of {meta['shard_size']} bytes, this one has {shard_size}: "
                "rebuild it with `atdata manifest build`",
                url=url,
            )
        _check_schema(file, meta)
        table = file.read(columns=["__key__", "__sha256__"], use_threads=False)
        if table["__key__"].null_count or table["__sha256__"].null_count:
            raise ValueError("it has rows without a key or a digest")
        table["__key__"].validate(full=True)  # text that is not UTF-8 would fail much later
    except ManifestError:
        raise
    except Exception as error:  # whatever a hostile file brings about in the parsers
        raise ManifestError(f"the manifest cannot be read: {error}", url=url) from None
    return ShardKeys(table["__key__"], table["__sha256__"], meta["shard_sha256"])


def keys_in(samples: Iterable[RawSample]) -> ShardKeys:
    """Keys and digests of samples as they lie in the archive.

    The digest is that of a manifest: of the payload where a sample is one `.msgpack` member; otherwise of the
    extensions and payload digests of its members, in the order of the extensions.
    """
    keys: list[str] = []
    digests: list[bytes] = []
    for raw in samples:
        keys.append(raw.key)
        if list(raw.parts) == ["msgpack"]:
            digests.append(hashlib.sha256(raw.parts["msgpack"]).digest())
            continue
        whole = hashlib.sha256()
        for extension, payload in sorted(raw.parts.items()):
            whole.update(f"{extension}\0{len(payload)}\0".encode())
            whole.update(hashlib.sha256(payload).digest())
        digests.append(whole.digest())
    return ShardKeys(
        pa.chunked_array([pa.array(keys, pa.string())]), pa.chunked_array([pa.array(digests, pa.binary(32))])
    )
