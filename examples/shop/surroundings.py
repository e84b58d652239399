"""What the shop runs in: a database, worker processes, a mail server, a webhook, a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import psycopg
from psycopg.conninfo import make_conninfo

from examples.shop.database import migrate
from examples.shop.servers import Mail, Webhook
from examples.shop.terminal import out
from pgqueue.connect import libpq_dsn
from pgqueue.embedded import embedded_postgres

Server = TypeVar("Server", Mail, Webhook)


@dataclass
class World:
    """Where the shop's jobs leave their traces."""

    dsn: str
    mail: Mail
    webhook: Webhook
    invoices: Path


@contextmanager
def surroundings() -> Iterator[World]:
    """Everything but the workers, for the length of the block; workers find it by the environment."""
    mail, webhook = Mail(), Webhook()
    with (
        database() as dsn,
        running(mail) as smtp,
        running(webhook) as url,
        tempfile.TemporaryDirectory(
            prefix="pgqueue-invoices-", ignore_cleanup_errors=True
        ) as folder,
    ):
        migrate(dsn)
        os.environ.update(PGQUEUE_DSN=dsn, SHOP_SMTP=smtp, SHOP_WEBHOOK=url, SHOP_INVOICES=folder)
        os.environ["SHOP_REPORT"] = "*/3 * * * * *"
        yield World(dsn, mail, webhook, Path(folder))


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
def workers(count: int) -> Iterator[int]:
    """``pgqueue work`` with that many processes, stopped at the end; gives its pid.

    The lease is short, so that the jobs of a killed worker come back within the demo.
    """
    command = [sys.executable, "-m", "pgqueue", "work", "--app", "examples.shop.jobs:app",
               "--workers", str(count), "--concurrency", "8", "--log-level", "critical",
               "--lease", "3s", "--grace", "5s"]  # fmt: skip
    # One of them is killed, and Python's resource tracker would warn of what that left open.
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore:resource_tracker"}
    process = subprocess.Popen(command, start_new_session=True, env=quiet)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def running(server: Server) -> Iterator[str]:
    """A server for the length of the block; gives its URL."""
    url = server.start()
    try:
        yield url
    finally:
        server.stop()
