"""``make demo``: the shop from the first order to the last dead letter."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import psycopg
from psycopg.conninfo import make_conninfo
from rich.console import Console
from rich.progress import Progress

from examples.shop import orders as shop
from examples.shop.database import migrate
from examples.shop.servers import Mail, Webhook
from pgqueue.connect import libpq_dsn
from pgqueue.embedded import embedded_postgres

out = Console(highlight=False)
Server = TypeVar("Server", Mail, Webhook)


@contextmanager
def database() -> Iterator[str]:
    """A database of the demo's own: embedded, or on the server of PGQUEUE_DSN."""
    given = os.environ.get("PGQUEUE_DSN")
    if not given:
        out.print("Starting an embedded PostgreSQL")
        with embedded_postgres() as dsn:
            yield dsn
        return
    given, name = libpq_dsn(given), f"pgqueue_demo_{uuid4().hex[:8]}"
    with psycopg.connect(given, autocommit=True) as admin:
        admin.execute(f"create database {name}".encode())
        try:
            yield make_conninfo(given, dbname=name)
        finally:
            admin.execute(f"drop database {name} with (force)".encode())


@contextmanager
def workers(count: int) -> Iterator[subprocess.Popen[bytes]]:
    """``pgqueue work`` with that many processes, stopped at the end."""
    command = [sys.executable, "-m", "pgqueue", "work", "--app", "examples.shop.jobs:app",
               "--workers", str(count), "--log-level", "critical", "--grace", "5s"]  # fmt: skip
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def running(server: Server) -> Iterator[str]:
    url = server.start()
    try:
        yield url
    finally:
        server.stop()


def pgqueue(*arguments: str) -> str:
    """Run a command of the command line, show it, and return what it printed."""
    out.print(f"\n[bold]$ pgqueue {' '.join(arguments)}[/bold]")
    done = subprocess.run(
        [sys.executable, "-m", "pgqueue", *arguments],
        stdout=subprocess.PIPE, text=True, check=True,
        env={**os.environ, "COLUMNS": str(out.width)},
    )  # fmt: skip
    print(done.stdout, end="", flush=True)
    return done.stdout


def place_all(conn: psycopg.Connection[Any], limit: int) -> tuple[list[int], list[int]]:
    """Place the orders; returns the numbers of those committed and those rolled back."""
    committed, rolled_back = [], []
    for order in shop.read_orders(limit):
        try:
            with conn.transaction():
                shop.place_order(conn, order)
            committed.append(order.number)
        except shop.PaymentDeclined:
            rolled_back.append(order.number)
    return committed, rolled_back


def wait_until_done(conn: psycopg.Connection[Any], total: int) -> None:
    """Show progress until no job is pending or running."""
    with Progress(console=out, disable=not out.is_terminal) as progress:
        bar = progress.add_task("jobs", total=total)
        while True:
            row = conn.execute(
                "select count(*) filter (where status in ('pending', 'running')),"
                " count(*) filter (where status = 'succeeded'),"
                " count(*) filter (where status = 'dead') from pgqueue.jobs where schedule is null"
            ).fetchone()
            assert row is not None
            left, succeeded, dead = row
            progress.update(
                bar, completed=total - left, description=f"{succeeded} succeeded, {dead} dead"
            )
            if not left:
                out.print(f"All done: {succeeded} succeeded, {dead} dead")
                return
            time.sleep(0.1)


