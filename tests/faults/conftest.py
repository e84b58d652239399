"""The test's database through a proxy that breaks the network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue.worker import database, notifier
from tests.faults.proxy import Proxy


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    parts = conninfo_to_dict(dsn)
    with Proxy(str(parts["host"]), int(str(parts["port"]))) as proxy:
        yield proxy


@pytest.fixture
def through(dsn: str, proxy: Proxy) -> str:
    return make_conninfo(dsn, host="127.0.0.1", port=proxy.port)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed after two seconds, and asked about after a fraction of one."""
    monkeypatch.setattr(database, "PATIENCE", 2.0)
    monkeypatch.setattr(database, "CONNECT_TIMEOUT", 3.0)
    for module in (database, notifier):
        monkeypatch.setattr(module, "CHECK_AFTER", 0.2)
