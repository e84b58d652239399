"""Breaks everything under load and counts what was lost or done twice: ``python -m tests.chaos``."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import schema
from tests.chaos import ledger, recovery, report, server
from tests.chaos.faults import Fault, Faults
from tests.chaos.fleet import Fleet
from tests.chaos.operators import Operators
from tests.chaos.producers import Producers
from tests.faults.proxy import Proxy

STALLED = 120.0
SAY_EVERY = 5.0
MOST_BEHIND = 20_000
UNFINISHED = (
    "select count(*) from (select from pgqueue.jobs where status in ('blocked', 'pending', 'running')"
    f" limit {2 * MOST_BEHIND}) unfinished"
)
WORKERS = "select count(*) from pgqueue.workers"
FINISHED = "select count(*) from (select from chaos.outcomes limit 1) one"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    add = parser.add_argument
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    length.add_argument("--jobs", type=int, help="go on until so many jobs are committed")
    length.add_argument("--faults", type=int, help="go on until so many faults have struck")
    add("--rate", type=float, default=1500.0, help="jobs enqueued per second")
    add("--alone", type=int, default=2, help="worker processes on their own")
    add("--supervised", type=int, default=2, help="worker processes under a supervisor")
    add("--concurrency", type=int, default=100, help="jobs at once in each")
    add("--lease", type=float, default=5.0, help="seconds")
    add("--gap", type=float, default=6.0, help="mean seconds between two faults")
    add("--calm", type=float, default=6.0, help="seconds of load before the first fault")
    add("--lasting", type=float, default=3.0, help="mean seconds of network faults")
    add("--fsync", choices=["on", "off"], default="on")
    add("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    add("--logs", type=Path, help="folder to keep the workers' logs in")
    add("--json", action="store_true", help="one JSON object on the last line")
    return parser.parse_args()


class Run:
    """One run: servers and processes start, things break, the rest is worked off, accounts are made."""

    def __init__(self, chosen: argparse.Namespace, logs: Path) -> None:
        self.chosen, self.logs = chosen, logs
        self.faults: list[Fault] = []
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f} s  {text}", flush=True)

    def run(self) -> dict[str, Any]:
        chosen = self.chosen
        self.say(f"seed {chosen.seed}")
        settings = {"fsync": chosen.fsync, "shared_buffers": "512MB", "max_wal_size": "4GB",
                    "max_connections": "400"}  # fmt: skip
        with server.running(settings) as database:
            prepare(database.dsn)
            parts = conninfo_to_dict(database.dsn)
            with Proxy(str(parts["host"]), int(str(parts["port"]))) as proxy:
                gave_up, batches = self._load(database, proxy)
            self.say("reading the ledger")
            tally = report.Tally(
                ledger.histories(batches, ledger.read(database.dsn)),
                ledger.Faults(self.faults, chosen.lease),
            )
            finished = recovery.finished_per_tenth(database.dsn)
            return report.report(
                tally, self.faults, finished,
                calm=recovery.throughput(finished, self.calm_from, self.calm_until),
                ended=time.time(), lease=chosen.lease, gave_up=gave_up,
                settings={**shown(chosen), **server_settings(database.dsn)},
            )  # fmt: skip

    def _load(self, database: server.Server, proxy: Proxy) -> tuple[list[str], list[Any]]:
        chosen = self.chosen
        through = make_conninfo(database.dsn, host="127.0.0.1", port=proxy.port)
        producers = Producers((through, database.dsn), rate=chosen.rate, jobs=chosen.jobs,
                              lease=chosen.lease, seed=chosen.seed)  # fmt: skip
        flags = [
            "--lease", f"{chosen.lease}s", "--concurrency", str(chosen.concurrency),
            "--grace", f"{chosen.lease}s", "--keep-succeeded", "forever", "--log-level", "warning",
        ]  # fmt: skip
        fleet = Fleet(through, alone=chosen.alone, supervised=chosen.supervised, options=flags,
                      logs=self.logs)  # fmt: skip
        with fleet:
            self._until(database.dsn, WORKERS, chosen.alone + chosen.supervised)
            producers.start()
            operators = Operators(through, seed=chosen.seed)
            operators.start()
            try:
                self._break(Faults(database, proxy, fleet, lease=chosen.lease,
                                   lasting=chosen.lasting, seed=chosen.seed),
                            producers, database.dsn)  # fmt: skip
            finally:
                producers.stop()
                operators.stop()
            self._drain(database.dsn)
        return fleet.gave_up, producers.batches

    def _break(self, faults: Faults, producers: Producers, dsn: str) -> None:
        chosen = self.chosen
        self._until(dsn, FINISHED, 1)
        self.calm_from = time.time() + 1.0
        self._watch(producers, dsn, chosen.calm + 1.0)
        self.calm_until = time.time()
        gaps, until = random.Random(f"{chosen.seed} gaps"), time.monotonic() + chosen.minutes * 60
        while not producers.done:
            if chosen.faults is not None and len(self.faults) >= chosen.faults:
                return
            if chosen.jobs is None and chosen.faults is None and time.monotonic() >= until:
                return
            fault = faults.next()
            self.faults.append(fault)
            self.say(f"{producers.committed:>9,} jobs committed  {fault.kind}: {fault.what}")
            self._watch(producers, dsn, chosen.gap * gaps.uniform(0.5, 1.5))

    def _until(self, dsn: str, counting: str, wanted: int) -> None:
        """Wait for a count to be reached: the workers are there, the first job is finished."""
        until = time.monotonic() + STALLED
        while count(dsn, counting) < wanted:
            if time.monotonic() > until:
                raise TimeoutError(f"never came to {wanted}: {counting}; see --logs")
            time.sleep(0.1)

    def _watch(self, producers: Producers, dsn: str, seconds: float) -> None:
        """Wait; hold the producers while the workers are far behind."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.5)
            producers.held = count(dsn, UNFINISHED) >= MOST_BEHIND

    def _drain(self, dsn: str) -> None:
        """Wait until every job is finished, or none is for two minutes."""
        least, since = sys.maxsize, time.monotonic()
        said = 0.0
        while left := count(dsn, UNFINISHED):
            now = time.monotonic()
            if left < least:
                least, since = left, now
            if now - said > SAY_EVERY:
                said = now
                self.say(f"{left:,} jobs to be finished")
            if now - since > STALLED:
                return
            time.sleep(0.5)


def prepare(dsn: str) -> None:
    """The schema, and the ledger with its trigger."""
    schema.upgrade(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute((Path(__file__).parent / "ledger.sql").read_bytes())


def count(dsn: str, statement: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(statement.encode()).fetchone()
    return int(row[0])  # type: ignore[index]


def shown(chosen: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(chosen).items() if name not in ("json", "logs")}


def server_settings(dsn: str) -> dict[str, Any]:
    names = ("server_version", "fsync", "synchronous_commit")
    with psycopg.connect(dsn) as conn:
        return {n: conn.execute(f"show {n}".encode()).fetchone()[0] for n in names}  # type: ignore[index]


def main() -> int:
    """Print progress, a table and, with --json, one object; 1 when something that must be 0 is not."""
    chosen = options()
    with tempfile.TemporaryDirectory(prefix="pgqueue-chaos-") as folder:
        logs = chosen.logs or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        result = Run(chosen, logs).run()
    print(report.table(result))
    wrong = report.failed(result)
    print("not 0: " + ", ".join(wrong) if wrong else "nothing lost, nothing twice")
    if chosen.json:
        print(json.dumps(result))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
