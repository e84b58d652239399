"""The nightly report: its schedule and its runs, one for a tick."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from examples.shop.terminal import heading, pgqueue, verdict

PATIENCE = 20.0
RUNS = """
select count(*), count(distinct j.tick), count(r.job) from pgqueue.jobs j
  left join shop.reports r on r.job = j.id
 where j.schedule is not null and j.status = 'succeeded'
"""


def reported(conn: psycopg.Connection[Any]) -> bool:
    """Wait for a run, show the schedule, and see that each run was for a tick of its own."""
    heading('The nightly report, every 3 s tonight: @app.task(cron="...")')
    deadline = time.monotonic() + PATIENCE
    while True:
        runs, ticks, reports = conn.execute(RUNS).fetchone() or (0, 0, 0)
        if runs or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    pgqueue("cron", "list")
    held = bool(0 < runs == ticks == reports)
    return verdict(held, f"runs of the report: {runs}, each for a tick of its own")
