"""The first ledger: edits, their factors and probes, and the journal that only grows.

There is no downgrade: it could only lose edits.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

GUARDS = (
    ("journal", "UPDATE"),
    ("journal", "DELETE"),
    ("factors", "UPDATE"),
    ("factors", "DELETE"),
    ("probes", "UPDATE"),
    ("probes", "DELETE"),
    ("edits", "DELETE"),
)


def _edit_key() -> sa.Column[int]:
    return sa.Column("edit", sa.Integer, nullable=False, autoincrement=False)


def _belongs_to_edit(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["edit"], ["edits.id"], name=f"fk_{table}_edit_edits")


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_meta"),
    )
    op.create_table(
        "edits",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("method", sa.String(40), nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("layers", sa.Text, nullable=False),
        sa.Column("targets", sa.Text, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("strength", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_edits"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_edits_model", "edits", ["model"])
    op.create_table(
        "factors",
        _edit_key(),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("edit", name="pk_factors"),
        _belongs_to_edit("factors"),
    )
    op.create_table(
        "probes",
        _edit_key(),
        sa.Column("position", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("question", sa.LargeBinary, nullable=False),
        sa.Column("words", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("edit", "position", name="pk_probes"),
        _belongs_to_edit("probes"),
    )
    op.create_table(
        "journal",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_journal"),
    )
    op.create_index("ix_journal_model_id", "journal", ["model", "id"])
    if op.get_bind().dialect.name == "sqlite":
        for table, statement in GUARDS:
            op.execute(
                f"CREATE TRIGGER {table}_no_{statement.lower()} BEFORE {statement} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} only grows'); END"
            )
