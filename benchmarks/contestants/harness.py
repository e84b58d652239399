"""The protocol between the suite and a contestant's program. Standard library only.

A contestant is a module with these functions, run as ``python -m benchmarks.contestants.NAME COMMAND``
in an environment of its own:

* ``prepare()``: make the schema in an empty database;
* ``enqueue(numbers, size)``: enqueue these jobs in the recommended way for many;
* ``produce(numbers, size, rate)``: enqueue one after the other, each committed by itself, for each
  number of ``pace(numbers, rate)``, calling ``sent(number)`` after each;
* ``work(concurrency)``: run one worker process until SIGTERM; not needed where the contestant has a ``program``.

Its jobs call ``run(number)`` or ``await arun(number)``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path

from benchmarks.ledger import Ledger

URL = os.environ.get("BENCH_URL", "")
FOLDER = Path(os.environ.get("BENCH_FOLDER", "."))
JOBS = int(os.environ.get("BENCH_JOBS", "0"))
_ledger: Ledger | None = None
_making = threading.Lock()
_sent: list[tuple[int, int]] = []


def _forget() -> None:
    global _ledger
    _ledger = None


os.register_at_fork(after_in_child=_forget)


def _own() -> Ledger:
    global _ledger
    with _making:  # a second one would cut off the file that the first has mapped
        if _ledger is None:
            _ledger = Ledger(FOLDER, JOBS)
        return _ledger


def run(number: int) -> None:
    """The body of every synchronous job."""
    ledger = _ledger or _own()
    if not ledger.open:
        ledger.wait()
    ledger.record(number)


async def arun(number: int) -> None:
    """The body of every asynchronous job."""
    ledger = _ledger or _own()
    if not ledger.open:
        await ledger.await_()
    ledger.record(number)


def padding(size: int) -> str:
    """Makes the arguments ``{"number": n, "data": padding}`` about ``size`` bytes of JSON."""
    return "x" * max(size - 30, 0)


async def pace(numbers: range, rate: float) -> AsyncIterator[int]:
    """The numbers at a steady rate per second; 0: as fast as it goes."""
    start = time.monotonic()
    for position, number in enumerate(numbers):
        if rate:
            await asyncio.sleep(max(start + position / rate - time.monotonic(), 0.0))
        yield number


def sent(number: int) -> None:
    """The commit of this job is known to its producer now."""
    _sent.append((number, time.monotonic_ns()))


def main(name: str) -> None:
    """Carry out the command line for this module: COMMAND and, as JSON, its arguments."""
    module = import_module(name)  # by its own name, so that its jobs are not those of __main__
    command, given = sys.argv[1], json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")
    if "first" in given:
        first = given.pop("first")
        given["numbers"] = range(first, first + given.pop("count"))
    begun = time.monotonic()
    done = getattr(module, command)(**given)
    answer = asyncio.run(done) if asyncio.iscoroutine(done) else done
    seconds = time.monotonic() - begun
    if _sent:
        (FOLDER / f"{os.getpid()}.sent").write_text(json.dumps(_sent))
    print(json.dumps({"seconds": seconds, **(answer or {})}))
