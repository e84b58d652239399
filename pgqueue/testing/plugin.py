"""The pytest plugin: fixtures ``pgq`` and ``apgq``, once fixtures of your own say what they work on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pgqueue.app import App
from pgqueue.testing.tester import AsyncQueueTester, QueueTester


@pytest.fixture
def pgqueue_app() -> App:
    """Your app: override it in conftest.py."""
    raise pytest.UsageError("pgq needs your app: define a fixture pgqueue_app that returns it")


@pytest.fixture
def pgqueue_connection() -> Any:
    """The test's connection, which it rolls back: override it in conftest.py."""
    raise pytest.UsageError(
        "pgq needs the test's connection: define a fixture pgqueue_connection that returns it"
    )


@pytest.fixture
def pgqueue_async_connection() -> Any:
    """The async connection or session of the test, which it rolls back: override it in conftest.py."""
    raise pytest.UsageError(
        "apgq needs the test's connection: define a fixture pgqueue_async_connection that returns it"
    )


@pytest.fixture
def pgqueue_join() -> bool:
    """Whether jobs enqueued without ``.on()`` join the test's connection; by default they are refused."""
    return False


@pytest.fixture
def pgq(pgqueue_app: App, pgqueue_connection: Any, pgqueue_join: bool) -> Iterator[QueueTester]:
    """Looks at what was enqueued on the test's connection, and runs it there."""
    with QueueTester(pgqueue_app, pgqueue_connection, join=pgqueue_join) as tester:
        yield tester


@pytest.fixture
def apgq(
    pgqueue_app: App, pgqueue_async_connection: Any, pgqueue_join: bool
) -> Iterator[AsyncQueueTester]:
    """The same on an async connection; its verbs are awaited."""
    tester = AsyncQueueTester(pgqueue_app, pgqueue_async_connection, join=pgqueue_join)
    tester._keep(pgqueue_join)
    yield tester
    tester._let_go()
