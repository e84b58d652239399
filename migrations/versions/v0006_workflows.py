"""Jobs that wait for other jobs."""

from pgqueue.revisions import run

revision = "pgqueue_0006"
down_revision = "pgqueue_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(__file__, "up")


def downgrade() -> None:
    run(__file__, "down")
