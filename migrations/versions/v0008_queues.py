"""Queues as data: retention, defaults, and how many jobs may wait."""

from pgqueue.revisions import run

revision = "pgqueue_0008"
down_revision = "pgqueue_0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(__file__, "up")


def downgrade() -> None:
    run(__file__, "down")
