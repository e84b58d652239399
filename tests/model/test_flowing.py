"""Runs the state machine of workflows: 100 examples here, or TESTS_EXAMPLES."""

from __future__ import annotations

import os

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.flowing import Flows


@pytest.mark.timeout(600)
def test_each_job_becomes_what_the_rules_of_workflows_say(conn: psycopg.Connection) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Flows(conn),
        settings=settings(
            max_examples=int(os.environ.get("TESTS_EXAMPLES", "100")),
            stateful_step_count=40,
            deadline=None,
            derandomize="TESTS_EXAMPLES" not in os.environ,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate] if "TESTS_UNSHRUNK" in os.environ else list(Phase),
        ),
    )
