"""Runs the state machine: 200 examples here, TESTS_EXAMPLES of them by ``make fuzz``."""

from __future__ import annotations

import psycopg
import pytest

from tests.model.machine import Queue
from tests.model.running import run_machine


@pytest.mark.timeout(600)
def test_the_queue_does_what_the_model_says(conn: psycopg.Connection) -> None:
    run_machine(lambda: Queue(conn), examples=200, steps=30)
