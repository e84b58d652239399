"""A psycopg pool of an application's process that gives out only connections that answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any, Self

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

from pgqueue.connect import connect_sync, libpq_dsn, parse, without_passwords
from pgqueue.liveness import CHECK_AFTER, CONNECT_TIMEOUT, KEEPALIVES, READ_ONLY, answers
from pgqueue.pooler import is_pooled

WAIT = 10.0  # seconds for a connection when all are in use
RENEWED = 3600.0  # after so many seconds psycopg's pool renews a connection that comes back


class SyncPool:
    """At most ``size`` connections in autocommit mode. One that ran a statement of ours is kept out for the next.

    psycopg's own giving out and taking back costs a tenth of an enqueue. It may be used by many threads.
    """

    def __init__(self, dsn: str, *, size: int) -> None:
        self._dsn, self._size = dsn, size
        self._opening, self._lock = Lock(), Lock()
        self._pool: ConnectionPool[Any] | None = None
        self._spare: Any = None
        self._waiting = 0
        self._closed = False
        self._demoted_at = 0.0

    def connection(self, *, ours: bool) -> AbstractContextManager[Any]:
        """A connection, for the length of the block.

        Args:
            ours: it will run single statements of pgqueue, which leave nothing behind in the session.
        """
        return _Loan(self) if ours else self._theirs()

    @contextmanager
    def _theirs(self) -> Iterator[Any]:
        connection = self.lend()
        error: BaseException | None = None
        try:
            with connection:  # commits what they left open, or rolls it back
                yield connection
        except BaseException as caught:
            error = caught
            raise
        finally:
            self.take_back(connection, error, keep=False)

    def lend(self) -> Any:
        """A connection that answers, to be taken back."""
        while True:
            connection = self._take()
            try:
                self._check(connection)
            except BaseException as error:
                connection.close()
                self._put(connection)
                if not isinstance(error, psycopg.OperationalError):
                    raise
            else:
                return connection

    def take_back(self, connection: Any, error: BaseException | None, *, keep: bool) -> None:
        """``error``: what its use ended with; then it is not kept out for the next."""
        now = time.monotonic()
        if error is None:
            connection._pgqueue_used = now
        elif isinstance(error, psycopg.Error) and error.sqlstate == READ_ONLY:
            self._demoted_at = now
            connection.close()
        keep = keep and error is None and now - connection._pgqueue_born < RENEWED
        if keep and connection.pgconn.transaction_status == TransactionStatus.IDLE:
            with self._lock:
                if self._spare is None and not self._waiting and not self._closed:
                    self._spare = connection
                    return
        self._put(connection)

    def _take(self) -> Any:
        with self._lock:
            spare, self._spare = self._spare, None
            if spare is None:
                self._waiting += 1
        if spare is not None:
            return spare
        try:
            return self._opened().getconn()
        finally:
            with self._lock:
                self._waiting -= 1

    def _put(self, connection: Any) -> None:
        assert self._pool is not None
        self._pool.putconn(connection)

    def _opened(self) -> ConnectionPool[Any]:
        with self._opening:
            if self._pool is None:
                # Fail at once and in the server's words; the pool would only time out.
                connect_sync(self._dsn, timeout=CONNECT_TIMEOUT).close()
                given = parse(self._dsn)
                self._pool = ConnectionPool(
                    libpq_dsn(self._dsn),
                    connection_class=Quiet,
                    kwargs={
                        **{k: v for k, v in KEEPALIVES.items() if k not in given},
                        "autocommit": True,
                        "application_name": "pgqueue",
                        "connect_timeout": CONNECT_TIMEOUT,
                    },
                    min_size=1,
                    max_size=self._size,
                    check=self._check,
                    configure=_configure,
                    open=True,
                    timeout=WAIT,
                    name="pgqueue",
                )
            return self._pool

    def _check(self, connection: Any) -> None:
        """Is it of use? Raises psycopg.OperationalError if not; also for psycopg's pool."""
        if connection.closed:
            raise psycopg.OperationalError("it is closed")
        if connection._pgqueue_born < self._demoted_at:
            raise psycopg.OperationalError("it may lead to a server that refuses writes")
        if time.monotonic() - connection._pgqueue_used > CHECK_AFTER:
            answers(connection)
            connection._pgqueue_used = time.monotonic()

    def close(self) -> None:
        """Close all connections, those in use when they come back."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
        if spare is not None:
            self._put(spare)
        with self._opening:
            if self._pool is not None:
                self._pool.close()


class _Loan(AbstractContextManager[Any]):
    """A connection lent for a block; by ``contextmanager`` it would cost more."""

    def __init__(self, pool: SyncPool) -> None:
        self._pool = pool

    def __enter__(self) -> Any:
        self._connection = self._pool.lend()
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._pool.take_back(self._connection, error, keep=True)


def _configure(connection: Any) -> None:
    connection._pgqueue_born = connection._pgqueue_used = time.monotonic()
    if is_pooled(connection):
        connection.prepare_threshold = None


class Quiet(psycopg.Connection[Any]):
    """A connection whose failures, which its pool logs, hold no password."""

    @classmethod
    def connect(cls, conninfo: str = "", **options: Any) -> Self:
        with without_passwords(conninfo):
            return super().connect(conninfo, **options)
