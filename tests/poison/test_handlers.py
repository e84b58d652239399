"""Handlers that change the process they run in: the worker goes on, and can be stopped."""

from __future__ import annotations

import psycopg
import pytest

from tests.poison import tasks
from tests.processes import Workers
from tests.support import eventually, statuses

DEEDS = {
    "close_streams": [tasks.bad_thread, tasks.bad_async, tasks.bad_process],
    "cwd": [tasks.bad_thread, tasks.bad_async, tasks.bad_process],
    "signals": [tasks.bad_async, tasks.bad_process],
}


@pytest.mark.parametrize("deed", DEEDS)
def test_the_worker_goes_on(workers: Workers, ledger: psycopg.Connection, deed: str) -> None:
    first = [task.enqueue().id for task in (tasks.good, tasks.good_process)]
    for task in DEEDS[deed]:
        task.enqueue(deed)
    process = workers.start()
    eventually(lambda: set(statuses(ledger).values()) == {"succeeded"})
    failing = tasks.bad_async.enqueue("hostile str").id  # what fails is logged
    later = [task.enqueue().id for task in (tasks.good, tasks.good_thread, tasks.good_process)]
    eventually(lambda: {statuses(ledger)[i] for i in later} == {"succeeded"})
    eventually(lambda: tasks.app.client.attempts(failing))
    ran = [row[0] for row in ledger.execute("select job from ledger order by job").fetchall()]
    assert ran == sorted(first + later)

    def ended() -> bool:
        process.terminate()  # heard as soon as the handlers are put back
        return process.poll() is not None

    eventually(ended)
    assert process.returncode == 0
