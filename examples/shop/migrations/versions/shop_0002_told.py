"""How often the warehouse was told of an order: must be once."""

from alembic import op

revision = "shop_0002"
down_revision = "shop_0001"


def upgrade() -> None:
    op.execute("alter table shop.orders add column told integer not null default 0")


def downgrade() -> None:
    op.execute("alter table shop.orders drop column told")
