"""Renews leases from a thread with its own connection, so a blocked event loop loses no job."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import psycopg

from pgqueue.connect import connect_sync
from pgqueue.drivers._psycopg import PsycopgDriver
from pgqueue.operations import Operation, claims
from pgqueue.sql import load
from pgqueue.worker.run import Run

log = logging.getLogger("pgqueue.heartbeat")


class Heartbeat:
    """Beats for jobs held longer than a third of the lease; tells the loop of lost ones.

    A job that could not be renewed is given up before its lease can end: from then on another
    worker may run it.
    """

    def __init__(
        self,
        *,
        dsn: str,
        schema: str,
        lease: float,
        held: Callable[[], Iterable[Run]],
        alive: Operation[None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._dsn, self._statements = dsn, load(schema)
        self._lease = lease
        self._held = held
        self._alive = alive
        self._loop = loop
        self._connection: psycopg.Connection[Any] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pgqueue-heartbeat", daemon=True)
        self._next_alive = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits for the beat in hand."""
        self._stopping.set()
        self._thread.join(timeout=10.0)
        self._close()

    def _run(self) -> None:
        while True:
            try:
                self.beat()
            except (psycopg.Error, OSError):
                self._close()  # the control connection reports that the database is away
            except Exception:
                log.exception("heartbeat failed")
            self._give_up_stale()
            if self._stopping.wait(self._lease / 6):
                return

    def beat(self) -> None:
        """Renew what is due, and say that this worker is alive."""
        now = time.monotonic()
        due = [r for r in self._held() if now - r.renewed_at > self._lease / 3 and r.reason is None]
        if due:
            pairs = [(run.job.id, run.job.claim_id) for run in due]
            held = self._fetch(claims.heartbeat(pairs, lease=self._lease))
            for run in due:
                if run.job.id not in held:
                    self._loop.call_soon_threadsafe(run.interrupt, "lost")
                    continue
                run.renewed_at = now
                if held[run.job.id]:
                    self._loop.call_soon_threadsafe(run.interrupt, "cancelled")
        if now >= self._next_alive:
            self._fetch(self._alive)
            self._next_alive = now + self._lease / 3

    def _give_up_stale(self) -> None:
        margin = self._lease / 6
        now = time.monotonic()
        for run in self._held():
            if now - run.renewed_at > self._lease - margin and run.reason is None:
                self._loop.call_soon_threadsafe(run.interrupt, "lost")

    def _fetch(self, operation: Operation[Any]) -> Any:
        if self._connection is None:
            self._connection = connect_sync(self._dsn)
            driver = PsycopgDriver(self._connection)
            driver.fetch(self._statements["pin_session"], {})
        statement = self._statements[operation.statement]
        return operation.decode(PsycopgDriver(self._connection).fetch(statement, operation.values))

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
