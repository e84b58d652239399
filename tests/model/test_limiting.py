"""Runs the state machine of limits: 60 examples here, or TESTS_EXAMPLES."""

from __future__ import annotations

import psycopg
import pytest

from tests.model.limiting import Limiting
from tests.model.running import run_machine


@pytest.mark.timeout(600)
def test_each_claim_takes_what_the_rules_of_limits_say(conn: psycopg.Connection) -> None:
    run_machine(lambda: Limiting(conn), examples=60, steps=15)
