"""A failover that loses the last commits: nothing is recorded twice, and the worker goes on."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import App, DatabaseReadOnly, Worker
from pgqueue.connect import connect_async, connect_pipelined, connect_sync
from pgqueue.operations import Operation, claims
from pgqueue.operations.claims import Finished
from pgqueue.outcome import SUCCEEDED
from pgqueue.worker.database import Database
from tests.faults.proxy import Proxy
from tests.servers.pair import Pair
from tests.support import eventually_async, statuses

BY_ATTEMPT = """
    update pgqueue.jobs set status = 'succeeded', finished_at = now(), claim_id = null,
           worker_id = null, lease_expires_at = null
     where id = %s and status = 'running' and attempt = %s
"""


def sweep() -> Operation[Any]:
    return claims.sweep(None, limit=1, claim_id=uuid4(), worker_id=uuid4(), lease=60.0)


async def test_a_claim_that_the_failover_lost_cannot_complete_the_next(servers: Pair) -> None:
    app = App(servers.primary)

    @app.task
    def noop() -> None: ...

    noop.enqueue()
    app.close()
    servers.replicated()
    servers.cut()
    old, new = Database(servers.primary, "pgqueue"), Database(servers.standby, "pgqueue")
    (first,) = (await old.run(sweep())).jobs
    servers.kill_primary()
    servers.promote()
    (second,) = (await new.run(sweep())).jobs
    assert (second.id, second.attempt) == (first.id, first.attempt) == (first.id, 1)
    with psycopg.connect(servers.standby) as conn:  # what a weaker fence would have let through
        assert conn.execute(BY_ATTEMPT, (first.id, first.attempt)).rowcount == 1
        conn.rollback()
    late = Finished(first.id, first.claim_id, SUCCEEDED, 0.1)
    assert await new.run(claims.complete([late], delete=False)) == []
    own = Finished(second.id, second.claim_id, SUCCEEDED, 0.1)
    assert await new.run(claims.complete([own], delete=False)) == [second.id]
    await old.close()
    await new.close()


@pytest.mark.parametrize("uri", [True, False], ids=["uri", "key-value"])
@pytest.mark.parametrize("lives_on", [False, True], ids=["killed", "demoted"])
async def test_the_worker_goes_on_at_the_new_primary(
    servers: Pair, uri: bool, lives_on: bool
) -> None:
    """Also when its connections still lead to the old one, which only reads now."""
    app = App(servers.dsn(uri=uri))

    @app.task(name="noop")
    async def noop() -> None: ...

    await noop.aenqueue()
    worker = Worker(app, lease=3)
    running = asyncio.create_task(worker.arun())
    with psycopg.connect(servers.primary, autocommit=True) as conn:
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
    servers.replicated()
    servers.cut()
    servers.demote() if lives_on else servers.kill_primary()
    servers.promote()
    promoted = asyncio.get_running_loop().time()
    with psycopg.connect(servers.standby, autocommit=True) as conn:
        conn.execute("select pgqueue.enqueue('noop', '{}')")
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
        print(f"recovered {asyncio.get_running_loop().time() - promoted:.1f} s after the promotion")
        await eventually_async(  # the heartbeat's connection as well
            lambda: conn.execute(
                "select 1 from pgqueue.workers where seen_at > now() - interval '2s'"
            ).fetchone()
        )
    worker.stop()
    await running


async def test_a_pool_does_not_keep_connections_to_a_demoted_server(servers: Pair) -> None:
    app = App(servers.dsn(uri=True))

    @app.task(name="noop")
    async def noop() -> None: ...

    noop.enqueue()
    await noop.aenqueue()
    servers.cut()
    servers.demote()
    servers.promote()
    with pytest.raises(DatabaseReadOnly, match="takes no writes"):
        noop.enqueue()
    with pytest.raises(DatabaseReadOnly, match="takes no writes"):
        await noop.aenqueue()
    noop.enqueue()
    await noop.aenqueue()
    await app.aclose()


async def _connects_to_the_standby(servers: Pair, dsn: str) -> None:
    there = str(conninfo_to_dict(servers.standby)["port"])
    a = await connect_async(dsn, timeout=2.0)
    assert await a.fetchval("show port") == there
    await a.close()
    async with await connect_pipelined(dsn, timeout=2.0) as p:
        assert str(p.info.port) == there
    with connect_sync(dsn, timeout=2.0) as s:
        assert str(s.info.port) == there


async def test_a_host_that_shuts_down_is_passed_over(servers: Pair) -> None:
    servers.cut()
    servers.promote()
    with servers.closing_primary():
        await _connects_to_the_standby(servers, servers.dsn(uri=True))


async def test_a_silent_host_is_passed_over(servers: Pair) -> None:
    servers.cut()
    servers.promote()
    with Proxy("127.0.0.1", int(conninfo_to_dict(servers.primary)["port"])) as proxy:
        proxy.mode = "blackhole"
        port = conninfo_to_dict(servers.standby)["port"]
        dsn = make_conninfo(servers.dsn(uri=True), port=f"{proxy.port},{port}")
        await _connects_to_the_standby(servers, dsn)
        app = App(dsn)

        @app.task
        async def noop() -> None: ...

        noop.enqueue()
        await noop.aenqueue()
        await app.aclose()
