"""Each mutant can be made: the guards are where the list says."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, place


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_takes_something_out(mutant: Mutant) -> None:
    _, before, after = place(ROOT, mutant)
    assert before != after
