"""Orders and their lines."""

from alembic import op

revision = "shop_0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
        create table shop.orders (
            number integer primary key, customer text not null, email text not null,
            placed_at timestamptz not null default now())
    """)
    op.execute("""
        create table shop.order_lines (
            order_number integer not null references shop.orders, item text not null,
            quantity integer not null check (quantity > 0), cents integer not null)
    """)


def downgrade() -> None:
    op.execute("drop table shop.order_lines, shop.orders")
