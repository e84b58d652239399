"""How the state machines are run: a fixed set of examples, or TESTS_EXAMPLES of them by ``make fuzz``."""

from __future__ import annotations

import os
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def run_machine(machine: Callable[[], RuleBasedStateMachine], *, examples: int, steps: int) -> None:
    """The same examples each time, unless more are asked for; TESTS_UNSHRUNK: a failure is not made smaller."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=int(os.environ.get("TESTS_EXAMPLES", str(examples))),
            stateful_step_count=steps,
            deadline=None,
            derandomize="TESTS_EXAMPLES" not in os.environ,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate] if "TESTS_UNSHRUNK" in os.environ else list(Phase),
        ),
    )
