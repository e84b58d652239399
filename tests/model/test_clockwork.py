"""Runs the state machine of schedules: 60 examples of each kind, or TESTS_EXAMPLES."""

from __future__ import annotations

import os

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.clockwork import Clockwork


@pytest.mark.parametrize(("catch_up", "overlap"), [("all", "allow"), ("latest", "skip")])
def test_a_tick_gives_at_most_one_job(
    conn: psycopg.Connection, catch_up: str, overlap: str
) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Clockwork(conn, catch_up, overlap),
        settings=settings(
            max_examples=int(os.environ.get("TESTS_EXAMPLES", "60")),
            stateful_step_count=25,
            deadline=None,
            derandomize="TESTS_EXAMPLES" not in os.environ,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
