"""Runs the state machine of schedules: 60 examples of each kind, or TESTS_EXAMPLES."""

from __future__ import annotations

import psycopg
import pytest

from tests.model.clockwork import Clockwork
from tests.model.running import run_machine


@pytest.mark.parametrize(("catch_up", "overlap"), [("all", "allow"), ("latest", "skip")])
def test_a_tick_gives_at_most_one_job(
    conn: psycopg.Connection, catch_up: str, overlap: str
) -> None:
    run_machine(lambda: Clockwork(conn, catch_up, overlap), examples=60, steps=25)
