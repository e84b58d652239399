"""Commands and calls on a standby, or on a database that is away: a sentence each, and an end."""

from __future__ import annotations

import psycopg
import pytest

from pgqueue import App, DatabaseReadOnly
from pgqueue.worker import runtime
from pgqueue.worker.database import DatabaseAway
from tests.cli.support import Cli
from tests.servers.pair import Pair
from tests.support import drain

AWAY = "postgresql://postgres@127.0.0.1:1/x"


async def test_a_standby_says_so(servers: Pair) -> None:
    app = App(servers.standby)

    @app.task(name="t")
    def t() -> None: ...

    servers.replicated()
    for enqueue in (
        t.enqueue,
        lambda: app.enqueue_many([t.call()] * 500),
        lambda: app.client.pause("x"),
    ):
        with pytest.raises(DatabaseReadOnly, match="takes no writes: it is a standby"):
            enqueue()
    with pytest.raises(DatabaseReadOnly, match="takes no writes"):
        await t.aenqueue()
    with psycopg.connect(servers.standby) as conn:
        with pytest.raises(DatabaseReadOnly, match="takes no writes"):
            t.on(conn).enqueue()
    with pytest.raises(DatabaseReadOnly, match="takes no writes"):
        await drain(app)
    await app.aclose()
    cli = Cli(servers.standby)
    assert "takes no writes" in cli("pause", "mail", code=1).stderr
    assert "takes no writes" in cli("migrate", code=1).stderr


async def test_a_drain_gives_up_a_database_that_is_away(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "DRAIN_WITHIN", 0.2)
    for dsns in ([AWAY], [dsn, AWAY]):
        app = App(dsns)

        @app.task(name="t")
        def t() -> None: ...

        with pytest.raises(DatabaseAway, match="did not answer within"):
            await drain(app)
