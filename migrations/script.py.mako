"""${message}"""

from pathlib import Path

from alembic import context, op

from pgqueue.sql import qualify

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def _run(direction: str) -> None:
    schema = context.config.attributes.get("schema", "pgqueue")
    text = Path(__file__).with_suffix(f".{direction}.sql").read_text("utf-8")
    op.execute(qualify(text, schema))


def upgrade() -> None:
    _run("up")


def downgrade() -> None:
    _run("down")
