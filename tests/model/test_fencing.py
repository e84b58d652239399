"""Which fences hold under which faults: the broken ones are expected, and must be found."""

from __future__ import annotations

import pytest

from tests.model.fencing import Faults, Fence, counterexample

WORLDS = {
    "crash and pause": Faults(),
    "lost reply": Faults(lost_reply=True),
    "release": Faults(give_back=True),
    "admin": Faults(admin=True),
    "failover": Faults(failover=True),
    "all": Faults(lost_reply=True, give_back=True, admin=True, failover=True),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("fence", [Fence.NOTHING, Fence.STATUS])
def test_fencing_by_nothing_or_by_status_breaks(fence: Fence, world: str) -> None:
    assert counterexample(fence, WORLDS[world])


@pytest.mark.parametrize("world", ["lost reply", "release", "admin", "failover", "all"])
def test_fencing_by_attempt_breaks_where_attempts_repeat(world: str) -> None:
    assert counterexample(Fence.ATTEMPT, WORLDS[world])


def test_fencing_by_attempt_holds_while_attempts_only_grow() -> None:
    assert counterexample(Fence.ATTEMPT, WORLDS["crash and pause"]) is None


@pytest.mark.parametrize("world", WORLDS)
def test_fencing_by_claim_id_holds(world: str) -> None:
    assert counterexample(Fence.CLAIM_ID, WORLDS[world]) is None


@pytest.mark.parametrize("fence", Fence)
def test_a_rescue_that_does_not_look_again_breaks_under_every_fence(fence: Fence) -> None:
    assert counterexample(fence, Faults(unguarded_rescue=True))
