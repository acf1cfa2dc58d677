"""The first tables of an index; what they hold is told in `atdata.index.tables`."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "atdata_schemas",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", _BYTEWISE, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("rank", _BYTEWISE, nullable=False),
        sa.Column("cid", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("name", "rank", name="atdata_schemas_name"),
    )
    op.create_table(
        "atdata_datasets",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", _BYTEWISE, nullable=False),
        sa.Column("latest", sa.BigInteger),
        sa.UniqueConstraint("name", name="atdata_datasets_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "atdata_versions",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("dataset_id", sa.BigInteger, sa.ForeignKey("atdata_datasets.id"), nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("rank", _BYTEWISE, nullable=False),
        sa.Column("cid", sa.Text, nullable=False),
        sa.Column("schema_id", sa.BigInteger, sa.ForeignKey("atdata_schemas.id")),
        sa.Column("parent", sa.Text),
        sa.Column("description", sa.Text),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("license", sa.Text),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("samples", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("dataset_id", "rank", name="atdata_versions_rank"),
        sqlite_autoincrement=True,
    )
    op.create_index("atdata_versions_cid", "atdata_versions", ["cid"])
    op.create_index("atdata_versions_schema", "atdata_versions", ["schema_id"])
    op.create_table(
        "atdata_parts",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("folder", _BYTEWISE, nullable=False),
        sa.Column("shards", sa.Text, nullable=False),
    )
    op.create_index("atdata_parts_folder", "atdata_parts", ["folder"])
    op.create_table(
        "atdata_version_parts",
        sa.Column("version_id", sa.BigInteger, sa.ForeignKey("atdata_versions.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("digest", sa.LargeBinary(32), sa.ForeignKey("atdata_parts.digest"), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("atdata_version_parts_digest", "atdata_version_parts", ["digest"])
    op.create_table(
        "atdata_tags",
        sa.Column("tag", _BYTEWISE, primary_key=True),
        sa.Column("dataset_id", sa.BigInteger, sa.ForeignKey("atdata_datasets.id"), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("atdata_tags_dataset", "atdata_tags", ["dataset_id"])
    op.create_table(
        "atdata_labels",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("dataset_id", sa.BigInteger, sa.ForeignKey("atdata_datasets.id"), nullable=False),
        sa.Column("label", _BYTEWISE, nullable=False),
        sa.Column("version_id", sa.BigInteger, sa.ForeignKey("atdata_versions.id"), nullable=False),
        sa.UniqueConstraint("dataset_id", "label", name="atdata_labels_label"),
        sqlite_autoincrement=True,
    )
    op.create_index("atdata_labels_version", "atdata_labels", ["version_id"])
    if op.get_bind().dialect.name == "sqlite":
        # The words come as letters and digits in lower case already, with blanks between them.
        op.execute(
            "CREATE VIRTUAL TABLE atdata_words "
            "USING fts5(words, tokenize = 'unicode61 remove_diacritics 0', prefix = '2 3')"
        )
    else:
        op.execute(
            "CREATE TABLE atdata_words "
            "(dataset_id bigint PRIMARY KEY REFERENCES atdata_datasets, words tsvector NOT NULL)"
        )
        op.execute("CREATE INDEX atdata_words_words ON atdata_words USING gin (words)")
