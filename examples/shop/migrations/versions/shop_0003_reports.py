"""The nightly reports."""

from alembic import op

revision = "shop_0003"
down_revision = "shop_0002"


def upgrade() -> None:
    op.execute("""
        create table shop.reports (
            job bigint primary key, made_at timestamptz not null default now(), orders bigint not null)
    """)


def downgrade() -> None:
    op.execute("drop table shop.reports")
