"""Unique jobs, and jobs that expire."""

from pgqueue.revisions import run

revision = "pgqueue_0004"
down_revision = "pgqueue_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(__file__, "up")


def downgrade() -> None:
    run(__file__, "down")
