"""Runs the state machine of limits: 60 examples here, or TESTS_EXAMPLES."""

from __future__ import annotations

import os

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.limiting import Limiting


@pytest.mark.timeout(600)
def test_each_claim_takes_what_the_rules_of_limits_say(conn: psycopg.Connection) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Limiting(conn),
        settings=settings(
            max_examples=int(os.environ.get("TESTS_EXAMPLES", "60")),
            stateful_step_count=15,
            deadline=None,
            derandomize="TESTS_EXAMPLES" not in os.environ,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate] if "TESTS_UNSHRUNK" in os.environ else list(Phase),
        ),
    )
