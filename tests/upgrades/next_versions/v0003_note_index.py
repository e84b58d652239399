"""Indexes of a table that may have jobs, built while the queue works."""

from pgqueue.revisions import run, run_beside

revision = "pgqueue_0003"
down_revision = "pgqueue_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__)


def downgrade() -> None:
    run(__file__, "down")
