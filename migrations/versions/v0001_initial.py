"""Jobs, attempts, queues, workers, their functions and statistics."""

from pgqueue.revisions import run

revision = "pgqueue_0001"
down_revision = None
branch_labels = ("pgqueue",)
depends_on = None


def upgrade() -> None:
    run(__file__, "up")


def downgrade() -> None:
    run(__file__, "down")
