"""The tables of an index in SQL, the same for SQLite and PostgreSQL. Migrations make them.

The words a dataset is found by are kept as each engine can search them: in SQLite in a table of FTS5, in PostgreSQL in
a column of its own. Names and ranks sort byte by byte everywhere. All names begin with `atdata_`, so that an index can
share a database with other programs.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

__all__ = ["datasets", "labels", "lenses", "metadata", "parts", "schemas", "tags", "version_parts", "versions"]

metadata = MetaData()

_Id = BigInteger().with_variant(Integer(), "sqlite")
# SQLite compares bytes by default.
_Bytewise = Text().with_variant(Text(collation="C"), "postgresql")
_Digest = LargeBinary(32)

schemas = Table(
    "atdata_schemas",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", _Bytewise, nullable=False),
    Column("version", Text, nullable=False),
    Column("rank", _Bytewise, nullable=False),
    Column("cid", Text, nullable=False),
    Column("record", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("name", "rank", name="atdata_schemas_name"),
)

# `latest` is the id of the version of the highest rank; it is null only inside a transaction.
datasets = Table(
    "atdata_datasets",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", _Bytewise, nullable=False),
    Column("latest", BigInteger),
    UniqueConstraint("name", name="atdata_datasets_name"),
    sqlite_autoincrement=True,
)

# The ids grow: of two versions the one with the higher id was added later.
versions = Table(
    "atdata_versions",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("dataset_id", BigInteger, ForeignKey("atdata_datasets.id"), nullable=False),
    Column("version", Text, nullable=False),
    Column("rank", _Bytewise, nullable=False),
    Column("cid", Text, nullable=False),
    Column("schema_id", BigInteger, ForeignKey("atdata_schemas.id")),
    Column("parent", Text),
    Column("description", Text),
    Column("tags", Text, nullable=False),
    Column("license", Text),
    Column("metadata", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("samples", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    UniqueConstraint("dataset_id", "rank", name="atdata_versions_rank"),
    Index("atdata_versions_cid", "cid"),
    Index("atdata_versions_schema", "schema_id"),
    sqlite_autoincrement=True,
)

parts = Table(
    "atdata_parts",
    metadata,
    Column("digest", _Digest, primary_key=True),
    Column("folder", _Bytewise, nullable=False),
    Column("shards", Text, nullable=False),
    Index("atdata_parts_folder", "folder"),
)

version_parts = Table(
    "atdata_version_parts",
    metadata,
    Column("version_id", BigInteger, ForeignKey("atdata_versions.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("digest", _Digest, ForeignKey("atdata_parts.digest"), nullable=False),
    Index("atdata_version_parts_digest", "digest"),
    sqlite_with_rowid=False,
)

# The tags of each dataset's latest version, to search by.
tags = Table(
    "atdata_tags",
    metadata,
    Column("tag", _Bytewise, primary_key=True),
    Column("dataset_id", BigInteger, ForeignKey("atdata_datasets.id"), primary_key=True),
    Index("atdata_tags_dataset", "dataset_id"),
    sqlite_with_rowid=False,
)

# A label that is set again gets a new id: the one with the highest was set last.
labels = Table(
    "atdata_labels",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("dataset_id", BigInteger, ForeignKey("atdata_datasets.id"), nullable=False),
    Column("label", _Bytewise, nullable=False),
    Column("version_id", BigInteger, ForeignKey("atdata_versions.id"), nullable=False),
    UniqueConstraint("dataset_id", "label", name="atdata_labels_label"),
    Index("atdata_labels_version", "version_id"),
    sqlite_autoincrement=True,
)

lenses = Table(
    "atdata_lenses",
    metadata,
    Column("cid", _Bytewise, primary_key=True),
    Column("name", _Bytewise, nullable=False),
    Column("source_id", BigInteger, ForeignKey("atdata_schemas.id"), nullable=False),
    Column("view_id", BigInteger, ForeignKey("atdata_schemas.id"), nullable=False),
    Column("record", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("atdata_lenses_name", "name", "cid"),
)
