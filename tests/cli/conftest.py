"""The command line on a database, with a few jobs."""

from __future__ import annotations

import asyncio

import pytest

from pgqueue import App
from tests.cli.support import Cli
from tests.support import drain


@pytest.fixture
def cli(dsn: str) -> Cli:
    return Cli(dsn)


@pytest.fixture
def dead(dsn: str) -> list[int]:
    """Two dead jobs, one pending later."""
    app = App(dsn)

    @app.task(name="mail", queue="mail", max_retries=0)
    def mail(to: str) -> None:
        raise ValueError(f"[red]no such mailbox[/red] \x1b[31m{to}")

    ids = [mail.enqueue(to).id for to in ("a", "b")]
    mail.with_delay("1h").enqueue("c")
    asyncio.run(drain(app))
    app.close()
    return ids
