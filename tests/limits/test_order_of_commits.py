"""What runs in order runs in the order of ids, which is not that of commits: docs/rules/limits.md says so."""

from __future__ import annotations

import psycopg

from pgqueue import App, Context
from tests.support import drain


async def test_of_two_open_transactions_the_one_that_commits_first_runs_first(
    app: App, dsn: str
) -> None:
    ran: list[int] = []

    @app.task(name="t", order_by="account")
    async def t(ctx: Context, account: str) -> None:
        ran.append(ctx.id)

    with psycopg.connect(dsn) as one, psycopg.connect(dsn) as two:
        first = t.on(one).enqueue("a").id
        second = t.on(two).enqueue("a").id
        two.commit()
        await drain(app)
        assert ran == [second]
        one.commit()
    await drain(app)
    assert first < second
    assert ran == [second, first]


async def test_those_of_one_transaction_run_in_its_order(app: App, dsn: str) -> None:
    ran: list[int] = []

    @app.task(name="t", order_by="account")
    async def t(ctx: Context, account: str) -> None:
        ran.append(ctx.id)

    with psycopg.connect(dsn) as one:
        ids = [t.on(one).enqueue("a").id for _ in range(5)]
    await drain(app)
    assert ran == ids
