"""Cheaper updates: names are checked where they are written, and pages have room for the next versions of their rows."""

from pgqueue.revisions import run

revision = "pgqueue_0010"
down_revision = "pgqueue_0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(__file__, "up")


def downgrade() -> None:
    run(__file__, "down")
