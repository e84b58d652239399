"""The proxy breaks what it says it breaks."""

from __future__ import annotations

import asyncpg
import psycopg
import pytest

from pgqueue.connect import asyncpg_uri
from tests.faults.proxy import Proxy


def test_it_passes_then_resets_then_refuses(proxy: Proxy, through: str) -> None:
    with psycopg.connect(through) as conn:
        assert conn.execute("select 1").fetchone() == (1,)
        proxy.reset()
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select 1")
    proxy.refuse = True
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(through)


@pytest.mark.parametrize("mode", ["drop_replies", "blackhole"])
async def test_a_swallowed_statement(
    proxy: Proxy, through: str, conn: psycopg.Connection, mode: str
) -> None:
    conn.execute("create table seen (id int)")
    there = await asyncpg.connect(asyncpg_uri(through))
    proxy.mode = mode  # type: ignore[assignment]
    with pytest.raises(TimeoutError):
        await there.execute("insert into seen values (1)", timeout=0.3)
    there.terminate()
    count = conn.execute("select count(*) from seen").fetchone()
    assert count == ((1,) if mode == "drop_replies" else (0,))


async def test_an_error_in_the_servers_place(proxy: Proxy, through: str) -> None:
    there = await asyncpg.connect(asyncpg_uri(through))
    proxy.error = "53100"
    with pytest.raises(asyncpg.DiskFullError):
        await there.fetch("select $1::int", 1)
    proxy.error = None
    assert await there.fetchval("select 2") == 2
    await there.close()
