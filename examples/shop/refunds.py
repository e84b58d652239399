"""Three refunds that wait for a manager, and the sum of them: steps, an event, a workflow."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from examples.shop.jobs import app, refund, report_refunds
from examples.shop.terminal import heading, pgqueue, verdict

PATIENCE = 20.0
WAITING = "select count(*) from pgqueue.steps where %s = any (events) and finished_at is null"
EVENT = "refunds decided"
PAID = "select sum(r.cents)::bigint, count(*), min(r.paid), max(r.paid) from shop.refunds r"


def refunded(conn: psycopg.Connection[Any], orders: set[int]) -> bool:
    """Enqueue them, let the manager decide, and see that each was booked and paid once."""
    heading("Three refunds and their sum: a workflow, whose jobs wait for a manager")
    chosen = sorted(orders)[:3]
    flow = app.workflow("refunds")
    parts = [flow.add(refund.call(number)) for number in chosen]
    total = flow.add(report_refunds.call([part.result for part in parts]))
    run = flow.enqueue(on=conn)
    wait_until(conn, WAITING, [EVENT], len(chosen))
    pgqueue("workflow", str(run.id))
    pgqueue("emit", EVENT, '{"granted": true}')
    cents = run[total].result(PATIENCE)
    paid = conn.execute(PAID).fetchone()
    return verdict(
        paid == (cents, len(chosen), 1, 1),
        f"{len(chosen)} refunds booked and paid once each, {cents / 100:.2f} in all",
    )


def wait_until(conn: psycopg.Connection[Any], query: str, values: list[Any], expected: int) -> None:
    """Wait for a count, but not for ever."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if conn.execute(query.encode(), values).fetchone() == (expected,):
            return
        time.sleep(0.05)
