"""One run of one contestant on a store of its own: enqueue, start workers, count, stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import ledger, processes
from benchmarks.contestants import Contestant
from benchmarks.ledger import GATE, Tally

ROOT = Path(__file__).parents[1]
LOOK = 0.01
LOOK_AT_MANY = 0.05  # each look is at the ledgers of all processes
STALLED = 15.0
STOP_WAIT = 20.0


class Failed(Exception):
    """A contestant's program ended with an error."""


class Run:
    """The store, the folder of ledgers and the processes of one contestant; gone with the block."""

    def __init__(self, contestant: Contestant, python: str, url: str, jobs: int) -> None:
        self.contestant, self.jobs = contestant, jobs
        self.database = ""
        memory = Path("/dev/shm")
        self.folder = Path(
            tempfile.mkdtemp(prefix="bench-", dir=memory if memory.is_dir() else None)
        )
        self._python = python
        self._environ = {
            **os.environ, "BENCH_URL": url, "BENCH_FOLDER": str(self.folder), "BENCH_JOBS": str(jobs),
            "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        self._log = (self.folder / "log").open("wb")
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, name: str, **given: Any) -> dict[str, Any]:
        """Run a command of the adapter to its end; returns its answer.

        Raises:
            Failed: it ended with an error; the end of its log is in the message.
        """
        done = subprocess.run(
            self._arguments(name, given), env=self._environ, stdout=subprocess.PIPE,
            stderr=self._log, cwd=ROOT, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise Failed(f"{self.contestant.name} {name} failed: {self.log()}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def enqueue(self, count: int, *, first: int = 0, size: int = 64, **given: Any) -> float:
        """Enqueue jobs in bulk; the seconds it took, without starting Python."""
        answer = self.command("enqueue", first=first, count=count, size=size, **given)
        return float(answer["seconds"])

    def start(self, workers: int, concurrency: int, **given: Any) -> None:
        """Start worker processes."""
        if self.contestant.supervises:
            self._spawn("work", {"concurrency": concurrency, "workers": workers, **given})
        else:
            for _ in range(workers):
                self._spawn("work", {"concurrency": concurrency, **given})

    def produce(
        self, count: int, rate: float, *, first: int = 0, size: int = 64, **given: Any
    ) -> subprocess.Popen[bytes]:
        """Start a producer: one job after the other, ``rate`` a second, 0 for as fast as it goes."""
        job = {"first": first, "count": count, "size": size, "rate": rate}
        return self._spawn("produce", {**job, **given})

    def _spawn(self, name: str, given: dict[str, Any]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._arguments(name, given), env=self._environ, stdout=self._log, stderr=self._log,
            cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        self._started.append(process)
        return process

    def _arguments(self, name: str, given: dict[str, Any]) -> list[str]:
        program = self.contestant.program
        if name == "work" and program is not None:
            more = [f"--{option}={given[option]}" for option in ("concurrency", "workers")]
            return [self._python, *program, *more, *given.get("options", ())]
        module = f"benchmarks.contestants.{self.contestant.name}"
        return [self._python, "-m", module, name, json.dumps(given)]

    @property
    def pids(self) -> list[int]:
        """The processes started here that are alive; their children are below them."""
        return [process.pid for process in self._started if process.poll() is None]

    def close_gate(self) -> None:
        """Jobs that start from now on wait until the gate is opened."""
        (self.folder / GATE).touch()

    def gather(self, workers: int, patience: float = 60.0) -> None:
        """Wait at the closed gate until every worker process holds a job, or no more come."""
        deadline, moved, seen = time.monotonic() + patience, time.monotonic(), 0
        while seen < workers and time.monotonic() < deadline:
            now = len(list(self.folder.glob("*.runs")))
            if now != seen:
                seen, moved = now, time.monotonic()
            if seen and time.monotonic() - moved > STALLED:
                return
            self.check()
            time.sleep(LOOK)

    def open_gate(self) -> float:
        """Let the jobs go; the moment of it, in seconds of CLOCK_MONOTONIC."""
        (self.folder / GATE).unlink()
        return time.monotonic()

    def wait(self, count: int, seconds: float) -> bool:
        """Wait until ``count`` jobs have started; False when time is up or none has started for long."""
        deadline, before = time.monotonic() + seconds, -1
        moved = time.monotonic()
        progress = ledger.Progress(self.folder, self.jobs)
        pause = LOOK if count < ledger.MANY else LOOK_AT_MANY
        while time.monotonic() < deadline and time.monotonic() - moved < STALLED:
            done = progress.started(count)
            if done >= count:
                return True
            if done != before:
                before, moved = done, time.monotonic()
            self.check()
            time.sleep(pause)
        return False

    def warm_up(self, first: int, count: int, **given: Any) -> None:
        """Let the workers do these jobs before anything is timed, so that they are up.

        Raises:
            Failed: they did not within 60 s.
        """
        self.enqueue(count, first=first, **given)
        if not self.wait(count, 60.0):
            raise Failed(f"{self.contestant.name} did not start within 60 s: {self.log()}")

    def check(self) -> None:
        """Raise Failed when one of the processes has ended with an error."""
        for process in self._started:
            if process.poll() not in (None, 0):
                raise Failed(
                    f"{self.contestant.name} ended with {process.returncode}: {self.log()}"
                )

    def log(self) -> str:
        """The end of what the programs wrote."""
        self._log.flush()
        return (self.folder / "log").read_text(errors="replace")[-1500:].strip()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the processes started here and all below them."""
        for pid in processes.tree(self.pids):
            os.kill(pid, number)

    def forget(self) -> None:
        """Wait for the processes that were killed and think no more of them."""
        for process in self._started:
            process.wait()
        self._started.clear()

    def stop(self) -> None:
        """SIGTERM, then after a while SIGKILL, to what was started here."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_WAIT
        for process in self._started:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def tally(self) -> Tally:
        """What the jobs wrote so far."""
        return ledger.read(self.folder, self.jobs)

    def sent(self) -> dict[int, float]:
        """When each job's commit was known to its producer, in seconds of CLOCK_MONOTONIC."""
        stamps: dict[int, float] = {}
        for path in self.folder.glob("*.sent"):
            stamps.update({number: at / 1e9 for number, at in json.loads(path.read_text())})
        return stamps
