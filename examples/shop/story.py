"""The demo in order: orders, workers, an accident, the proof, the dead letters, one of them mended."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import psycopg
from rich.live import Live

from examples.shop import orders as shop
from examples.shop.accident import Accident, kill_the_busiest
from examples.shop.nightly import reported
from examples.shop.progress import Progress, Screen, short
from examples.shop.proof import prove
from examples.shop.refunds import refunded
from examples.shop.surroundings import World, surroundings, workers
from examples.shop.terminal import heading, out, pgqueue, table, verdict

KILL_AT = 0.3
PATIENCE = 60.0


def tell(limit: int, worker_count: int) -> bool:
    """The whole demo; returns whether everything held."""
    with ExitStack() as stack:
        world = stack.enter_context(surroundings())
        conn = stack.enter_context(psycopg.connect(world.dsn, autocommit=True))
        heading("Orders: the rows of each and its three jobs in one transaction")
        committed, rolled_back = place_all(conn, limit)
        out.print(
            f"{len(committed)} orders committed with 3 jobs each,"
            f" {len(rolled_back)} rolled back (payment declined)"
        )
        pid = stack.enter_context(workers(worker_count))
        heading(f"Work: {worker_count} worker processes under pid {pid}")
        accident = work(conn, 3 * len(committed))
        pgqueue("list")
        held = prove(conn, world, committed, rolled_back, accident)
        held = reported(conn) and held
        held = refunded(conn, committed) and held
        mended = show_dead(conn, world)
        close(len(rolled_back), accident)
        return held and mended


def place_all(conn: psycopg.Connection[Any], limit: int) -> tuple[set[int], set[int]]:
    """Place the orders; returns the numbers of those committed and those rolled back."""
    committed, rolled_back = set(), set()
    for order in shop.read_orders(limit):
        try:
            with conn.transaction():
                shop.place_order(conn, order)
            committed.add(order.number)
        except shop.PaymentDeclined:
            rolled_back.add(order.number)
    return committed, rolled_back


def work(conn: psycopg.Connection[Any], total: int) -> Accident | None:
    """Watch until every job has ended, and kill a worker process on the way."""
    accident: Accident | None = None
    with Live(console=out, refresh_per_second=10) as live:
        screen = Screen(live, total)
        while (progress := Progress.read(conn)).done < total:
            screen.show(progress)
            if accident is None and progress.done >= KILL_AT * total:
                accident = kill_the_busiest(conn)
                if accident is not None:
                    screen.say(
                        f"[red]kill -9 {accident.pid}[/]: a worker dies with {len(accident.jobs)}"
                        " jobs in its hands; they will run again"
                    )
            time.sleep(0.1)
        screen.show(progress)
    out.print(f"\nAll done: {progress.succeeded} succeeded, {progress.dead} dead")
    return accident


def show_dead(conn: psycopg.Connection[Any], world: World) -> bool:
    """The dead letters: by task and error, one with its attempts, and that one back again."""
    heading("The dead letters are rows: select * from pgqueue.dead_jobs")
    groups = conn.execute(
        "select task, error, jobs, example_id from pgqueue.dead_jobs order by jobs, error"
    ).fetchall()
    columns = ["task", "error", "#jobs", "#one of them"]
    out.print(table(columns, [(short(task), *others) for task, *others in groups]))
    if not groups:
        return False
    job_id = groups[0][3]
    pgqueue("job", str(job_id))
    out.print("\nThe mailboxes are mended.")
    world.mail.fixed = True
    pgqueue("retry", str(job_id))
    deadline = time.monotonic() + PATIENCE
    status = None
    while time.monotonic() < deadline and status != "succeeded":
        time.sleep(0.05)
        row = conn.execute("select status from pgqueue.jobs where id = %s", [job_id]).fetchone()
        status = row[0] if row else None
    came_back = status == "succeeded"
    return verdict(came_back, f"job {job_id} came back from the dead and succeeded")


def close(rolled_back: int, accident: Accident | None) -> None:
    """What was shown, and how to go on."""
    heading("You have seen")
    seen = {
        "orders and jobs in one transaction": "examples/shop/orders.py",
        f"{rolled_back} orders rolled back, without a trace": "examples/shop/proof.py",
        "retries after errors, 429 and timeouts": "examples/shop/jobs.py",
        "dead letters, one of them brought back": "pgqueue dlq, job ID, retry ID",
        "steps done once, an event, a workflow": "examples/shop/refunds.py",
        "a schedule whose ticks are jobs": "pgqueue cron list",
        "statistics": "pgqueue list; views in SQL",
    }
    if accident is not None:
        seen[f"a worker killed, none of its {len(accident.jobs)} jobs lost"] = "docs/explanation.md"
    out.print(table(["", ""], list(seen.items())))
    heading("Go on")
    commands = {
        ".venv/bin/pgqueue --help": "every command",
        ".venv/bin/pgqueue dev MODULE:APP": "a PostgreSQL and a worker for your own code",
        "make test": "every promise, tested",
        "docs/tutorial.md": "this shop, step by step",
    }
    out.print(table(["", ""], list(commands.items())))
