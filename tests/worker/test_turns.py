"""Few of a supervisor's processes hand in and claim many jobs at a time; what holds a place stops nobody."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgqueue import App
from pgqueue.job import NewJob
from pgqueue.worker.exchange import MANY
from pgqueue.worker.turns import INHERITED, Turns, among, of_process
from tests.processes import Workers
from tests.support import eventually_async, statuses, working
from tests.worker import turned

LOCK = "import fcntl, sys; fcntl.lockf({}, {}, 1, 0); print('held', flush=True); sys.stdin.read()"
FOR_EVER = 3600.0


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = os.memfd_create("turns")
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def hold(file: int) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts processes that hold the first place."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", LOCK.format(file, "fcntl.LOCK_EX")], pass_fds=(file,),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Watched(Turns):
    """Tells that it found no place."""

    refused = False

    def _free(self) -> int | None:
        place = super()._free()
        self.refused = self.refused or place is None
        return place


def is_free(file: int) -> bool:
    """For another process than this one, even one that would share it."""
    program = [sys.executable, "-c", LOCK.format(file, "fcntl.LOCK_SH | fcntl.LOCK_NB")]
    done = subprocess.run(
        program, pass_fds=(file,), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return done.returncode == 0


async def begin(turns: Turns) -> None:
    async with turns.turn():
        pass


async def test_a_turn_begins_when_the_holder_of_the_place_is_killed(
    file: int, hold: Callable[[], subprocess.Popen[str]]
) -> None:
    holder, turns = hold(), Watched(file, 1, patience=FOR_EVER)
    turn = asyncio.create_task(begin(turns))
    await eventually_async(lambda: turns.refused)
    holder.kill()
    await turn
    assert is_free(file)


async def test_nobody_waits_for_ever(file: int, hold: Callable[[], subprocess.Popen[str]]) -> None:
    hold()
    await begin(Turns(file, 1, patience=0.01))


async def test_a_turn_takes_the_place_that_is_free(
    file: int, hold: Callable[[], subprocess.Popen[str]]
) -> None:
    hold()
    await begin(Turns(file, 2, patience=FOR_EVER))


async def test_a_process_keeps_its_place_when_another_turn_of_its_own_ends(file: int) -> None:
    turns = Turns(file, 1, patience=0.0)
    async with turns.turn():
        await begin(turns)
        assert not is_free(file)
    assert is_free(file)


async def test_a_file_that_was_closed_means_no_turns() -> None:
    turns = Turns(-1 + 2**20, 3, patience=FOR_EVER)
    await begin(turns)
    assert turns.places == 0


def test_they_are_the_supervisor_s_own(monkeypatch: pytest.MonkeyPatch, file: int) -> None:
    """What another process left in the environment, as for a job that starts workers itself, is none of ours."""
    for parent, places in ((os.getpid(), 0), (os.getppid(), 3)):
        monkeypatch.setenv(INHERITED, f"{parent}:{file}:3")
        of_process.cache_clear()
        assert of_process().places == places
    monkeypatch.delenv(INHERITED)
    of_process.cache_clear()
    assert of_process().places == 0


def test_there_are_places_for_twice_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INHERITED, "of a supervisor above")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with among(4) as inherited:
        assert (inherited, os.environ.get(INHERITED)) == ((), None)
    with among(5) as inherited:
        (descriptor,) = inherited
        assert os.environ[INHERITED] == f"{os.getpid()}:{descriptor}:4"
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, 0)


async def test_a_worker_hands_in_many_jobs_in_its_turn_only(
    app: App, conn: psycopg.Connection, file: int, hold: Callable[[], subprocess.Popen[str]]
) -> None:
    app.task(name="t")(lambda: None)
    holder, turns = hold(), Watched(file, 1, patience=FOR_EVER)
    async with working(app, concurrency=MANY) as runtime:
        runtime.exchanges[0]._turns = turns
        ids = await app.aclient.insert([NewJob("t", "{}")] * 3 * MANY)
        await eventually_async(lambda: turns.refused)
        assert "succeeded" not in statuses(conn).values()
        holder.kill()
        await eventually_async(lambda: statuses(conn) == dict.fromkeys(ids, "succeeded"))


async def test_a_worker_with_few_jobs_waits_for_nobody(
    app: App, conn: psycopg.Connection, file: int, hold: Callable[[], subprocess.Popen[str]]
) -> None:
    app.task(name="t")(lambda: None)
    hold()
    async with working(app, concurrency=MANY // 5) as runtime:
        runtime.exchanges[0]._turns = Turns(file, 1, patience=FOR_EVER)
        ids = await app.aclient.insert([NewJob("t", "{}")] * 3 * MANY)
        await eventually_async(lambda: statuses(conn) == dict.fromkeys(ids, "succeeded"))


def test_the_processes_of_a_supervisor_have_them(dsn: str, conn: psycopg.Connection) -> None:
    turned.app.use(dsn=dsn)
    places = 2 * len(os.sched_getaffinity(0))
    workers = Workers(dsn, "tests.worker.turned:app")
    try:
        workers.start("--workers", str(places + 1))
        assert turned.places.enqueue().result(timeout=60) == (places, True)
    finally:
        workers.end()
        turned.app.close()
