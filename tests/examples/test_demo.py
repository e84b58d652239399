"""``make demo`` as a user sees it: to its end, and stopped in the middle."""

from __future__ import annotations

import os
import re
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
        env={**os.environ, "DEMO_TEST": mark, "COLUMNS": "80"}, start_new_session=True,
        preexec_fn=heed_interrupts,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def embedded_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGQUEUE_DSN", raising=False)


def others() -> set[int]:
    return set(children_of(os.getpid())) - {os.getpid()}


def test_to_its_end() -> None:
    demo = start("--orders", "30")
    printed, _ = demo.communicate(timeout=110)
    assert demo.returncode == 0, printed
    for line in (
        "28 orders committed with 3 jobs each, 2 rolled back",
        "a worker dies with",
        "All done: 81 succeeded, 3 dead",
        "28 orders x 3 jobs = 84 jobs = 81 succeeded + 3 dead",
        "every order exactly once",
        "2 orders rolled back left no job, no mail, no call and no invoice",
        "25 receipts delivered, 3 are dead letters",
        "jobs of the killed worker",
        "attempt 4",
        "each for a tick of its own",
        "3 refunds booked and paid once each",
        "came back from the dead and succeeded",
        "You have seen",
    ):
        assert line in printed
    assert re.search(r"all +0 +0 +0 +81 +3 +\d+", printed)
    assert re.search(r"MailboxUnavailable +1 +\d+", printed)  # dead letters by task and error
    assert re.search(r"Dead +2 +\d+", printed)
    bar, done = printed.index("84/84 jobs"), printed.index("All done")
    assert bar < done
    assert "FAIL" not in printed
    before, _, _ = printed.partition("$ pgqueue job")
    assert "Traceback" not in before
    assert max(map(len, before.splitlines())) <= 80
    assert others() == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("said", ["Starting an embedded PostgreSQL", "worker processes under pid"])
def test_stopped_in_the_middle(number: signal.Signals, said: str) -> None:
    demo = start()
    rest = stopped_at(said, demo, number)
    assert demo.returncode == 130, rest
    assert "nothing is left behind" in rest
    assert "Traceback" not in rest
    eventually(lambda: others() == set())


def test_stopped_while_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    demo = start()
    rest = stopped_at("import 'psycopg'", demo, signal.SIGINT)
    assert demo.returncode == 130, rest
    assert "nothing is left behind" in rest
    assert "Traceback" not in rest
    assert "Starting" not in rest


def stopped_at(said: str, demo: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send the signal when the demo has said this; what it says then."""
    assert demo.stdout is not None
    for line in demo.stdout:
        if said in line:
            break
    demo.send_signal(number)
    rest, _ = demo.communicate(timeout=60)
    return rest
