"""What breaks, and when: each kind once in every round, in an order of the seed's."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psycopg

from tests.chaos.fleet import Fleet
from tests.chaos.server import Server
from tests.faults.proxy import Mode, Proxy

KINDS = (
    "kill", "stop", "term", "backends", "restart", "drop_replies", "blackhole", "delay", "reset",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """One that happened, in seconds since the epoch. ``since``: recovery counts from here.

    That is the moment it struck; where nothing can get through while it lasts, the moment it ended.
    It began at ``began`` and was over at ``over``. ``workers`` are the worker ids it struck.
    """

    kind: str
    what: str
    since: float
    workers: tuple[str, ...] = ()
    began: float = 0.0
    over: float = 0.0


class Faults:
    """Strikes a fleet, its server and the network between them."""

    def __init__(
        self, server: Server, proxy: Proxy, fleet: Fleet, *, lease: float, lasting: float, seed: int
    ) -> None:
        self._server, self._proxy, self._fleet = server, proxy, fleet
        self._lease, self._lasting = lease, lasting
        self._random = random.Random(f"{seed} faults")
        self._round: list[Callable[[], Fault]] = []

    def next(self) -> Fault:
        """Strike once; returns when the fault itself is over."""
        if not self._round:
            self._round = [getattr(self, kind) for kind in KINDS]
            self._random.shuffle(self._round)
        began = time.time()
        fault = self._round.pop()()
        return replace(fault, began=began, over=time.time())

    def kill(self) -> Fault:
        """SIGKILL a worker, or the supervisor with its workers to follow."""
        pid = self._random.choice(sorted({*self._fleet.workers(), *self._fleet.leaders()}))
        workers, now = self._ids([pid]), time.time()
        self._fleet.send(pid, signal.SIGKILL)
        return Fault("kill", f"SIGKILL of {pid}", now, workers)

    def stop(self) -> Fault:
        """Freeze a worker for longer than its lease, then let it go on."""
        pid = self._random.choice(self._fleet.workers())
        workers, now = self._ids([pid]), time.time()
        if self._fleet.send(pid, signal.SIGSTOP):
            time.sleep(self._lease * self._random.uniform(1.2, 1.8))
            self._fleet.send(pid, signal.SIGCONT)
        return Fault("stop", f"SIGSTOP of {pid} for {time.time() - now:.1f} s", now, workers)

    def term(self) -> Fault:
        """A deploy: SIGTERM of a process, started again when it has ended."""
        pid, now = self._random.choice(self._fleet.leaders()), time.time()
        self._fleet.send(pid, signal.SIGTERM)
        return Fault("term", f"SIGTERM of {pid}", now)

    def backends(self) -> Fault:
        """Half of the connections of workers and jobs end at the server."""
        now = time.time()
        with psycopg.connect(self._server.dsn, autocommit=True) as conn:
            ended = conn.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where application_name = 'pgqueue' and random() < 0.5"
            ).fetchone()
        return Fault("backends", f"pg_terminate_backend of {ended[0]}", now)  # type: ignore[index]

    def restart(self) -> Fault:
        """SIGQUIT of the server, which starts again."""
        now = time.time()
        self._server.crash()
        return Fault("restart", f"server away for {time.time() - now:.1f} s", now)

    def drop_replies(self) -> Fault:
        """Statements are carried out, their answers never come."""
        return self._cut("drop_replies")

    def blackhole(self) -> Fault:
        """Nothing comes through either way; the connections stay open, and dead."""
        return self._cut("blackhole")

    def delay(self) -> Fault:
        """Every answer comes late."""
        delay, lasting = self._random.uniform(0.05, 0.5), self._time()
        self._proxy.delay = delay
        time.sleep(lasting)
        self._proxy.delay = 0.0
        return Fault("delay", f"answers {delay:.2f} s late for {lasting:.1f} s", time.time())

    def reset(self) -> Fault:
        """Every connection is reset."""
        count, now = self._proxy.connections, time.time()
        self._proxy.reset()
        return Fault("reset", f"{count} connections reset", now)

    def _cut(self, mode: Mode) -> Fault:
        lasting = self._time()
        self._proxy.mode = mode
        time.sleep(lasting)
        self._proxy.mode = "pass"
        return Fault(mode, f"for {lasting:.1f} s", time.time())

    def _time(self) -> float:
        return self._lasting * self._random.uniform(0.5, 1.5)

    def _ids(self, pids: list[int]) -> tuple[str, ...]:
        """The worker ids of processes."""
        with psycopg.connect(self._server.dsn, autocommit=True) as conn:
            rows = conn.execute(
                "select distinct on (pid) id::text from pgqueue.workers where pid = any(%s)"
                " order by pid, started_at desc",
                (pids,),
            ).fetchall()
        return tuple(row[0] for row in rows)
