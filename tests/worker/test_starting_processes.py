"""Signals to all processes of a worker while those of its process pool start."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from pgqueue.worker.processes import SIGNALS, _Spawning, _start_child
from tests.processes import Workers
from tests.support import eventually, statuses
from tests.worker import apps
from tests.worker.test_ends import descendants, workers  # noqa: F401  a fixture

MOMENTS = [0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3]


def _child(begun: Any) -> None:
    _start_child(None, begun)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    begun.send_bytes(repr(sorted(mask & set(SIGNALS))).encode())


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
def test_a_process_is_not_ended_by_a_signal_while_it_starts(number: signal.Signals) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    context = _Spawning()
    for moment in MOMENTS:
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(writer,))
        process.start()
        writer.close()
        time.sleep(moment)
        os.kill(process.pid or 0, number)
        # It came to work, and what it starts itself can be ended.
        assert reader.recv_bytes() == b"[]", f"after {moment} s"
        process.join()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
@pytest.mark.parametrize("moment", [0.0, 0.05, 0.15])
def test_a_worker_ends_and_fails_no_job(
    workers: Workers,  # noqa: F811
    conn: psycopg.Connection,
    number: signal.Signals,
    moment: float,
) -> None:
    jobs = [apps.nap_process.with_max_retries(0).enqueue(0.0).id for _ in range(4)]
    process = workers.start("--grace", "20s")
    # The tracker of resources is the first of its processes; those of the pool come after it.
    eventually(lambda: len(descendants(process.pid)) > 1)
    time.sleep(moment)
    for pid in [process.pid, *descendants(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    assert process.wait(30) == 0
    # Those that were given back run again elsewhere: none has failed, and none is still held.
    found = conn.execute("select outcome, error from pgqueue.attempts").fetchall()
    assert [row for row in found if row[0] in ("retry", "dead", "crashed")] == []
    assert set(statuses(conn)) == set(jobs)
    assert set(statuses(conn).values()) <= {"succeeded", "pending"}
