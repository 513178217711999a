"""People: who owns an edit, and keys that say who asks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from repair.migrations.versions.r0001_ledger import GUARDS

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    owner = sa.Column("owner", sa.String(40), nullable=False, server_default="")
    op.add_column("edits", owner)
    op.create_table(
        "people",
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("role", sa.String(40), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_people"),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION only_grows() RETURNS trigger AS "
            "$$ BEGIN RAISE EXCEPTION '% only grows', TG_TABLE_NAME; END $$ LANGUAGE plpgsql"
        )
        for table, statement in GUARDS:
            op.execute(
                f"CREATE TRIGGER {table}_no_{statement.lower()} BEFORE {statement} ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION only_grows()"
            )
