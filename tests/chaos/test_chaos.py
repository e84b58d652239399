"""A short run of the kill harness: every kind of fault once, nothing lost, nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.faults import KINDS
from tests.chaos.ledger import MUST_BE_ZERO

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)
def test_every_kind_of_fault_once() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--faults", str(len(KINDS)), "--rate", "150",
         "--alone", "1", "--concurrency", "20", "--lease", "2", "--gap", "1", "--lasting", "1",
         "--fsync", "off", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert {name: result[name] for name in MUST_BE_ZERO} == dict.fromkeys(MUST_BE_ZERO, 0)
    assert sorted(result["recovery"]) == sorted(KINDS)
    assert result["rolled_back"] > 0
    assert result["finished"] >= result["enqueued"] - result["commit_unknown"] > 0
