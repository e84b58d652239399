"""The pure parts of the benchmark suite: counting, statistics, targets, the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import claimlog, ledger, profile, report
from benchmarks.ledger import Ledger, merge
from benchmarks.measurement import Collector, Measurement, beside, from_json, percentile, windows
from benchmarks.reach import Figures, Target


def test_a_run_in_which_every_job_ran_once_is_a_result() -> None:
    tally = merge(3, [(0, [5, 0, 0], b"\1\0\0"), (1, [0, 6, 7], b"\0\1\1")])
    assert tally.fault == ""
    assert (tally.counted, tally.waited) == (3, 1)


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ([(0, [5, 0], b"\1\0")], "1 of 2 jobs did not run"),
        ([(0, [5, 6], b"\2\1")], "1 ran more than once"),
        ([(0, [5, 6], b"\1\1"), (0, [0, 7], b"\0\1")], "1 ran more than once"),
        ([], "2 of 2 jobs did not run"),
    ],
)
def test_lost_and_repeated_jobs_are_noticed(
    files: list[tuple[int, list[int], bytes]], fault: str
) -> None:
    assert merge(2, files).fault == fault


def test_the_rate_leaves_out_what_waited_at_the_gate() -> None:
    second = 1_000_000_000
    tally = merge(4, [(1, [10 * second, 11 * second, 11 * second, 12 * second], b"\1\1\1\1")])
    assert tally.rate(10.0) == 1.5


def test_of_a_long_ledger_a_part_is_looked_at_until_it_is_nearly_full(tmp_path: Path) -> None:
    jobs = 20_000
    own, progress = Ledger(tmp_path, jobs), ledger.Progress(tmp_path, jobs)
    for number in range(10_000):
        own.record(number)
    assert progress.started(jobs) == 61 * 164  # estimated
    for number in range(10_000, jobs - 1):
        own.record(number)
    assert progress.started(jobs) == jobs - 1
    own.record(jobs - 1)
    assert progress.started(jobs) == jobs


def test_a_ledger_on_disk_is_read_as_it_was_written(tmp_path: Path) -> None:
    own = Ledger(tmp_path, 3)
    own.record(0)
    own.record(2)
    own.record(2)
    own.record(9)  # beyond it: a job that only makes up a backlog
    assert ledger.Progress(tmp_path, 3).started(3) == 2
    tally = ledger.read(tmp_path, 3)
    assert (tally.lost, tally.repeated, tally.beyond) == (1, 1, 1)
    assert tally.starts[2] >= tally.starts[0] > 0


def test_of_the_log_only_the_execution_of_claims_counts() -> None:
    claim = "with pick as (select 1 for update of j skip locked) update"
    messages = [
        f"duration: 2.500 ms  execute __asyncpg_stmt_1__: {claim}",
        f"duration: 9.000 ms  bind __asyncpg_stmt_1__: {claim}",
        "duration: 9.000 ms  execute __asyncpg_stmt_2__: select 1",
        f"automatic vacuum of {claim}",
    ]
    lines = [json.dumps({"pid": 7, "message": message}) for message in messages]
    assert claimlog.durations([*lines, '{"pid": 8}']) == [0.0025]


def test_percentiles_are_nearest_rank() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile(values, 1) == 100
    assert percentile([3.0], 0.01) == 3
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_figure_is_held_against_those_just_before_and_after_it() -> None:
    fast, slow = [100.0, 100.0, 300.0], [10.0, 30.0, 10.0]
    assert beside([90.0, 18.0], fast + slow, 0, 3) == 0.9
    assert beside([150.0, 20.0], fast + slow, 1, 3) == 0.875
    for others in (fast + slow[:2], []):
        with pytest.raises(LookupError):
            beside([90.0, 18.0], others, 0, 3)
    with pytest.raises(LookupError):
        beside([], [], 0, 3)


def test_windows_count_starts_per_second_and_leave_out_the_last_part() -> None:
    assert windows([0.5, 10.1, 10.2, 11.0, 12.5], 10.0, 1.0) == [2.0, 1.0]
    assert windows([10.1, 10.3, 10.6, 11.1], 10.0, 0.5) == [4.0, 2.0]
    assert windows([], 0.0, 1.0) == []


def measurement(
    value: float, contestant: str = "pgqueue", faults: tuple[str, ...] = ()
) -> Measurement:
    return Measurement("drain", contestant, "1 x 100", "rate", "jobs/s", (value,), faults)


def test_a_case_without_a_result_is_kept_with_its_fault() -> None:
    collector = Collector("drain")
    collector.add("a", "x", "rate", "jobs/s", 1.0)
    collector.fault("b", "x", "1 ran more than once")
    found = {m.contestant: m for m in collector.measurements()}
    assert found["a"].median == 1.0
    assert found["b"].median is None
    assert found["b"].faults == ("1 ran more than once",)
    assert [from_json(m.as_json()) for m in found.values()] == list(found.values())
    assert "ran more than once" in report.text(list(found.values()))


def test_targets_are_met_not_met_or_not_measured() -> None:
    target = Target(
        "a / b",
        2,
        lambda f: f.get("drain", "pgqueue", "1 x 100") / f.get("drain", "bare", "1 x 100"),
    )
    assert target.row(Figures([])) == ("a / b", None, "at least 2", "not measured")
    for own, verdict in ((20.0, "met"), (19.0, "not met")):
        figures = Figures([measurement(own), measurement(10.0, "bare")])
        assert target.row(figures)[1:] == (own / 10, "at least 2", verdict)
    most = Target("c", 5, lambda _: 6.0, at_most=True, unit="ms")
    assert most.row(Figures([])) == ("c", 6.0, "at most 5 ms", "not met")


def test_the_page_has_every_target_every_figure_and_what_it_means() -> None:
    about = {"at": "now", "scale": "full", "cpus": 2, "cpu": "a cpu", "python": "3", "missing": {"rq": "no Redis"},
             "postgres": {"fsync": "on"}, "versions": {"pgqueue": "1"}}  # fmt: skip
    found = {
        "drain": {
            "about": about,
            "measurements": [measurement(12_345.6), measurement(3.14159, "bare")],
        }
    }
    page = report.page(found, {"drain": "What it means."})
    for expected in (
        "12,346",
        "3.14",
        "What it means.",
        "not measured",
        "Left out: rq (no Redis)",
        "fsync on",
    ):
        assert expected in page


def test_samples_are_counted_at_the_innermost_place_that_is_known() -> None:
    stacks = """run (uvloop/loop.pyx);run_once (pgqueue/worker/exchange.py);decode (pgqueue/operations/claims.py) 3
run (uvloop/loop.pyx);run_once (pgqueue/worker/exchange.py);fetch (asyncpg/connection.py);send (libc.so) 5
run (uvloop/loop.pyx);epoll_wait (libc.so) 900
run (threading.py);wait (threading.py) 70"""
    assert profile.places(stacks) == {
        "rows to jobs, jobs to values": 3, "asyncpg: encode, send, receive, decode": 5,
    }  # fmt: skip
