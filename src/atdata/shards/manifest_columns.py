"""Some columns of a manifest: all it takes to ask about a few fields, in a fraction of the time of reading it whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from atdata.shards.manifest import Manifest
from atdata.shards.manifest_file import _opened, _reading

__all__ = ["ManifestColumns", "read_columns"]


@dataclass(frozen=True)
class ManifestColumns:
    """What a manifest says of some fields of a shard's samples.

    Attributes:
        table: a column for each of them, one row for each sample.
        scalar_fields: all fields whose values stand in the manifest, whether in `table` or not.
        array_fields: all fields whose raw elements the manifest points at.
        length: number of samples.
        shard_sha256: of the shard, in hex.
    """

    table: pa.Table
    scalar_fields: list[str]
    array_fields: list[str]
    length: int
    shard_sha256: str

    def __len__(self) -> int:
        return self.length

    @classmethod
    def of(cls, manifest: Manifest) -> ManifestColumns:
        """Every column of a manifest."""
        fields = manifest.scalar_fields, manifest.array_fields
        return cls(manifest.table, *fields, len(manifest), manifest.shard_sha256)


def read_columns(
    data: bytes, fields: Iterable[str], *, url: str | None = None, shard_size: int | None = None
) -> ManifestColumns | None:
    """What a manifest says of some fields; None for a Parquet file that atdata did not write.

    Args:
        data: the file.
        fields: names of fields, or of columns such as `__key__`; those that it does not have are left out.
        url: its place, for messages.
        shard_size: size of the shard it lies beside, in bytes, to tell another shard's manifest.

    Raises:
        ManifestError: it is no Parquet file, or says what cannot be.
    """
    with _reading(url):
        opened = _opened(data, url, shard_size)
        if opened is None:
            return None
        file, meta = opened
        names = file.schema_arrow.names
        wanted = {f"__offset__{field}" if field in meta["arrays"] else field for field in fields}
        table = file.read([name for name in names if name in wanted], use_threads=False)
        scalars = [name for name in names if not name.startswith("__")]
        return ManifestColumns(table, scalars, list(meta["arrays"]), file.metadata.num_rows, meta["shard_sha256"])
