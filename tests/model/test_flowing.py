"""Runs the state machine of workflows: 100 examples here, or TESTS_EXAMPLES."""

from __future__ import annotations

import psycopg
import pytest

from tests.model.flowing import Flows
from tests.model.running import run_machine


@pytest.mark.timeout(600)
def test_each_job_becomes_what_the_rules_of_workflows_say(conn: psycopg.Connection) -> None:
    run_machine(lambda: Flows(conn), examples=100, steps=40)
