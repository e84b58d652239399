"""The supervisor, in this process, with children that do nothing."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgqueue import App, Worker
from pgqueue.worker.supervisor import (
    MARK,
    MOST_WAIT,
    MOST_WAIT_AT_WORK,
    Child,
    Supervisor,
    ended,
)
from tests.support import eventually


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signal handlers and the mark in the environment, which a supervisor sets, go back."""
    monkeypatch.setenv(MARK, "0")
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_signals_that_meet_it_as_it_begins_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a lock of the main thread's own would never be free again."""
    supervisor = Supervisor([sys.executable, "-c", "import time; time.sleep(600)"], 1, grace=20.0)
    for module, name in ((threading.Condition, "wait"), (select, "select")):
        original = getattr(module, name)

        def met(*args: Any, original: Any = original) -> Any:
            if supervisor._children[0].process is not None:
                signal.raise_signal(signal.SIGCHLD)
                signal.raise_signal(signal.SIGTERM)
            return original(*args)

        monkeypatch.setattr(module, name, met)
    assert supervisor.run() == 0


def test_a_signal_while_a_child_is_started_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor([sys.executable, "-c", "import time; time.sleep(600)"], 2, grace=20.0)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def interrupted(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **options))
        if len(started) == 2:
            signal.raise_signal(signal.SIGTERM)
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    assert supervisor.run() == 0
    assert [process.returncode for process in started] == [-signal.SIGTERM] * 2


def test_a_child_that_stands_still_is_killed_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ended by SIGSTOP or in the kernel it does not see the signals that end it."""
    for name in ("AFTER_GRACE", "AFTER_LAST_RESORT", "HURRIED"):
        monkeypatch.setattr(f"pgqueue.worker.supervisor.{name}", 0.1)
    still = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    supervisor = Supervisor([sys.executable, "-c", still], 1, grace=0.0)
    child = supervisor._children[0]

    def stop_it() -> None:
        pid = eventually(lambda: child.process and child.process.pid)
        eventually(lambda: ") T " in Path(f"/proc/{pid}/stat").read_text())
        supervisor.stop()

    threading.Thread(target=stop_it, daemon=True).start()
    assert supervisor.run() == 0
    assert "did not end in time: killing it" in caplog.text


def test_the_quarantine_beside_a_worker_is_not_killed_before_the_grace_time_is_over() -> None:
    worker = Worker(App("postgresql:///nowhere"), grace="1h")
    worker._choose_place([sys.executable, "-c", ""])
    assert worker._beside is not None
    worker._beside.stop()
    supervisor = worker._beside._supervisor
    supervisor._wake.close()
    assert supervisor._kill_at > time.monotonic() + 3600


@pytest.mark.parametrize("where", ["at the start", "at a restart"])
@pytest.mark.parametrize("number", [errno.ENOENT, errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_child_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str, number: int
) -> None:
    supervisor = Supervisor([sys.executable, "-c", ""], 2, grace=20.0)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen
    refusals = iter([True, True] if where == "at the start" else [False, False, True, True])

    def refused(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        if next(refusals, False):
            raise OSError(number, os.strerror(number))
        started.append(popen(*args, **options))
        if len(started) == 4:
            signal.raise_signal(signal.SIGTERM)
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", refused)
    assert supervisor.run() == 0
    assert len(started) == 4
    assert all(process.poll() is not None for process in started)
    lines = [r.getMessage() for r in caplog.records if "could not be started" in r.message]
    assert len(lines) == 2
    assert all(os.strerror(number) in line and "trying again in" in line for line in lines)


def test_waits_for_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    """Of one that dies at once and again: longer and longer, but not when it had come to work."""
    for at_work, longest in ((False, MOST_WAIT), (True, MOST_WAIT_AT_WORK)):
        child = Child([sys.executable, "-c", ""], "worker 1")
        waits = []
        for _ in range(12):
            child.start()
            assert child.process is not None
            child.process.wait()
            child.heard()
            child._at_work = at_work
            child.died(1)
            waits.append(child.start_at - time.monotonic())
        assert waits == sorted(waits) or waits[-1] > longest - 1
        assert longest - 0.5 < waits[-1] <= longest


@pytest.mark.parametrize(("code", "words"), [
    (-9, "was killed by SIGKILL"), (7, "ended with code 7"), (0, "though it was not told to"), (-300, "code -300"),
])  # fmt: skip
def test_ends_in_words(code: int, words: str) -> None:
    assert words in ended(code)
