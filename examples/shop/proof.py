"""What the outside world saw, held against what was committed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg

from examples.shop.accident import Accident
from examples.shop.progress import Progress
from examples.shop.surroundings import World
from examples.shop.terminal import heading, verdict

OF_ORDERS = """
select (args ->> 'number')::integer, status from pgqueue.jobs where task like '%.send_receipt'
"""
INTERRUPTED = """
select distinct (j.args ->> 'number')::integer
  from pgqueue.attempts a join pgqueue.jobs j on j.id = a.job_id
 where a.outcome = 'crash' and j.task like '%.send_receipt'
"""


def prove(
    conn: psycopg.Connection[Any],
    world: World,
    committed: set[int],
    rolled_back: set[int],
    accident: Accident | None,
) -> bool:
    """Say what holds; returns whether everything does."""
    heading("The proof")
    receipts = dict(conn.execute(OF_ORDERS).fetchall())
    undelivered = {number for number, status in receipts.items() if status == "dead"}
    interrupted = {row[0] for row in conn.execute(INTERRUPTED)}
    told = dict(conn.execute("select number, told from shop.orders").fetchall())
    invoices = {int(path.stem) for path in world.invoices.glob("*.html")}
    asked = set(world.mail.asked) | set(world.webhook.asked)
    progress = Progress.read(conn)
    claims = {
        f"{len(committed)} orders x 3 jobs = {3 * len(committed)} jobs"
        f" = {progress.succeeded} succeeded + {progress.dead} dead": progress.done
        == 3 * len(committed),
        "the warehouse noted every order exactly once: the note commits with its job": told
        == dict.fromkeys(committed, 1),
        "every order has its invoice": invoices == committed,
        _receipts(world.mail.delivered, undelivered): set(world.mail.delivered)
        == committed - undelivered
        and {n for n, times in world.mail.delivered.items() if times > 1} <= interrupted,
        f"{len(rolled_back)} orders rolled back left no job, no mail, no call and no invoice": not (
            asked | invoices | set(receipts)
        )
        & rolled_back,
    }
    if accident is not None:
        claims[
            f"all {len(accident.jobs)} jobs of the killed worker {accident.pid} ran again and ended"
        ] = accident.came_back(conn)
    said = [verdict(holds, claim) for claim, holds in claims.items()]
    return all(said)


def _receipts(delivered: Counter[int], undelivered: set[int]) -> str:
    twice = sum(times > 1 for times in delivered.values())
    return f"{len(delivered)} receipts delivered, {len(undelivered)} are dead letters" + (
        f"; {twice} came twice: its worker died" if twice else ", none came twice"
    )
