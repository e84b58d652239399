"""Schedules: cron entries whose runs are jobs."""

from pgqueue.revisions import run

revision = "pgqueue_0003"
down_revision = "pgqueue_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(__file__, "up")


def downgrade() -> None:
    run(__file__, "down")