def prove(
    conn: psycopg.Connection[Any],
    committed: list[int],
    rolled_back: list[int],
    mail: Mail,
    webhook: Webhook,
    invoices: Path,
) -> bool:
    """Compare what the outside world saw with what was committed."""
    refused = {n for n in committed if n % 10 == 0}
    told = dict(conn.execute("select number, told from shop.orders").fetchall())
    files = {int(path.stem) for path in invoices.glob("*.html")}
    dead = conn.execute("select count(*) from pgqueue.jobs where status = 'dead'").fetchone()
    seen = set(mail.asked) | set(webhook.asked) | files
    claims = {
        "every committed order was told to the warehouse exactly once": told
        == dict.fromkeys(committed, 1),
        "every receipt but the refused ones was delivered exactly once": mail.delivered
        == dict.fromkeys(set(committed) - refused, 1),
        "every refused receipt is a dead letter": dead == (len(refused),),
        "every committed order has its invoice": files == set(committed),
        f"none of the {len(rolled_back)} rolled back orders left a trace": not seen
        & set(rolled_back),
    }
    out.print()
    for claim, holds in claims.items():
        out.print(f"[{'green' if holds else 'red'}]{'ok  ' if holds else 'FAIL'}[/] {claim}")
    return all(claims.values())


def reported(conn: psycopg.Connection[Any]) -> bool:
    """Wait for the nightly report, show its schedule, and see that each run was for another tick."""
    counts = (
        "select count(*), count(distinct j.tick), count(r.job) from pgqueue.jobs j"
        " left join shop.reports r on r.job = j.id"
        " where j.schedule is not null and j.status = 'succeeded'"
    )
    deadline = time.monotonic() + 20
    while True:
        runs, ticks, reports = conn.execute(counts).fetchone() or (0, 0, 0)
        if runs or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    pgqueue("cron", "list")
    held = bool(0 < runs == ticks == reports)
    out.print(
        f"[{'green' if held else 'red'}]{'ok  ' if held else 'FAIL'}[/]"
        f" the nightly report ran {runs} times, each for a tick of its own"
    )
    return held


def retry_one(conn: psycopg.Connection[Any], mail: Mail) -> bool:
    """Mend the mailbox, put one dead letter back, and see it succeed."""
    row = conn.execute("select min(id) from pgqueue.jobs where status = 'dead'").fetchone()
    if row is None or row[0] is None:
        return False
    mail.fixed = True
    out.print("\nThe mailbox is mended.")
    pgqueue("retry", str(row[0]))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        status = conn.execute("select status from pgqueue.jobs where id = %s", row).fetchone()
        if status == ("succeeded",):
            out.print(f"[green]ok  [/] job {row[0]} came back from the dead and succeeded")
            return True
        time.sleep(0.05)
    out.print(f"[red]FAIL[/] job {row[0]} did not succeed")
    return False


def run(limit: int, worker_count: int) -> bool:
    """The whole demo; returns whether everything held."""
    with ExitStack() as stack:
        dsn = stack.enter_context(database())
        os.environ["PGQUEUE_DSN"] = dsn
        migrate(dsn)
        mail, webhook = Mail(), Webhook()
        invoices = Path(tempfile.mkdtemp(prefix="pgqueue-invoices-"))
        stack.callback(shutil.rmtree, invoices)
        os.environ["SHOP_SMTP"] = stack.enter_context(running(mail))
        os.environ["SHOP_WEBHOOK"] = stack.enter_context(running(webhook))
        os.environ["SHOP_INVOICES"] = str(invoices)
        os.environ["SHOP_REPORT"] = "*/3 * * * * *"
        process = stack.enter_context(workers(worker_count))
        out.print(f"{worker_count} worker processes under pid {process.pid}")
        conn = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        committed, rolled_back = place_all(conn, limit)
        out.print(
            f"{len(committed)} orders committed with 3 jobs each,"
            f" {len(rolled_back)} rolled back (payment declined)"
        )
        wait_until_done(conn, 3 * len(committed))
        pgqueue("list")
        pgqueue("dlq", "--limit", "5")
        held = prove(conn, committed, rolled_back, mail, webhook, invoices)
        held = reported(conn) and held
        return retry_one(conn, mail) and held


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; exit code 0 if everything held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=120, help="how many, at most 240")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return 0 if run(chosen.orders, chosen.workers) else 1
    except KeyboardInterrupt:
        out.print("\nstopped; nothing is left behind")
        return 130


if __name__ == "__main__":
    sys.exit(main())
