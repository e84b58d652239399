"""Runs the state machine: 200 examples here, TESTS_EXAMPLES of them by ``make fuzz``."""

from __future__ import annotations

import os

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Queue


@pytest.mark.timeout(600)
def test_the_queue_does_what_the_model_says(conn: psycopg.Connection) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Queue(conn),
        settings=settings(
            max_examples=int(os.environ.get("TESTS_EXAMPLES", "200")),
            stateful_step_count=30,
            deadline=None,
            derandomize="TESTS_EXAMPLES" not in os.environ,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
