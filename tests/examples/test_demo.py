"""``make demo`` as a user sees it: to its end, and stopped in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import eventually, heed_interrupts

RUN = [sys.executable, "-u", "-m", "examples.shop.demo"]


def children_of(session: int) -> list[int]:
    """Processes that the demo, started as leader of a session, began and that still live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"DEMO_TEST={session}".encode() in environ.split(b"\0"):
                found.append(int(entry.name))
    return found


def start(*arguments: str) -> subprocess.Popen[str]:
    mark = str(os.getpid())
    return subprocess.Popen(
        [*RUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "DEMO_TEST": mark, "COLUMNS": "120"}, start_new_session=True,
        preexec_fn=heed_interrupts,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def embedded_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGQUEUE_DSN", raising=False)


def others() -> set[int]:
    return set(children_of(os.getpid())) - {os.getpid()}


def test_to_its_end() -> None:
    demo = start("--orders", "14")
    printed, _ = demo.communicate(timeout=90)
    assert demo.returncode == 0, printed
    for line in (
        "13 orders committed with 3 jobs each, 1 rolled back",
        "All done: 38 succeeded, 1 dead",
        "none of the 1 rolled back orders left a trace",
        "each for a tick of its own",
        "came back from the dead and succeeded",
    ):
        assert line in printed
    assert "FAIL" not in printed
    assert others() == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle(number: signal.Signals) -> None:
    demo = start()
    assert demo.stdout is not None
    for line in demo.stdout:
        if "worker processes under pid" in line:
            break
    demo.send_signal(number)
    rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, rest
    assert "nothing is left behind" in rest
    assert "Traceback" not in rest
    eventually(lambda: others() == set())
