"""A table of lenses; what it holds is told in `atdata.index.tables`."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "atdata_lenses",
        sa.Column("cid", _BYTEWISE, primary_key=True),
        sa.Column("name", _BYTEWISE, nullable=False),
        sa.Column("source_id", sa.BigInteger, sa.ForeignKey("atdata_schemas.id"), nullable=False),
        sa.Column("view_id", sa.BigInteger, sa.ForeignKey("atdata_schemas.id"), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("atdata_lenses_name", "atdata_lenses", ["name", "cid"])
