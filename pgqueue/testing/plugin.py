"""The pytest plugin: a fixture ``pgq``, once two fixtures of your own say what it works on."""

from __future__ import annotations

from typing import Any

import pytest

from pgqueue.app import App
from pgqueue.testing.tester import QueueTester


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
def pgq(pgqueue_app: App, pgqueue_connection: Any) -> QueueTester:
    """Looks at what was enqueued on the test's connection, and runs it there."""
    return QueueTester(pgqueue_app, pgqueue_connection)
