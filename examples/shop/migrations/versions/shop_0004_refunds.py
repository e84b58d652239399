"""Refunds, and how often each was paid."""

from alembic import op

revision = "shop_0004"
down_revision = "shop_0003"


def upgrade() -> None:
    op.execute("""
        create table shop.refunds (
            number integer primary key references shop.orders, cents integer not null, paid integer not null default 0)
    """)


def downgrade() -> None:
    op.execute("drop table shop.refunds")
