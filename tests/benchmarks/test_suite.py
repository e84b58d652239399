"""The benchmark suite runs: one tiny scenario with pgqueue beside bare SQL. No speed is asserted."""

from __future__ import annotations

import json
import subprocess
import sys


def test_a_tiny_drain_counts_every_job_once() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "drain", "--contestants", "pgqueue,bare",
         "--scale", "tiny", "--rounds", "1", "--json"],
        capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["measurements"]
    cases = {(m["contestant"], m["case"]) for m in measured if m["metric"] == "rate"}
    assert {
        ("pgqueue", "1 x 100"),
        ("bare", "1 x 100"),
        ("pgbench", "1 x 100"),
    } <= cases
    assert not any(m["faults"] for m in measured)


def test_an_unknown_name_is_refused_in_one_line() -> None:
    for given in (["nothing"], ["drain", "--contestants", "nobody"], ["drain", "--rounds", "0"]):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", *given],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "error:" in done.stderr.splitlines()[-1]
