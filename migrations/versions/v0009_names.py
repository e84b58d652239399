"""The check of queue names, made cheap."""

from pgqueue.revisions import run

revision = "pgqueue_0009"
down_revision = "pgqueue_0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(__file__, "up")


def downgrade() -> None:
    run(__file__, "down")
