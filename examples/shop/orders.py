"""Placing an order: its rows and its three jobs, in one transaction."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg

from examples.shop.jobs import CallWebhook, app, render_invoice, send_receipt


class PaymentDeclined(Exception):
    """The bank said no; the order must leave no trace."""


@dataclass
class Order:
    """An order as it comes in."""

    number: int
    customer: str
    email: str
    declined: bool
    lines: list[tuple[str, int, int]] = field(default_factory=list)  # item, quantity, cents


def read_orders(limit: int | None = None) -> Iterator[Order]:
    """The orders of orders.csv."""
    with Path(__file__).with_name("orders.csv").open(encoding="utf-8", newline="") as file:
        for number, rows in groupby(csv.DictReader(file), key=lambda row: int(row["order"])):
            if limit is not None and number > limit:
                return
            lines = list(rows)
            first = lines[0]
            yield Order(
                number, first["customer"], first["email"], first["declined"] == "1",
                [(row["item"], int(row["quantity"]), int(row["cents"])) for row in lines],
            )  # fmt: skip


def place_order(conn: psycopg.Connection[Any], order: Order) -> None:
    """Write the order and enqueue its jobs; the caller commits or rolls back both.

    Raises:
        PaymentDeclined: after everything was written, to show that it all goes away.
    """
    conn.execute(
        "insert into shop.orders (number, customer, email) values (%s, %s, %s)",
        (order.number, order.customer, order.email),
    )
    for item, quantity, cents in order.lines:
        conn.execute(
            "insert into shop.order_lines (order_number, item, quantity, cents)"
            " values (%s, %s, %s, %s)",
            (order.number, item, quantity, cents),
        )
    send_receipt.on(conn).enqueue(order.number, order.email)
    render_invoice.on(conn).enqueue(order.number, order.customer, order.lines)
    app.dispatch(CallWebhook(order.number)).with_priority(5).on(conn).enqueue()
    if order.declined:
        raise PaymentDeclined(f"order {order.number}")
