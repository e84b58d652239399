"""Unique jobs, and jobs that expire."""

from pathlib import Path

from alembic import context, op
from sqlalchemy import text

from pgqueue.sql import qualify

revision = "pgqueue_0004"
down_revision = "pgqueue_0003"
branch_labels = None
depends_on = None


def _run(direction: str) -> None:
    schema = context.config.attributes.get("schema", "pgqueue")
    sql = Path(__file__).with_suffix(f".{direction}.sql").read_text("utf-8")
    # No bind parameters in there: a colon is a colon.
    op.execute(text(qualify(sql, schema).replace(":", "\\:")))


def upgrade() -> None:
    _run("up")


def downgrade() -> None:
    _run("down")
