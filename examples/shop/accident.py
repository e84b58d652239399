"""A worker killed in the middle of its jobs, and what became of these."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import psutil
import psycopg

BUSIEST = """
select w.pid, w.id, count(*) from pgqueue.jobs j join pgqueue.workers w on w.id = j.worker_id
 where j.status = 'running' group by w.pid, w.id order by count(*) desc limit 1
"""
STILL_ITS_OWN = "select id from pgqueue.jobs where worker_id = %s and status = 'running'"
CONNECTED = "select from pg_stat_activity where client_port = any (%s)"
CRASHED = "select distinct job_id from pgqueue.attempts where outcome = 'crash'"
NOT_FINISHED = """
select count(*) from pgqueue.jobs where id = any (%s) and status not in ('succeeded', 'dead')
"""


@dataclass
class Accident:
    """A killed worker process and the jobs it held at its death."""

    pid: int
    jobs: set[int] = field(default_factory=set)

    def came_back(self, conn: psycopg.Connection[Any]) -> bool:
        """Were its jobs, and no others, taken back, and did they end after all?"""
        again = {row[0] for row in conn.execute(CRASHED)}
        left = conn.execute(NOT_FINISHED, [list(self.jobs)]).fetchone()
        return self.jobs <= again and left == (0,)


def kill_the_busiest(conn: psycopg.Connection[Any]) -> Accident | None:
    """``kill -9`` the worker process with most jobs; None if no job is running."""
    found = conn.execute(BUSIEST).fetchone()
    if found is None:
        return None
    pid, worker, _ = found
    os.kill(pid, signal.SIGSTOP)
    ports = [c.laddr.port for c in psutil.Process(pid).net_connections("tcp")]
    os.kill(pid, signal.SIGKILL)
    # What it had sent is still carried out; only then is it known what it held.
    while conn.execute(CONNECTED, [ports]).fetchone() is not None:
        time.sleep(0.01)
    return Accident(pid, {row[0] for row in conn.execute(STILL_ITS_OWN, [worker])})
