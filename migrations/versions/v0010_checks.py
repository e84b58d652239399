"""The checks of names, made only where names are written."""

from pgqueue.revisions import run

revision = "pgqueue_0010"
down_revision = "pgqueue_0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(__file__, "up")


def downgrade() -> None:
    run(__file__, "down")
