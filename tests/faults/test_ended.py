"""Connections that the server, a loop or a process ended: noticed before they are used again."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pgqueue import App
from pgqueue.job import NewJob
from tests.faults.proxy import Proxy
from tests.support import eventually, statuses

Enqueue = Callable[[App], Awaitable[object]]
JOBS = [NewJob("noop", "{}")]
SESSIONS = """
    select pid from pg_stat_activity
     where datname = current_database() and application_name = 'pgqueue' order by pid
"""
END = f"select pg_terminate_backend(pid) from ({SESSIONS}) s"


async def sync(app: App) -> None:
    app.client.insert(JOBS)


async def aio(app: App) -> None:
    await app.aclient.insert(JOBS)


async def sync_handler(app: App) -> None:
    with app.connections.sync() as connection, connection.transaction():
        app.client.insert(JOBS, on=connection)


async def aio_handler(app: App) -> None:
    async with app.connections.aio() as connection, connection.transaction():
        await app.aclient.insert(JOBS, on=connection)


ALL = [sync, aio, sync_handler, aio_handler]


def sessions(conn: psycopg.Connection) -> list[int]:
    return [row[0] for row in conn.execute(SESSIONS.encode()).fetchall()]


@pytest.mark.parametrize("enqueue", ALL)
@pytest.mark.parametrize("loop_sees_it", [False, True])
async def test_a_session_that_the_server_ended_is_replaced(
    app: App, conn: psycopg.Connection, enqueue: Enqueue, loop_sees_it: bool
) -> None:
    for ended in range(3):
        await enqueue(app)
        assert len(sessions(conn)) == 1
        conn.execute(END.encode())
        eventually(lambda: not sessions(conn))
        if loop_sees_it:
            await asyncio.sleep(0.01)
        await enqueue(app)
        assert len(statuses(conn)) == 2 * (ended + 1)


@pytest.mark.parametrize("enqueue", ALL)
async def test_many_that_the_server_ended_are_replaced(
    app: App, conn: psycopg.Connection, enqueue: Enqueue
) -> None:
    """As after a restart: every connection of a pool is dead at once."""
    async with asyncio.timeout(20):
        if enqueue in (sync, sync_handler):
            with ThreadPoolExecutor(8) as threads:
                gate = threading.Barrier(8)
                hold = [threads.submit(_held, app, gate, enqueue is sync) for _ in range(8)]
                [each.result() for each in hold]
        else:
            ours = enqueue is aio
            async with app.connections.aio(ours=ours), app.connections.aio(ours=ours):
                pass
    assert len(sessions(conn)) > 1
    conn.execute(END.encode())
    eventually(lambda: not sessions(conn))
    for _ in range(10):
        await enqueue(app)
    assert len(statuses(conn)) == 10


def _held(app: App, gate: Any, ours: bool) -> None:
    with app.connections.sync(ours=ours):
        gate.wait(10)


@pytest.mark.parametrize("enqueue", ALL)
async def test_one_that_the_role_ends_when_idle_is_not(
    app: App, conn: psycopg.Connection, enqueue: Enqueue
) -> None:
    """idle_session_timeout: ours are told to stay; an application's are replaced."""
    database, user = conn.info.dbname, conn.info.user
    conn.execute(
        f"alter role {user} in database {database} set idle_session_timeout = '500ms'".encode()
    )
    await enqueue(app)
    if enqueue in (sync_handler, aio_handler):
        eventually(lambda: not sessions(conn))
    await enqueue(app)
    assert len(statuses(conn)) == 2


def test_loops_that_end_take_their_connections_along(
    app: App, dsn: str, conn: psycopg.Connection
) -> None:
    @app.task
    def noop() -> None: ...

    for _ in range(30):
        asyncio.run(noop.aenqueue())
    eventually(lambda: not sessions(conn))
    assert len(app.connections._loops) <= 1


def test_loops_that_are_only_closed_do_so_too(app: App, conn: psycopg.Connection) -> None:
    @app.task
    def noop() -> None: ...

    for _ in range(10):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(noop.aenqueue())
        loop.close()
        eventually(lambda: len(sessions(conn)) <= 2)
    app.connections._drop_closed_loops()
    eventually(lambda: not sessions(conn))
    gc.collect()  # and no transport complains that nobody closed it


def test_threads_with_loops_of_their_own(app: App, conn: psycopg.Connection) -> None:
    @app.task
    def noop() -> None: ...

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: asyncio.run(noop.aenqueue()), range(40)))
    eventually(lambda: not sessions(conn))
    assert len(statuses(conn)) == 40


def test_async_to_sync(app: App, conn: psycopg.Connection) -> None:
    asgiref = pytest.importorskip("asgiref.sync")

    @app.task
    def noop() -> None: ...

    for _ in range(10):
        asgiref.async_to_sync(noop.aenqueue)()
    eventually(lambda: len(sessions(conn)) <= 1)
    assert len(statuses(conn)) == 10


