"""The pools of an application, when the other end of their connections is gone without a word."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

from pgqueue import (
    App,
    ConnectionTimeout,
    Context,
    Worker,
    async_pool,
    connections,
    liveness,
    sync_pool,
)
from pgqueue.job import NewJob
from pgqueue.sync_pool import SyncPool
from tests.faults.proxy import Proxy
from tests.support import statuses

Enqueue = Callable[[App], Awaitable[object]]


async def sync(app: App) -> None:
    await asyncio.to_thread(app.client.insert, [NewJob("noop", "{}")])


async def aio(app: App) -> None:
    await app.aclient.insert([NewJob("noop", "{}")])


@pytest.fixture
async def far(through: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """An app behind the proxy that always asks whether a connection is of use, for a second."""
    for module in (sync_pool, async_pool):
        monkeypatch.setattr(module, "CHECK_AFTER", 0.0)
    monkeypatch.setattr(async_pool, "CLOSE_WITHIN", 1.0)
    monkeypatch.setattr(liveness, "PATIENCE", 1.0)
    app = App(through)
    yield app
    await app.aclose()


@pytest.mark.parametrize("enqueue", [sync, aio])
async def test_a_dead_connection_is_replaced_before_it_is_handed_out(
    far: App, proxy: Proxy, conn: psycopg.Connection, enqueue: Enqueue
) -> None:
    await enqueue(far)
    proxy.cut()
    async with asyncio.timeout(20):
        await enqueue(far)
    assert len(statuses(conn)) == 2


@pytest.mark.usefixtures("far")
async def test_a_connection_whose_check_is_cancelled_goes_back(through: str, proxy: Proxy) -> None:
    pools = connections.Connections(through, size=1)
    async with pools.aio(ours=True):
        pass
    proxy.cut()
    taking = asyncio.create_task(pools.aio(ours=True).__aenter__())
    await asyncio.sleep(0)  # now it waits for the answer
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    async with asyncio.timeout(20), pools.aio(ours=True) as connection:
        assert await connection.fetchval("select 1") == 1
    await pools.aclose()


@pytest.mark.usefixtures("far")
def test_a_connection_that_comes_back_is_given_to_who_waits(through: str) -> None:
    pool = SyncPool(through, size=1, ours=True)
    first = pool.lend()
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(taken, pool)
        pool.take_back(first, None)
        assert other.result(timeout=8) == first.info.backend_pid
    pool.close()


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.usefixtures("far")
def test_many_threads_share_few_connections(
    through: str, size: int, conn: psycopg.Connection
) -> None:
    pool = SyncPool(through, size=size, ours=True)
    with ThreadPoolExecutor(8) as threads:
        pids = set(threads.map(taken, [pool] * 200))
    assert 1 <= len(pids) <= size
    pool.close()


def test_a_block_that_left_a_transaction_open_has_it_committed(through: str) -> None:
    pool = SyncPool(through, size=1, ours=False)
    with pool.connection() as connection:
        connection.execute("begin")
        connection.execute("create table left_open (id int)")
    with pytest.raises(KeyError), pool.connection() as connection:
        connection.execute("begin")
        connection.execute("drop table left_open")
        raise KeyError
    with pool.connection() as connection:
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert connection.execute("select count(*) from left_open").fetchone() == (0,)
    pool.close()


def test_what_is_not_idle_is_not_kept(through: str) -> None:
    pool = SyncPool(through, size=1, ours=True)
    with pool.connection() as connection:
        connection.execute("begin")  # nothing of ours does
    assert connection.closed
    pool.close()


def test_old_and_unneeded_connections_are_closed(
    through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = SyncPool(through, size=2, ours=True)
    with pool.connection() as first, pool.connection() as second:
        pass
    assert len(pool._idle) == 2
    monkeypatch.setattr(sync_pool, "UNUSED", 0.0)
    with pool.connection() as again:
        assert again is first
    assert second.closed
    monkeypatch.setattr(sync_pool, "UNUSED", 600.0)
    monkeypatch.setattr(sync_pool, "RENEWED", 0.0)
    with pool.connection() as last:
        pass
    assert last.closed
    pool.close()


def test_a_connection_that_comes_back_after_the_end_is_closed(through: str) -> None:
    pool = SyncPool(through, size=1, ours=True)
    with pool.connection() as connection:
        pool.close()
        connection.execute("select 1")
    assert connection.closed


async def test_a_wait_for_a_connection_ends_with_a_sentence(
    through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sync_pool, async_pool):
        monkeypatch.setattr(module, "WAIT", 0.1)
    pools = connections.Connections(through, size=1)
    said = "within 0.1 s: all 1 of this process for handlers"
    with pools.sync(), pytest.raises(ConnectionTimeout, match=said), pools.sync():
        pass
    async with pools.aio():
        with pytest.raises(ConnectionTimeout, match=said):
            async with pools.aio():
                pass
        async with pools.aio(ours=True) as own:  # a statement of ours does not wait for a handler
            assert await own.fetchval("select 1") == 1
    await pools.aclose()


def taken(pool: SyncPool) -> int:
    with pool.connection() as connection:
        connection.execute("select 1")
        pid: int = connection.info.backend_pid
        return pid


async def test_a_live_connection_is_kept(far: App) -> None:
    pids: list[set[int]] = [set(), set()]
    for _ in range(3):
        with far.connections.sync() as connection:
            pids[0].add(connection.info.backend_pid)
        async with far.connections.aio() as other:
            pids[1].add(other.get_server_pid())
    assert [len(each) for each in pids] == [1, 1]


@pytest.mark.parametrize("enqueue", [sync, aio])
async def test_closing_does_not_wait_for_the_dead(far: App, proxy: Proxy, enqueue: Enqueue) -> None:
    await enqueue(far)
    proxy.cut()
    async with asyncio.timeout(20):
        await far.aclose()


async def test_a_worker_ends_though_a_handler_holds_a_dead_connection(
    far: App, proxy: Proxy, conn: psycopg.Connection
) -> None:
    held = asyncio.Event()

    @far.task(name="holds")
    async def holds(ctx: Context) -> None:
        async with far.connections.aio() as connection:
            held.set()
            proxy.cut()
            await connection.execute("select 1")

    await holds.aenqueue()
    worker = Worker(far, grace=0)
    running = asyncio.create_task(worker.arun())
    await held.wait()
    worker.stop()
    async with asyncio.timeout(40):
        await running
    # Given back, or left to its lease where no new connection came in the time that a worker has to end.
    assert statuses(conn)[1] in ("pending", "running")


async def test_the_kernel_watches_over_statements_that_wait(far: App) -> None:
    with far.connections.sync() as connection:
        assert keepalive(os.dup(connection.pgconn.socket)) == (5, 10_000)
    async with far.connections.aio() as connection:
        own = connection._transport.get_extra_info("socket")
        assert keepalive(os.dup(own.fileno())) == (5, 10_000)


async def test_a_dsn_may_say_otherwise(through: str) -> None:
    app = App(make_conninfo(through, keepalives_idle=60))
    with app.connections.sync() as connection:
        assert keepalive(os.dup(connection.pgconn.socket)) == (60, 10_000)
    app.close()


def keepalive(descriptor: int) -> tuple[int, int]:
    with socket.socket(fileno=descriptor) as own:
        assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        return (
            own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        )
