"""Jobs, attempts, queues, workers, their functions and statistics."""

from pathlib import Path

from alembic import context, op
from sqlalchemy import text

from pgqueue.sql import qualify

revision = "pgqueue_0001"
down_revision = None
branch_labels = ("pgqueue",)
depends_on = None


def _run(direction: str) -> None:
    schema = context.config.attributes.get("schema", "pgqueue")
    sql = Path(__file__).with_name(f"v0001_initial.{direction}.sql").read_text("utf-8")
    # No bind parameters in there: a colon is a colon.
    op.execute(text(qualify(sql, schema).replace(":", "\\:")))


def upgrade() -> None:
    _run("up")


def downgrade() -> None:
    _run("down")
