"""The supervisor, in this process, with children that do nothing."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pgqueue.worker.supervisor import MARK, Supervisor


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
    supervisor = Supervisor([sys.executable, "-c", "import time; time.sleep(600)"], 1)
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
    supervisor = Supervisor([sys.executable, "-c", "import time; time.sleep(600)"], 2)
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
