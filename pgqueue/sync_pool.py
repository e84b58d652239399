"""A pool of psycopg connections that gives out only connections that are of use."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import Lock, Semaphore
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from pgqueue.connect import connect_sync
from pgqueue.errors import ConnectionTimeout
from pgqueue.liveness import CHECK_AFTER, CONNECT_TIMEOUT, READ_ONLY, answers, has_word
from pgqueue.pinning import CLIENT_LIMIT, pin
from pgqueue.pooler import is_pooled

WAIT = 10.0  # seconds for a connection when all are in use
RENEWED = 3600.0  # a connection that is older is closed when it comes back
UNUSED = 600.0  # one that was not needed for so long is closed
PREPARE_THRESHOLD = 5
_DONE = (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)


class SyncPool:
    """At most ``size`` connections in autocommit mode, opened by the threads that need them.

    So an outage fails the call at hand, at once and in the server's words, and the first call after it
    succeeds. For any number of threads.

    Args:
        ours: the connections run single statements of pgqueue, whose settings are pinned and which
            leave nothing behind in the session; else they are an application's, as its role has them.
    """

    def __init__(self, dsn: str, *, size: int, ours: bool) -> None:
        self._dsn, self._size, self._ours = dsn, size, ours
        self._free = Semaphore(size)
        self._lock = Lock()
        self._idle: deque[Any] = deque()  # the last one that came back is the next to go out
        self._closed = False
        self._demoted_at = 0.0

    def connection(self) -> AbstractContextManager[Any]:
        """A connection, for the length of the block.

        Raises:
            ConnectionTimeout: all are in use, and none came back in time.
        """
        return _Loan(self) if self._ours else self._theirs()

    def grow(self, size: int) -> None:
        """Have at least so many connections."""
        with self._lock:
            more, self._size = max(size - self._size, 0), max(size, self._size)
        if more:
            self._free.release(more)

    @contextmanager
    def _theirs(self) -> Iterator[Any]:
        connection = self.lend()
        error: BaseException | None = None
        try:
            yield connection
            if connection.pgconn.transaction_status not in _DONE:
                connection.commit()
        except BaseException as caught:
            error = caught
            with suppress(psycopg.Error):
                connection.rollback()
            raise
        finally:
            self.take_back(connection, error)

    def lend(self) -> Any:
        """A connection that is of use, to be taken back."""
        if not self._free.acquire(blocking=False) and not self._free.acquire(timeout=WAIT):
            raise ConnectionTimeout(self._size, WAIT, ours=self._ours)
        try:
            return self._idle_one() or self._new_one()
        except BaseException:
            self._free.release()
            raise

    def take_back(self, connection: Any, error: BaseException | None) -> None:
        """Keep a connection for the next, or close it; ``error`` is what its use ended with."""
        now = time.monotonic()
        if isinstance(error, psycopg.Error) and error.sqlstate == READ_ONLY:
            self._demoted_at = now
        sound = (
            connection.pgconn.transaction_status == TransactionStatus.IDLE
            and self._demoted_at < connection._pgqueue_born
            and now - connection._pgqueue_born < RENEWED
        )
        connection._pgqueue_used = now
        unused: list[Any] = [] if sound else [connection]
        with self._lock:
            if sound and self._closed:
                unused.append(connection)
            elif sound:
                self._idle.append(connection)
            while self._idle and now - self._idle[0]._pgqueue_used > UNUSED:
                unused.append(self._idle.popleft())
        self._free.release()
        for each in unused:
            each.close()

    def _idle_one(self) -> Any:
        """The connection that came back last and is still of use; None if there is none."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            try:
                good = self._is_good(connection)
            except BaseException:
                connection.close()
                raise
            if good:
                return connection
            connection.close()

    def _is_good(self, connection: Any) -> bool:
        if connection._pgqueue_born < self._demoted_at:
            return False
        if time.monotonic() - connection._pgqueue_used <= CHECK_AFTER and not has_word(connection):
            return True
        if connection.closed:
            return False
        try:
            answers(connection)
        except psycopg.Error:
            return False
        return True

    def _new_one(self) -> Any:
        connection: Any = connect_sync(self._dsn, timeout=CONNECT_TIMEOUT)
        try:
            pooled = (
                not pin(connection, "pin_client", limit=CLIENT_LIMIT)
                if self._ours
                else is_pooled(connection)
            )
        except BaseException:
            connection.close()
            raise
        connection.prepare_threshold = None if pooled else PREPARE_THRESHOLD
        connection._pool = None  # psycopg then takes its end with the program for what it is
        connection._pgqueue_born = connection._pgqueue_used = time.monotonic()
        return connection

    def close(self) -> None:
        """Close all connections, those in use when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()


class _Loan(AbstractContextManager[Any]):
    """A connection lent for a block; by ``contextmanager`` it would cost more."""

    def __init__(self, pool: SyncPool) -> None:
        self._pool = pool

    def __enter__(self) -> Any:
        self._connection = self._pool.lend()
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._pool.take_back(self._connection, error)
