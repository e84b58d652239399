"""The whole schema. Until the first release it is edited in place; after it, a change is a revision of its own."""

from pgqueue.revisions import run, run_baseline

revision = "pgqueue_0001"
down_revision = None
branch_labels = ("pgqueue",)
depends_on = None


def upgrade() -> None:
    run_baseline(__file__)


def downgrade() -> None:
    run(__file__, "down")
