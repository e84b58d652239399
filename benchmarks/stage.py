"""The servers, environments and settings that all runs of one invocation share."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks import environments
from benchmarks.contestants import CONTESTANTS, Contestant
from benchmarks.environments import NoInterpreter
from benchmarks.run import Run
from benchmarks.servers import NO_REDIS, Postgres, Redis
from pgqueue import __version__


@dataclass(slots=True)
class Stage:
    """What a scenario gets: who takes part, how many rounds, small or whole sizes."""

    postgres: Postgres
    redis: Redis | None
    chosen: tuple[str, ...]
    rounds: int | None
    scale: Literal["tiny", "quick", "full"]
    _templates: set[str] = field(default_factory=set)
    _pythons: dict[str, str] = field(default_factory=dict)
    _missing: dict[str, str] = field(default_factory=dict)
    _runs: int = 0

    def size(self, full: float, quick: float, tiny: float | None = None) -> int:
        """The size for the scale asked for."""
        return int(
            {"full": full, "quick": quick, "tiny": quick if tiny is None else tiny}[self.scale]
        )

    def repeat(self, full: int = 3) -> range:
        """The rounds: those asked for, or by scale."""
        return range(self.rounds or (full if self.scale == "full" else 1))

    def among(self, *names: str) -> list[str]:
        """Those of these contestants that were chosen and can run here."""
        return [name for name in names if name in self.chosen and self._ready(name)]

    def _ready(self, name: str) -> bool:
        if name in self._missing:
            return False
        contestant = CONTESTANTS[name]
        try:
            if contestant.store == "redis" and self.redis is None:
                raise NoInterpreter(NO_REDIS)
            self.python(contestant)
        except (NoInterpreter, RuntimeError) as error:
            self._missing[name] = str(error)
            print(f"{name} is left out: {error}", file=sys.stderr)
            return False
        return True

    def python(self, contestant: Contestant) -> str:
        """The interpreter of its environment, made when first asked for."""
        if contestant.checkout:
            return sys.executable
        if contestant.name not in self._pythons:
            self._pythons[contestant.name] = environments.python_of(
                contestant.name, wanted=contestant.python
            )
        return self._pythons[contestant.name]

    @contextmanager
    def run(self, name: str, jobs: int) -> Iterator[Run]:
        """A run of a contestant on an empty store with its schema."""
        contestant = CONTESTANTS[name]
        python = self.python(contestant)
        if contestant.store == "redis":
            assert self.redis is not None
            self.redis.empty()
            with Run(contestant, python, self.redis.url, jobs) as run:
                yield run
            return
        template = f"template_{name}"
        if name not in self._templates:
            self.postgres.execute(f"create database {template}")
            with Run(contestant, python, self.postgres.url(template), jobs) as run:
                run.command("prepare")
            self._templates.add(name)
        self._runs += 1
        database = f"bench_{self._runs}"
        self.postgres.execute(f"create database {database} template {template}")
        try:
            with Run(contestant, python, self.postgres.url(database), jobs) as run:
                run.database = database
                yield run
        finally:
            self.postgres.execute(f"drop database {database} with (force)")

    def calm(self, run: Run) -> None:
        """What autovacuum and the checkpointer would have done, before the clock starts."""
        if run.contestant.store == "postgres":
            self.postgres.execute("vacuum (analyze)", database=run.database)
            self.postgres.execute("checkpoint")

    def buffers(self, run: Run) -> int:
        """Pages read by all that was done in the run's database, in shared buffers or not."""
        if run.contestant.store != "postgres":
            return 0
        statement = (
            f"select blks_hit + blks_read from pg_stat_database where datname = '{run.database}'"
        )
        return int(str(self.postgres.execute(statement)[0][0]))

    def server_pids(self, run: Run) -> list[int]:
        """The server whose work counts for this run."""
        if run.contestant.store == "postgres":
            return [self.postgres.pid]
        assert self.redis is not None
        return [self.redis.pid]

    def about(self) -> dict[str, Any]:
        """Versions and settings."""
        versions = {}
        for name in self.chosen:
            contestant = CONTESTANTS[name]
            if contestant.checkout and name == "pgqueue":
                versions[name] = f"{__version__} (this checkout)"
            elif name not in self._missing and (contestant.checkout or name in self._pythons):
                versions[name] = _version(self.python(contestant), contestant.package)
        return {
            "postgres": self.postgres.settings(),
            "redis": self.redis.version if self.redis else None,
            "python": platform.python_version(),
            "cpus": _cpus(),
            "cpu": _model(),
            "system": platform.platform(),
            "versions": versions,
            "missing": dict(self._missing),
            "scale": self.scale,
            "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        }


def _version(python: str, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=False
    ).stdout.strip()


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def _model() -> str:
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
