"""Another session holds a snapshot while jobs are worked off: nothing that dies can be vacuumed away.

First without one, then for minutes with a session in REPEATABLE READ that has read once. The figure is the rate in
windows of a second; queues on PostgreSQL fall here without end when each claim walks what died. `claim` is how long
the statement runs that claims (and records what ended before), of one in twenty of them, as the server logs it; looks
behind the cursors are claims as well.
"""

from __future__ import annotations

import sys
import time

import psycopg

from benchmarks.claimlog import ClaimLog
from benchmarks.long import fill, rates, steadiness
from benchmarks.measurement import Collector, Measurement, percentile
from benchmarks.stage import Stage

MOST_RATE = 45_000


def measure(stage: Stage) -> list[Measurement]:
    collector = Collector("snapshot")
    for name in stage.among("pgqueue"):
        _case(stage, collector, name, stage.size(60, 5, 1), stage.size(600, 15, 2))
    return collector.measurements()


def _case(stage: Stage, collector: Collector, name: str, clean: float, held: float) -> None:
    jobs = MOST_RATE * (int(clean) + int(held) + 1)
    with stage.run(name, jobs) as run:
        fill(stage, run, "due", jobs)
        stage.calm(run)
        run.close_gate()
        log = ClaimLog(stage.postgres, run.database)
        run.start(1, 100)
        run.gather(1)
        opened = run.open_gate()
        log.take()
        time.sleep(clean)
        with psycopg.connect(stage.postgres.of(run.database)) as holder:
            holder.execute("set transaction isolation level repeatable read")
            holder.execute("select count(*) from pgqueue.queues")
            begun, claims_before = time.monotonic(), log.take()
            time.sleep(held * 9 / 10)
            claims_held = log.take()
            time.sleep(held / 10)
        ended, claims_last = time.monotonic(), log.take()
        run.stop()
        tally = run.tally()
    ended = min(ended, max(tally.starts))
    before = rates(tally.starts, opened, begun)
    during = rates(tally.starts, begun, ended)
    last = during[-max(len(during) // 10, 1) :]
    if tally.repeated or not before or not during:
        collector.fault(
            name, "held", f"{tally.repeated} jobs ran more than once, or none was timed"
        )
        return
    for case, found, claims in (
        ("before", before, claims_before),
        ("held", during, claims_held + claims_last),
        ("held, last tenth", last, claims_last),
    ):
        _add(collector, name, case, found, claims)
    collector.add(name, "held", "held for", "s", ended - begun)
    print(f"  snapshot: {name}: {steadiness(before)[0]:,.0f} jobs/s before, "
          f"{steadiness(last)[0]:,.0f} at the end of {ended - begun:.0f} s", file=sys.stderr)  # fmt: skip


def _add(
    collector: Collector, name: str, case: str, found: list[float], claims: list[float]
) -> None:
    usual, slowest = steadiness(found)
    collector.add(name, case, "rate", "jobs/s", usual)
    collector.add(name, case, "slowest 5 % of seconds", "jobs/s", slowest)
    for metric, share in (("claim p50", 0.5), ("claim p99", 0.99)) if claims else ():
        collector.add(name, case, metric, "ms", 1000 * percentile(claims, share))
