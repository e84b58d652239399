"""Steps of a job that are done once, sleeps, and events."""

from pgqueue.revisions import run

revision = "pgqueue_0007"
down_revision = "pgqueue_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(__file__, "up")


def downgrade() -> None:
    run(__file__, "down")