# What a forked child does, and what its parent had done before.
PRELOADED = """
import asyncio, os, sys, threading
from pgqueue import App

app = App(sys.argv[1])

@app.task(name="noop")
def noop(number: int) -> None: ...

def sync(number):
    return noop.enqueue(number).id

def aio(number):
    return asyncio.run(noop.aenqueue(number)).id

def handler(number):
    with app.connections.sync() as connection:
        return noop.on(connection).enqueue(number).id

def pid():
    with app.connections.sync(ours=True) as connection:
        return connection.info.backend_pid

act = globals()[sys.argv[2]]
act(0)
before = pid()
if sys.argv[3] == "in_a_loop":
    async def main():
        await noop.aenqueue(0)
        fork()
        await noop.aenqueue(0)
else:
    def main():
        fork()

children = []
def fork():
    for child in range(4):
        if (number := os.fork()) == 0:
            try:
                ids = [act(child) for _ in range(20)]
                assert len(set(ids)) == 20, ids
                assert pid() != before
                sys.stdout.write(f"{child} {' '.join(map(str, ids))}\\n")
                sys.stdout.flush()
                import gc
                gc.collect()
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            if child % 2:
                sys.exit(0)  # with all that finalization does
            os._exit(0)
        children.append(number)

if sys.argv[3] == "in_a_loop":
    asyncio.run(main())
else:
    main()
assert [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children] == [0] * 4
assert pid() == before, "the parent lost its connection"
act(0)
"""


@pytest.mark.parametrize("how", ["plainly", "in_a_loop"])
@pytest.mark.parametrize("act", ["sync", "aio", "handler"])
def test_a_forked_process_has_connections_of_its_own(
    dsn: str, conn: psycopg.Connection, act: str, how: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELOADED, dsn, act, how],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    ids = [line.split()[1:] for line in done.stdout.splitlines()]
    assert sorted(map(len, ids)) == [20] * 4
    assert len({each for line in ids for each in line}) == 80


# A process that forks while its threads use connections: whatever they hold is not waited for.
BUSY = """
import os, sys, threading
from pgqueue import App

app = App(sys.argv[1])

@app.task(name="noop")
def noop() -> None: ...

stop = threading.Event()
def enqueue():
    while not stop.is_set():
        noop.enqueue()

threads = [threading.Thread(target=enqueue) for _ in range(4)]
noop.enqueue()
[t.start() for t in threads]
for _ in range(20):
    if (child := os.fork()) == 0:
        noop.enqueue()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
[t.join() for t in threads]
"""


def test_a_process_that_forks_while_others_enqueue(dsn: str, conn: psycopg.Connection) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUSY, dsn], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(statuses(conn)) > 21


# A worker one of whose jobs forks: the child's end tells the server nothing.
WORKER = """
import os, sys, gc
from pgqueue import App, Worker

app = App(sys.argv[1])

@app.task(name="forks")
def forks() -> None:
    if (child := os.fork()) == 0:
        gc.collect()
        app.connections.close()
        with app.connections.sync(ours=True) as connection:
            connection.execute("select 1")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

if __name__ == "__main__":
    for _ in range(3):
        forks.enqueue()
    Worker(app, drain=True, concurrency=1).run()
"""


def test_a_job_that_forks_leaves_the_worker_its_connections(
    dsn: str, conn: psycopg.Connection
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WORKER, dsn], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no database" not in done.stderr
    assert set(statuses(conn).values()) == {"succeeded"}


def leave(proxy: Proxy) -> None:
    proxy.refuse = True
    proxy.reset()


@pytest.fixture
def away(proxy: Proxy, through: str) -> Iterator[App]:
    app = App(through)
    yield app
    app.close()


@pytest.mark.parametrize("enqueue", ALL)
async def test_an_outage_fails_calls_at_once_and_none_after_it(
    away: App, proxy: Proxy, conn: psycopg.Connection, enqueue: Enqueue
) -> None:
    await enqueue(away)
    leave(proxy)
    begun = time.monotonic()
    for _ in range(20):
        with pytest.raises(Exception, match=r"(?i)connect|closed"):
            await enqueue(away)
    assert time.monotonic() - begun < 10  # not each after a wait of its own
    proxy.refuse = False
    await enqueue(away)
    assert len(statuses(conn)) == 2
    await away.aclose()


# Children of multiprocessing with "fork", as test suites and old code use it.
MULTIPROCESSING = """
import multiprocessing, sys
from pgqueue import App

app = App(sys.argv[1])

@app.task(name="noop")
def noop() -> None: ...

noop.enqueue()
fork = multiprocessing.get_context("fork")
children = [fork.Process(target=noop.enqueue) for _ in range(5)]
[child.start() for child in children]
[child.join() for child in children]
assert [child.exitcode for child in children] == [0] * 5
noop.enqueue()
"""


def test_children_of_multiprocessing(dsn: str, conn: psycopg.Connection) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MULTIPROCESSING, dsn], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(statuses(conn)) == 7
