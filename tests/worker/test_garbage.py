"""How often a worker process collects garbage; an application's own choice stays."""

from __future__ import annotations

import subprocess
import sys

import psycopg
import pytest

from pgqueue.worker.garbage import YOUNG
from tests.processes import Workers
from tests.worker import collected

PROGRAM = """
import gc
{before}
from pgqueue.worker.garbage import collect_less_often
collect_less_often()
print(*gc.get_threshold())
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "10000"), ("gc.set_threshold(5000, 7)", "5000 7"), ("gc.set_threshold(0)", "0")],
    ids=["usual", "chosen", "off"],
)
def test_the_usual_threshold_is_raised_and_a_chosen_one_stays(before: str, after: str) -> None:
    program = [sys.executable, "-c", PROGRAM.format(before=before)]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith(after)


def test_a_worker_process_does_so(dsn: str, conn: psycopg.Connection) -> None:
    collected.app.use(dsn=dsn)
    workers = Workers(dsn, "tests.worker.collected:app")
    try:
        workers.start()
        assert collected.threshold.enqueue().result(timeout=60) == YOUNG
    finally:
        workers.end()
        collected.app.close()
